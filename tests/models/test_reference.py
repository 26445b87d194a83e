import math
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import DistilBertConfig, DistilBertModel, DistilBertTokenizer

from exiflang.exif.reference import reference_sentence
from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.reference import convert, load_tokenizer, read_reference_checkpoint
from tests.models.test_model import patches

# ResNet-50, reimplemented with torchvision's names: stride in the 3 x 3, batch norm after each convolution


class Bottleneck(nn.Module):
    def __init__(self, seen: int, width: int, stride: int, first: bool):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(seen, width, 1, bias=False), nn.BatchNorm2d(width, eps=1e-5)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=1e-5)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width, eps=1e-5)
        if first:
            convolution = nn.Conv2d(seen, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * width, eps=1e-5))
        else:
            self.downsample = nn.Identity()

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64, eps=1e-5)
        seen = 64
        for number, depth in enumerate((3, 4, 6, 3)):
            width, blocks = 64 << number, []
            for block in range(depth):
                blocks.append(Bottleneck(seen, width, 2 if number and not block else 1, first=not block))
                seen = 4 * width
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, 768)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def random_resnet() -> ResNet50:
    resnet = ResNet50().eval()
    for part in resnet.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.num_batches_tracked.fill_(73_000)
            for values in (part.running_var, part.weight.data):
                values.uniform_(0.5, 1.5)
            for values in (part.running_mean, part.bias.data):
                values.normal_(std=0.1)
    return resnet


@pytest.fixture(scope="module")
def towers() -> tuple[ResNet50, DistilBertModel]:
    torch.manual_seed(0)
    return random_resnet(), DistilBertModel(DistilBertConfig()).eval()


@pytest.fixture(scope="module")
def pruned(towers) -> dict[str, torch.Tensor]:
    """The layout without the prefix "model." and without leftovers."""
    visual, transformer = ({f"{side}.{key}": value for key, value in tower.state_dict().items()}
                           for side, tower in zip(("visual", "transformer"), towers, strict=True))  # fmt: skip
    return visual | transformer | {"logit_scale": torch.tensor(math.log(100))}


@pytest.fixture(scope="module")
def authors(pruned) -> dict[str, torch.Tensor]:
    """The layout of `wrapper_75_new.pth`."""
    leftovers = {
        "positional_embedding": torch.zeros(77, 8),
        "ln_final.weight": torch.ones(8),
        "ln_final.bias": torch.zeros(8),
        "token_embedding.weight": torch.zeros(5, 8),
        "text_projection": torch.zeros(8, 4),
        "transformer.embeddings.position_ids": torch.arange(512)[None],
    }
    state = {f"model.{key}": value for key, value in (pruned | leftovers).items()}
    return OrderedDict(state | {"sink_temp": torch.ones(1)})


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "make", "model", "canon", ":", ",", "x", "##x", "1", "##1"]
    (folder / "vocab.txt").write_text("\n".join(words))
    DistilBertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(authors, tokenizer_folder, tmp_path_factory) -> ExifLang:
    path = tmp_path_factory.mktemp("authors") / "wrapper_75_new.pth"
    torch.save({"epoch": 51, "model": authors, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}}, path)
    return ExifLang.from_reference_checkpoint(path, tokenizer_folder)


@pytest.fixture(scope="module")
def like() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return ExifLang(ExifLangConfig.preset("paper")).state_dict()


def test_pictures_are_embedded_as_by_the_torchvision_network(model, towers):
    picture = patches(2, 124)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = (picture / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected, found = F.normalize(towers[0](pixels), dim=1), model.encode_image(picture)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found[0] - found[1]).norm() > 1e-3


def test_sentences_are_embedded_as_by_distilbert(model, towers):
    tags = {"Exif IFD0.Make": "Canon", "Model": "x11 x11"}
    sentences = ["Make: Canon", reference_sentence(tags), "Make: Canon, " * 40]
    with torch.no_grad():
        found = model.encode_exif(["Make: Canon", tags, "Make: Canon, " * 40])
        for sentence, embedding in zip(sentences, found, strict=True):
            tokens = model.tokenizer([sentence], padding="max_length", max_length=200, return_tensors="pt")
            hidden = towers[1](tokens["input_ids"], tokens["attention_mask"]).last_hidden_state[0]
            mean = hidden[tokens["attention_mask"][0] == 1].mean(0)
            torch.testing.assert_close(embedding, mean / mean.norm(), rtol=0, atol=1e-5)


def test_the_converted_model_has_the_papers_settings(model):
    assert not any(part.training for part in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.sentence_version == 0 and model.config.patch_size == 124
    assert model.logit_scale.item() == pytest.approx(100) and not model.log_logit_scale.requires_grad


def test_the_converted_model_survives_a_round_trip(model, tmp_path):
    picture, tags = patches(1, 40), [{"Make": "Canon"}, {"X Resolution": "72/1"}]
    model.save_pretrained(tmp_path)
    loaded = ExifLang.from_pretrained(str(tmp_path))
    assert loaded.config.sentence_version == 0
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(picture), model.encode_image(picture))
        torch.testing.assert_close(loaded.encode_exif(tags), model.encode_exif(tags))
    for file in tmp_path.glob("*token*"):
        file.unlink()
    silent = ExifLang.from_pretrained(str(tmp_path))
    assert silent.tokenizer is None
    with torch.no_grad():
        torch.testing.assert_close(silent.encode_image(picture), model.encode_image(picture))
    with pytest.raises(ValueError, match="no tokenizer: set model.tokenizer .* distilbert-base-uncased"):
        silent.encode_exif(tags)


