import json
import math
import os

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import get_scheduler

from exiflang.models.config import ExifLangConfig
from exiflang.models.model import ExifLang
from exiflang.models.tokenizer import train_tokenizer
from exiflang.training.config import TrainConfig
from exiflang.training.loop import collate, train
from exiflang.training.run_folder import TrainingError
from exiflang.training.step import StepFlops, distinct
from exiflang.utils.hardware import matrix_rate
from exiflang.utils.locks import hold

CAMERAS = [f"Make: {make}, Model: {make} {number}" for make in ("Canon", "Nikon", "Sony") for number in range(4)]
SIZE, CPU = 16, torch.device("cpu")


def photo(index: int, epoch: int) -> tuple[torch.Tensor, str]:
    """A noisy patch whose color tells its camera; another one in each epoch."""
    generator = torch.Generator().manual_seed(1000 * epoch + index)
    camera = index % len(CAMERAS)
    color = torch.tensor([camera % 3, camera // 3 % 3, camera // 9]).view(3, 1, 1) * 90
    noise = torch.randint(0, 40, (3, SIZE, SIZE), generator=generator)
    return (color + noise).to(torch.uint8), CAMERAS[camera]


class Photos(Dataset):
    """A user's own map-style data set."""

    def __init__(self, count: int = 30):
        self.count, self.epoch, self.epochs = count, 0, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return photo(index, self.epoch)


class Stream(IterableDataset):
    """A user's own iterable data set, of no known length and without `set_epoch`."""

    def __init__(self, count: int = 30):
        self.count = count

    def __iter__(self):
        return (photo(7 * index, 0) for index in range(self.count))


def small_model(seed: int = 0, **changes) -> ExifLang:
    """The tiny preset with dropout, so that a resumed run needs the right random numbers too."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(CAMERAS, 300)
    config = ExifLangConfig.preset("tiny", patch_size=SIZE, **changes)
    config.text_config = config.text_config | {"vocab_size": len(tokenizer), "dropout": 0.1}
    return ExifLang(config, tokenizer)


def settings(**changes) -> TrainConfig:
    return TrainConfig(
        **{
            "steps": 5,
            "batch_size": 8,
            "warmup_steps": 2,
            "checkpoint_minutes": 0.0,
            "mixed_precision": "no",  # bfloat16, where a machine is fast in it, rounds what is compared here
            "tracker": "none",
            "seed": 3,
            **changes,
        }
    )


TIMES = ("pairs_per_second", "flops_per_second", "matrix_share")


def timeless(log: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in log]


def same_weights(a: ExifLang, b: ExifLang) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


# What training does


@pytest.mark.parametrize("schedule", ["cosine", "constant_with_warmup"])
def test_the_loss_falls_from_a_guess_to_the_cameras(tmp_path, schedule):
    model = small_model()
    config = settings(steps=60, batch_size=12, learning_rate=1e-2, warmup_steps=5, schedule=schedule)
    log = train(model, Photos(48), config, tmp_path)
    losses = [row["loss"] for row in log]
    assert math.log(12) < losses[0] < 2 * math.log(12)  # untrained, and sure of itself at a scale of 20
    assert sum(losses[-5:]) / 5 < 0.6 * sum(losses[:5]) / 5
    assert not model.training


def test_the_log_and_the_folder(tmp_path, capfd):
    model = small_model()
    log = train(model, Photos(), settings(), tmp_path)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == log
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5]
    keys = ["step", "loss", "lr", "grad_norm", "logit_scale", *TIMES]
    assert all(list(row) == keys and all(math.isfinite(value) for value in row.values()) for row in log)
    assert all(row["grad_norm"] > 0 and row["matrix_share"] > 0 for row in log)
    assert log[0]["logit_scale"] == pytest.approx(20)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("log.jsonl", "train_config.json"),
    }
    assert same_weights(ExifLang.from_pretrained(tmp_path), model)
    bars = capfd.readouterr().err
    assert "train: 100%" in bars and "shards" not in bars


def test_the_log_counts_what_the_model_computes(tmp_path):
    model = small_model()
    for row in train(model, Photos(), settings(steps=3), tmp_path):
        flops = row["flops_per_second"] / row["pairs_per_second"]  # a pair's
        least, most = (StepFlops(model.config)((1, 3, SIZE, SIZE), [(1, tokens)]) for tokens in (1, 9))
        assert least < flops < most
        assert row["flops_per_second"] / row["matrix_share"] == pytest.approx(matrix_rate(CPU, torch.float32))


def test_the_gradient_norm_is_that_before_clipping(tmp_path):
    free = train(small_model(), Photos(), settings(steps=1), tmp_path / "free")
    clipped = train(small_model(), Photos(), settings(steps=1, max_grad_norm=1e-3), tmp_path / "clipped")
    assert free[0]["grad_norm"] == clipped[0]["grad_norm"] > 0.1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup", "constant"])
def test_the_schedule_advances_with_every_batch(tmp_path, schedule):
    config = settings(steps=9, warmup_steps=3, schedule=schedule, learning_rate=1e-3)
    log = train(small_model(), Photos(), config, tmp_path)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    expected = get_scheduler(schedule, optimizer, 3, 9)
    for row in log:
        assert row["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        expected.step()
    if schedule != "constant":
        assert [row["lr"] for row in log[:4]] == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3])
    if schedule == "cosine":  # the last step is the one before zero: (1 + cos(5/6 pi)) / 2
        assert log[-1]["lr"] == pytest.approx(1e-3 * (1 + math.cos(5 / 6 * math.pi)) / 2)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_is_learned_or_fixed(tmp_path, learned):
    log = train(small_model(learn_logit_scale=learned), Photos(), settings(learning_rate=0.01), tmp_path)
    assert (log[-1]["logit_scale"] != log[0]["logit_scale"]) == learned


def test_epochs_follow_each_other_in_another_order(tmp_path):
    photos = Photos(20)
    train(small_model(), photos, settings(steps=5, batch_size=8), tmp_path)  # two whole batches an epoch
    assert sorted(set(photos.epochs)) == [0, 1, 2] and photos.epochs == sorted(photos.epochs)


def test_one_seed_one_result(tmp_path):
    first, second, third = small_model(), small_model(), small_model()
    logs = [
        train(model, Photos(), settings(seed=seed), tmp_path / str(number))
        for number, (model, seed) in enumerate([(first, 3), (second, 3), (third, 4)])
    ]
    assert timeless(logs[0]) == timeless(logs[1]) != timeless(logs[2])
    assert same_weights(first, second) and not same_weights(first, third)


def test_workers_load_the_same_patches(tmp_path):
    alone, helped = small_model(), small_model()
    train(alone, Photos(), settings(steps=4), tmp_path / "0")
    train(helped, Photos(), settings(steps=4, workers=2), tmp_path / "2")
    assert same_weights(alone, helped)


def test_float_patches_are_bytes_divided(tmp_path):
    class Floats(Photos):
        def __getitem__(self, index):
            patch, sentence = super().__getitem__(index)
            return patch.float() / 255, sentence

    as_bytes, as_floats = small_model(), small_model()
    train(as_bytes, Photos(), settings(steps=2), tmp_path / "bytes")
    train(as_floats, Floats(), settings(steps=2), tmp_path / "floats")
    assert same_weights(as_bytes, as_floats)


def test_mixed_precision_keeps_weights_in_single_and_a_process_may_change_it(tmp_path):
    single = train(small_model(), Photos(), settings(), tmp_path / "no")
    model = small_model()
    log = train(model, Photos(), settings(mixed_precision="bf16"), tmp_path / "bf16")
    assert timeless(train(small_model(), Photos(), settings(), tmp_path / "again")) == timeless(single)
    assert log[0]["loss"] == pytest.approx(single[0]["loss"], rel=0.05)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.encode_image(photo(0, 0)[0][None]).dtype == torch.float32


def test_no_steps_save_the_untrained_model(tmp_path):
    model = small_model()
    assert train(model, Photos(), settings(steps=0), tmp_path) == []
    assert same_weights(model, small_model()) and same_weights(ExifLang.from_pretrained(tmp_path), model)
    assert train(small_model(1), Photos(), settings(steps=0), tmp_path) == []


def test_the_papers_configuration_takes_a_step(tmp_path):
    tokenizer = train_tokenizer(CAMERAS, 300)
    config = ExifLangConfig.preset("paper")
    config.text_config = config.text_config | {"vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    model = ExifLang(config, tokenizer)
    before = {side: next(tower.parameters()).clone() for side, tower in model.towers.items()}

    class Large(Photos):
        def __getitem__(self, index):
            return torch.full((3, 124, 124), 40 * index, dtype=torch.uint8), CAMERAS[index]

    recipe = settings(steps=1, batch_size=2, learning_rate=1e-4, beta2=0.98, eps=1e-6, warmup_steps=0)
    (row,) = train(model, Large(2), recipe, tmp_path)
    assert math.isfinite(row["loss"]) and row["grad_norm"] > 0 and row["logit_scale"] == pytest.approx(100)
    assert all(not torch.equal(next(tower.parameters()), before[side]) for side, tower in model.towers.items())


def test_a_finished_run_is_loaded(tmp_path):
    model, photos = small_model(), Photos()
    log = train(model, Photos(), settings(), tmp_path)
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    other = small_model(seed=9)
    other.tokenizer = None
    assert train(other, photos, settings(), tmp_path) == log
    assert same_weights(model, other) and not other.training and photos.epochs == []
    assert torch.equal(other.encode_exif(CAMERAS), model.encode_exif(CAMERAS))
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp
    assert train(model, photos, settings(), tmp_path) == log  # the model that was saved there, once more


# Refusals


def test_other_settings_are_refused(tmp_path):
    class Named(Photos):
        fingerprint = "other photos"

    train(small_model(), Photos(), settings(), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    for model, photos, config in [
        (small_model(), Photos(), settings(learning_rate=0.5)),
        (small_model(embed_dim=16), Photos(), settings()),
        (small_model(), Named(), settings()),
    ]:
        with pytest.raises(TrainingError, match="run with different settings .*choose a different folder, or clear it"):
            train(model, photos, config, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_second_run_in_one_folder_is_refused(tmp_path):
    run = tmp_path / "run"
    with hold(run / ".lock", "", ValueError):
        with pytest.raises(TrainingError, match=rf"run: another run is using it \(process {os.getpid()} on .* another"):
            train(small_model(), Photos(), settings(), run)
        assert [path.name for path in run.iterdir()] == [".lock"]
    train(small_model(), Photos(), settings(), run)
    assert not (run / ".lock").exists()
    with hold(run / ".lock", "", ValueError):  # what is finished is read alone
        train(small_model(), Photos(), settings(), run)


def test_a_folder_whose_name_is_no_utf_8_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"caf\\xe9: not UTF-8.*choose a different folder"):
        train(small_model(), Photos(), settings(), tmp_path / os.fsdecode(b"caf\xe9"))


def test_a_model_of_unknown_origin_is_not_taken_for_a_finished_run(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="choose a different folder"):
        train(small_model(), Photos(), settings(), tmp_path)


@pytest.mark.parametrize("dataset", [Photos(0), Photos(7), Stream(0), Stream(7)])
def test_fewer_photos_than_a_batch(tmp_path, dataset):
    with pytest.raises(TrainingError, match="less than one batch of 8 pairs .*lower batch_size or add photos"):
        train(small_model(), dataset, settings(), tmp_path)
    assert len(train(small_model(), Photos(), settings(), tmp_path)) == 5  # nothing was trained: the folder is free


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = small_model()
    model.image_projection.weight.data[0, 0] = math.nan
    with pytest.raises(TrainingError, match="the loss is nan at step 1; .*: lower learning_rate.*no checkpoint yet"):
        train(model, Photos(), settings(), tmp_path)


def test_a_gradient_that_is_no_number_leaves_the_checkpoint_whole(tmp_path):
    model = small_model()
    calls = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * math.inf if len(calls) == 4 else gradient

    model.image_projection.bias.register_hook(spoil)
    with pytest.raises(TrainingError, match="gradient norm is (inf|nan) at step 4; .*last checkpoint is in"):
        train(model, Photos(), settings(), tmp_path)
    weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
    assert weights.isfinite().all() and (tmp_path / "checkpoint" / "progress.json").exists()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((torch.zeros(3, 4, 4), 5), r"gives \(Tensor, int\): each item must be a pair"),
        (("Make: X", torch.zeros(3, 4, 4)), r"gives \(str, Tensor\)"),
        ((torch.zeros(3, 4, 4),), r"gives \(Tensor\)"),
        (torch.zeros(3, 4, 4), r"gives \(Tensor\)"),
        ({"patch": 1}, r"gives \(dict\)"),
    ],
)
def test_items_that_are_no_pairs(items, message):
    with pytest.raises(TrainingError, match=message):
        collate([(torch.zeros(3, 4, 4), "Make: X"), items])


def test_patches_of_two_sizes():
    with pytest.raises(TrainingError, match=r"different shapes, \[\(3, 4, 4\), \(3, 4, 5\)\]: crop them to one size"):
        collate([(torch.zeros(3, 4, 4), "a"), (torch.zeros(3, 4, 5), "b")])


def test_collate_stacks_and_distinct_numbers_the_sentences():
    patches, sentences = collate([(torch.full((3, 2, 2), i), text) for i, text in enumerate("abcab")])
    assert patches.shape == (5, 3, 2, 2) and sentences == list("abcab")
    different, which = distinct(sentences)
    assert different == ["a", "b", "c"] and which.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", -1), ("steps", 2.5), ("steps", "1e3"), ("batch_size", 1), ("chunk_size", -1), ("workers", -1)],
)
def test_numbers_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}: it must be a whole number"):
        TrainConfig(**{name: value})


def test_a_model_without_tokenizer_is_refused(tmp_path):
    model = small_model()
    model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        train(model, Photos(), settings(), tmp_path)
