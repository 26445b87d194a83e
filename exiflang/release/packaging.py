"""Trained weights -> a release folder: calibrated, float16, with a text bank, a signature reference and a model card.

`python -m exiflang.release --model data/models/base --data data/base --out data/models/exiflang-base` makes the weights
that ship with the package.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from exiflang.headers.collect import collect_signatures
from exiflang.headers.reference import FILE as SIGNATURES
from exiflang.headers.reference import SignatureError, SignatureReference
from exiflang.inspection.pairs import FILE as PAIRS
from exiflang.inspection.pairs import PairRanks
from exiflang.inspection.text_bank import FILE as TEXT_BANK
from exiflang.inspection.text_bank import TextBank, text_bank_of
from exiflang.localization.calibration import calibrate
from exiflang.localization.clustering import READOUTS
from exiflang.localization.learned_readout import FILE as READOUT
from exiflang.localization.learned_readout import LearnedReadout
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.models.model import ExifLang
from exiflang.release.authentic import AuthenticPictures
from exiflang.release.authentic_records import authentic_calibration
from exiflang.release.camera_pairs import camera_pairs
from exiflang.release.model_card import RunRecord, model_card
from exiflang.training.run_folder import RunFolder, settle, swap
from exiflang.utils.commands import RunError
from exiflang.utils.files import read_json
from exiflang.utils.hardware import this_machine
from exiflang.utils.locks import hold

#: The weights are part of the wheel and the repository.
MOST_BYTES = 30_000_000
FILES = {"README.md", "config.json", "model.safetensors", READOUT, SIGNATURES, TEXT_BANK}
FILES |= {PAIRS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


class ReleaseError(RunError):
    """Weights that cannot be released; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Contents:
    """What a release folder holds; signatures, pairs and readout are optional."""

    model: ExifLang
    text_bank: TextBank
    pairs: PairRanks | None
    signatures: SignatureReference | None
    readout: LearnedReadout | None
    card: str

    def save(self, folder: Path) -> None:
        """Write all files. Raises `OSError` or `SafetensorError`."""
        self.model.save_pretrained(str(folder), state_dict=half_weights(self.model))
        (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable only by its owner
        self.text_bank.save(folder)
        if self.signatures:
            self.signatures.save(folder / SIGNATURES)
        if self.pairs:
            self.pairs.save(folder)
        if self.readout:
            self.readout.save(folder)
        (folder / "README.md").write_text(self.card, encoding="utf-8")


@dataclass(frozen=True)
class Released:
    """The result of `release`: the folder, size in bytes, calibration pictures, and those left out with a reason."""

    folder: Path
    size: int
    pictures: int
    left_out: list[tuple[str, str]]


def half_weights(model: ExifLang) -> dict[str, Tensor]:
    """The weights of a float32 model, with kernels and matrices in float16 if that is accurate to a thousandth.

    All other weights stay float32: vectors are few bytes, and batch norm divides by its running variance. So do weights
    that overflow (above 65504), or that are so small that float16 is too coarse for them.
    """
    weights = model.state_dict()
    for name, value in weights.items():
        if value.ndim >= 2 and value.is_floating_point():
            half = value.half()
            if (half.float() - value).abs().max() <= 1e-3 * value.abs().max():
                weights[name] = half
    return weights


def release(
    model_dir: str | Path,
    data_dir: str | Path,
    out: str | Path,
    photos: Sequence[str | Path] = (),
    hardware: str | None = None,
) -> Released:
    """Calibrate the model of a finished training run for all readouts, including the learned one if it has one, and
    write it to `out`: float16, with the text bank of its photos, their header signatures and a model card.

    `from_pretrained` converts it back to float32. The folder is written next to its destination and swapped in: a kill
    or a full disk leaves an older one intact. Equal arguments give equal `config.json` and `model.safetensors` on one
    machine.

    Args:
        model_dir: as written by `train`.
        data_dir: its training data set, as written by `prepare`; the held-out tiles serve for calibration, the
            sentences of its photos for the text bank, the headers of the photos of all its splits for the signatures.
        out: the folder to write; its name becomes the model's.
        photos: folders of whole authentic photos to calibrate on, none of which the model is scored on.
        hardware: training hardware, in words; None: this machine.

    Raises:
        ReleaseError: a file of the run or the data set is missing or damaged, the folder would exceed `MOST_BYTES`,
            holds other files, is in use by another release, or cannot be written.
        DataError: photos or shards that cannot be used.
        OSError, ValueError: `model_dir` holds no model, or one that does not fit its configuration.
    """
    out = Path(out)
    _refuse_other_files(out)
    origin = _origin(Path(model_dir), Path(data_dir), hardware or this_machine())
    model = ExifLang.from_pretrained(str(model_dir))
    model.load_state_dict(half_weights(model))  # calibrated as it will be released
    pictures = AuthenticPictures(photos, Path(data_dir) / "heldout")
    localizer = SpliceLocalizer(model)
    learned = localizer.learned is not None
    _card(out.name, model, origin, pictures, learned)  # reports missing records now, not after minutes of calibration
    model.config.calibration = calibrate(localizer, pictures, sorted(READOUTS))
    if localizer.learned:
        localizer.learned.calibration = authentic_calibration(localizer, pictures.by_camera())
    card = _card(out.name, model, origin, pictures, learned)
    text_bank, signatures = text_bank_of(model, data_dir), _signatures(Path(data_dir))
    pairs = camera_pairs(localizer, pictures.by_camera())
    size = _write(out, Contents(model, text_bank, pairs, signatures, localizer.learned, card))
    return Released(out, size, sum(pictures.counts.values()), pictures.left_out)


def _refuse_other_files(out: Path) -> None:
    """A release replaces all of an existing folder, so refuse one with other files."""
    if not out.exists():
        return
    if not out.is_dir() or (others := sorted({path.name for path in out.iterdir()} - FILES)):
        what = f"holds {others[0]}, which no release writes" if out.is_dir() else "is a file"
        raise ReleaseError(f"{out} {what}: choose another folder, or empty it")


def _origin(model_dir: Path, data_dir: Path, hardware: str) -> RunRecord:
    try:
        dataset, settings = read_json(data_dir / "dataset.json"), read_json(model_dir / "train_config.json")
        return RunRecord(dataset, settings, RunFolder(model_dir).read_log(), hardware)
    except OSError as error:
        advice = "give the folder of a finished training run, and that of its data set"
        raise ReleaseError(f"{error.filename}: cannot be read ({error.strerror}): {advice}") from error
    except ValueError as error:
        raise ReleaseError(f"{data_dir} or {model_dir}: damaged JSON ({error}): prepare or train again") from error


def _card(name: str, model: ExifLang, origin: RunRecord, pictures: AuthenticPictures, readout: bool) -> str:
    try:
        counts, left_out = pictures.counts, len(pictures.left_out)
        return model_card(name, model.config, model.num_parameters(), origin, counts, left_out, readout)
    except (LookupError, TypeError, ValueError) as error:
        files = "dataset.json, train_config.json or log.jsonl"
        advice = "make them again with this version of exiflang"
        raise ReleaseError(f"{files} lacks what the model card needs ({error!r}): {advice}") from error


def _signatures(data_dir: Path) -> SignatureReference | None:
    """The header signatures of a data set; None if no header of its photos is known, as for simulated ones."""
    try:
        return collect_signatures(data_dir)[0]
    except SignatureError:
        return None


def _write(out: Path, contents: Contents) -> int:
    """Write the folder next to its destination, then swap it in; returns its size in bytes."""
    try:
        with hold(out.with_name(f".{out.name}.lock"), str(out), ReleaseError):
            return _write_alone(out, contents)
    except (OSError, SafetensorError) as error:
        raise ReleaseError(f"{out}: cannot be written ({error}): make room, or choose another folder") from error


def _write_alone(out: Path, contents: Contents) -> int:
    fresh = out.with_name(f"{out.name}.new")
    try:
        settle(out)
        contents.save(fresh)
        size = sum(path.stat().st_size for path in fresh.iterdir())
        if size > MOST_BYTES:
            raise ReleaseError(
                f"{out.name} would have {size / 1e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} MB fit into the package: "
                "train a smaller preset"
            )
        swap(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # gone already unless something failed
    return size