# Names


def empty(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same names and shapes, without using memory."""
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in weights.items()}


def test_both_layouts_are_the_same_weights(pruned, authors, like):
    one, other = convert(pruned, like), convert(authors, like)
    assert one.keys() == other.keys() and all(one[name] is other[name] for name in one)
    left = like.keys() - one.keys()
    assert "log_logit_scale" in left and all(
        name.endswith("num_batches_tracked") for name in left - {"log_logit_scale"}
    )


def test_half_precision_is_converted_to_float32(pruned, like):
    found = convert({key: value.half() for key, value in empty(pruned).items()}, like)
    assert {value.dtype for value in found.values()} == {torch.float32}


FC, NORM = "visual.fc.weight", "visual.layer1.0.bn1.running_mean"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual.attnpool.weight": torch.ones(1)}, r"unexpected: visual\.attnpool\.weight"),
        ({"visual.layer1.1.downsample.0.weight": torch.ones(1)}, r"unexpected: visual\.layer1\.1\.downsample"),
        ({"model.epoch": torch.ones(1)}, r"unexpected: model\.epoch"),
        ({f"model.{FC}": torch.ones(768, 2048)}, rf"unexpected: model\.{FC}"),
        ({5: torch.ones(1)}, "unexpected: 5"),
        ({FC: None}, r"missing \(in our naming\): image_projection\.weight"),
        ({FC: [1.0]}, f"not a tensor of floats: {FC}"),
        ({FC: torch.ones(768, 2048, dtype=torch.int8)}, f"not a tensor of floats: {FC}"),
        ({FC: torch.ones(1000, 2048)}, rf"wrong shape: {FC} \[1000, 2048\] instead of \[768, 2048\]"),
        ({NORM: torch.full((64,), math.nan)}, f"NaN or infinite values in {NORM}"),
        ({NORM: torch.full((64,), math.inf).half()}, f"NaN or infinite values in {NORM}"),
        ({NORM: torch.full((64,), 1e300, dtype=torch.float64)}, f"NaN or infinite values in {NORM}"),
    ],
)
def test_the_error_names_mismatched_weights(pruned, like, changes, message):
    changed = {key: value for key, value in (empty(pruned) | changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert(changed, like)


def test_long_lists_of_names_are_shortened_and_counted(pruned, like):
    transformer = {key: value for key, value in empty(pruned).items() if key.startswith("transformer")}
    with pytest.raises(ValueError, match=r"missing .*and 247 more, 267 in all") as error:
        convert(transformer, like)
    assert str(error.value).count("image_tower") + str(error.value).count("image_projection") == 20


# Files


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_file_cannot_run_code(tmp_path, like):
    for name, write in (("zip", torch.save), ("pickle", lambda thing, path: path.write_bytes(pickle.dumps(thing)))):
        write({"model": {"visual.fc.weight": Malicious(tmp_path / "executed")}}, tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: not a checkpoint that can be read safely"):
            read_reference_checkpoint(tmp_path / name, like)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken", b"\x80\x02}q\x00", b"\xff" * 300])
def test_files_that_are_not_checkpoints_are_refused(tmp_path, like, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pth: not a checkpoint that can be read safely: give a complete file"):
        read_reference_checkpoint(tmp_path / "file.pth", like)


def test_a_truncated_file_is_refused(tmp_path, like):
    torch.save({"model": {"x": torch.ones(1000)}}, tmp_path / "file.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "file.pth").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.pth: not a checkpoint that can be read safely"):
        read_reference_checkpoint(tmp_path / "cut.pth", like)


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"model": 5}, [torch.ones(1)], torch.ones(1), {"optimizer": {}}]
)
def test_checkpoints_without_weights_are_refused(tmp_path, like, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth: holds no weights: expected a dict of tensors"):
        read_reference_checkpoint(tmp_path / "file.pth", like)


def test_the_error_names_the_file_with_wrong_weights(tmp_path, like):
    torch.save({"model": {"visual.fc.weight": torch.ones(1)}}, tmp_path / "file.pth")
    with pytest.raises(
        ValueError, match=r"file\.pth: not the weights of the paper's ResNet-50 and DistilBERT: missing"
    ):
        read_reference_checkpoint(tmp_path / "file.pth", like)


def test_missing_files_and_folders_are_refused(tmp_path, like):
    with pytest.raises(FileNotFoundError, match=r"none\.pth: cannot be read \(No such file"):
        read_reference_checkpoint(tmp_path / "none.pth", like)
    with pytest.raises(OSError, match="cannot be read"):
        read_reference_checkpoint(tmp_path, like)


@pytest.mark.parametrize("name", ["distilbert-base-uncased", "./none", "."])
def test_an_unreachable_tokenizer_is_reported(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=rf"^{name}: no tokenizer found: give a folder with tokenizer.json, or a hub id"):
        load_tokenizer(name)
    with pytest.raises(OSError, match="no tokenizer found"):
        ExifLang.from_reference_checkpoint(tmp_path / "none.pth", name)
