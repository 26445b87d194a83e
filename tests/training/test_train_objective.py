"""What training can do beyond the paper's recipe, each switch by itself."""

import json
import resource

import pytest
import torch
from safetensors import safe_open

from exiflang.data.augmentation import Augmentation
from exiflang.models.model import ExifLang
from exiflang.training.config import TrainConfig
from exiflang.training.loop import train
from exiflang.training.losses import batch_loss, contrastive_loss, sigmoid_loss
from exiflang.training.run_folder import TrainingError
from tests.training.test_loop import CAMERAS, SIZE, Photos, photo, same_weights, settings, small_model, timeless


class Views(Photos):
    """Two patches of each photo: of the same camera, with other noise."""

    def __getitem__(self, index):
        (first, sentence), (second, _) = photo(index, self.epoch), photo(index, self.epoch + 1000)
        return torch.stack([first, second]), sentence


def unit(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


# The loss of a batch


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_weighted_sum_of_its_parts(weight):
    image, text, same = unit(6, 3, 4), unit(6, 4), torch.tensor([0, 1, 2, 1, 3, 4])
    scale = torch.tensor(7.0, dtype=torch.float64)
    exif = sum(contrastive_loss(image[:, view], text, scale, same) for view in range(3)) / 3
    between = sum(contrastive_loss(image[:, 0], image[:, view], scale, same) for view in (1, 2)) / 2
    found = batch_loss(image, text, scale, sentence=same, image_weight=weight)
    torch.testing.assert_close(found, (1 - weight) * exif + weight * between, rtol=1e-12, atol=0)


def test_a_bias_makes_it_the_sigmoid_loss():
    image, text, same = unit(5, 1, 4), unit(5, 4), torch.arange(5)
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-10.0, dtype=torch.float64)
    found = batch_loss(image, text, scale, bias, sentence=same, image_weight=0.0)
    torch.testing.assert_close(found, sigmoid_loss(image[:, 0], text, scale, bias))


def test_contrast_between_views_needs_a_second_one(tmp_path):
    with pytest.raises(ValueError, match="image_weight needs a data set with two views"):
        train(small_model(), Photos(), settings(image_weight=0.5), tmp_path)


# Each switch in a run


def test_views_are_all_used(tmp_path):
    one = train(small_model(), Photos(), settings(), tmp_path / "one")
    two = train(small_model(), Views(), settings(), tmp_path / "two")
    both = train(small_model(), Views(), settings(image_weight=0.5), tmp_path / "both")
    assert len({row["loss"] for row in (one[0], two[0], both[0])}) == 3
    assert both[-1]["loss"] < both[0]["loss"]


def test_the_sigmoid_loss_learns_its_bias(tmp_path):
    model = small_model(logit_bias=-10.0)
    log = train(model, Photos(), settings(loss="sigmoid", steps=8), tmp_path)
    assert log[-1]["loss"] < log[0]["loss"] and model.logit_bias.item() != -10
    assert torch.equal(ExifLang.from_pretrained(str(tmp_path)).logit_bias, model.logit_bias)


@pytest.mark.parametrize(("loss", "bias"), [("sigmoid", None), ("infonce", -10.0)])
def test_a_loss_that_does_not_fit_the_model(tmp_path, loss, bias):
    with pytest.raises(ValueError, match="needs a model whose configuration has a logit_bias"):
        train(small_model(logit_bias=bias), Photos(), settings(loss=loss), tmp_path)


def test_averaged_weights_are_the_result(tmp_path):
    """One step: the average starts at the first step's weights. Two: it lies between the first's and the second's."""
    first, second, averaged = small_model(), small_model(), small_model()
    constant = {"schedule": "constant_with_warmup", "warmup_steps": 0}
    train(first, Photos(), settings(steps=1, **constant), tmp_path / "first")
    train(second, Photos(), settings(steps=2, **constant), tmp_path / "second")
    train(averaged, Photos(), settings(steps=2, ema=0.75, **constant), tmp_path / "averaged")
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            expected = 0.75 * first.state_dict()[name] + 0.25 * second.state_dict()[name]
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    assert same_weights(ExifLang.from_pretrained(str(tmp_path / "averaged")), averaged)


def stay_in_evaluation(part: torch.nn.Module, _: tuple) -> None:
    """Whatever `train` says: in training mode, chunks are the batches of batch norm."""
    part.eval()


def test_chunks_change_batch_norm_alone(tmp_path):
    whole, chunked, one = (small_model() for _ in range(3))
    for model in (whole, chunked, one):
        model.config.text_config["dropout"] = 0.0
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
            if isinstance(part, torch.nn.BatchNorm2d):
                part.register_forward_pre_hook(stay_in_evaluation)
    log = train(whole, Photos(), settings(steps=3), tmp_path / "whole")
    for model, size in ((chunked, 3), (one, 1)):
        found = train(model, Photos(), settings(steps=3, chunk_size=size), tmp_path / str(size))
        assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in log], rel=1e-4)
        assert [row["grad_norm"] for row in found] == pytest.approx([row["grad_norm"] for row in log], rel=1e-3)


def test_augmentation_cuts_and_tells(tmp_path):
    class Seen(Augmentation):
        told: list = []

        def __call__(self, patches, sentences, seed, process=0):
            done, told = super().__call__(patches, sentences, seed, process)
            self.told.append((seed, process, done.shape, told))
            return done, told

    augmentation = Seen((8,), processing_probability=1.0, resize=0.0, recompress=1.0, common_jpeg=0.0)
    photos = Enlarged(augmentation.source_size)
    log = train(small_model(), photos, settings(steps=2), tmp_path, augmentation=augmentation)
    assert len(log) == 2 and [told[:2] for told in Seen.told] == [((3, 1), 0), ((3, 2), 0)]
    assert all(shape == (8, 3, 8, 8) and all("Recompressed: " in s for s in told) for *_, shape, told in Seen.told)
    with pytest.raises(TrainingError, match="different settings"):
        train(
            small_model(),
            photos,
            settings(steps=2),
            tmp_path,
            augmentation=Seen((8,), processing_probability=0.5, resize=0.0),
        )


class Enlarged(Photos):
    """Patches of another size."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def __getitem__(self, index):
        patch, sentence = super().__getitem__(index)
        return patch.repeat(1, -(-self.size // SIZE), -(-self.size // SIZE))[:, : self.size, : self.size], sentence


def test_a_sampler_gives_the_order(tmp_path):
    class Backwards(torch.utils.data.Sampler):
        epochs: list = []

        def __iter__(self):
            return iter(reversed(range(30)))

        def __len__(self):
            return 30

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    class Asked(Photos):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    asked: list[int] = []
    train(small_model(), Asked(), settings(steps=4), tmp_path, sampler=Backwards())
    assert asked[:24] == list(range(29, 5, -1)) and set(Backwards.epochs) == {0, 1}


# Choosing a step


def test_the_best_step_is_kept_and_so_is_the_last(tmp_path):
    scores, seen = iter([0.2, 0.9, 0.4]), []

    def validate(model: ExifLang) -> float:
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    model = small_model()
    log = train(model, Photos(), settings(steps=5, validate_every=2), tmp_path, validate=validate)
    assert [row.get("validation") for row in log] == [None, 0.2, None, 0.9, 0.4]
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    last = ExifLang.from_pretrained(str(tmp_path / "last")).state_dict()
    assert all(torch.equal(value, seen[2][name]) for name, value in last.items())
    plain = train(small_model(), Photos(), settings(steps=5), tmp_path / "plain")
    assert [row["loss"] for row in plain] == [row["loss"] for row in log]  # judging leaves no trace


def test_a_resumed_run_remembers_the_best(tmp_path):
    class Stop(Exception):
        pass

    def validate(scores):
        def score(model):
            if not scores:
                raise Stop
            return scores.pop(0)

        return score

    config = settings(steps=4, validate_every=1, ema=0.5)
    expected = small_model()
    log = train(expected, Photos(), config, tmp_path / "whole", validate=validate([0.1, 0.8, 0.3, 0.2]))
    with pytest.raises(Stop):
        train(small_model(), Photos(), config, tmp_path / "run", validate=validate([0.1, 0.8]))
    resumed = small_model(seed=5)
    assert timeless(train(resumed, Photos(), config, tmp_path / "run", validate=validate([0.3, 0.2]))) == timeless(log)
    assert same_weights(resumed, expected)


# What goes wrong


def test_the_batch_of_a_broken_step_is_kept(tmp_path):
    model = small_model()
    model.image_projection.weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="bad_batch.safetensors"):
        train(model, Photos(), settings(), tmp_path)
    with safe_open(tmp_path / "bad_batch.safetensors", "pt") as file:
        patches, notes = file.get_tensor("patches"), file.metadata()
    assert patches.shape == (8, 1, 3, SIZE, SIZE) and patches.dtype == torch.uint8 and notes["step"] == "1"
    assert set(json.loads(notes["sentences"])) <= set(CAMERAS) and len(json.loads(notes["sentences"])) == 8


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    """A limit on the size of files stands for the disk: what torch and safetensors write is larger, the log is not."""
    config, expected = settings(steps=4), small_model()
    log = train(expected, Photos(), config, tmp_path / "whole")

    class Fills(Photos):
        def __getitem__(self, index):
            if (tmp_path / "run" / "checkpoint").exists():
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            return super().__getitem__(index)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(TrainingError, match="cannot be written .*checkpoint is intact; free some disk space"):
            train(small_model(), Fills(), config, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resumed = small_model()
    assert timeless(train(resumed, Photos(), config, tmp_path / "run")) == timeless(log)
    assert same_weights(resumed, expected)


def test_tensorboard_gets_the_log(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = train(small_model(), Photos(), settings(steps=3, tracker="tensorboard"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in events] == [1, 2, 3]
    assert [event.value for event in events] == pytest.approx([row["loss"] for row in log])


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_weight", 1.5), ("ema", -0.1), ("checkpoint_minutes", -1.0), ("loss", "triplet"), ("tracker", "mlflow")],
)
def test_settings_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=f"{name} is"):
        TrainConfig(**{name: value})
