"""The published layouts of splice benchmarks: a folder -> its entries. Each function documents its layout."""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from exiflang.utils.files import printable

#: Kinds of pictures in an index; "other": a forgery of several kinds, or of a kind not listed here.
KINDS = ("authentic", "spliced", "copy-move", "removal", "other")


class BenchmarkError(ValueError):
    """A benchmark cannot be read at all; the message states what is missing and where it belongs."""

    def __init__(self, message: str):
        super().__init__(printable(message))


#: A mask as decoded from its file, uint8 [H, W, 3] -> tampered pixels, bool [H, W].
MaskReader = Callable[[np.ndarray], np.ndarray]


def bright(mask: np.ndarray) -> np.ndarray:
    """Tampered where any channel is above 127: uint8 [H, W, 3] -> bool [H, W].

    Raises BenchmarkError for a mask that has values above 0 but none above 127.
    """
    values = mask.max(axis=2)  # [H, W, 3] -> [H, W]
    brightest = int(values.max())
    if 0 < brightest <= 127:
        raise BenchmarkError(f"the mask's brightest value is {brightest}; write tampered pixels as 255")
    return values > 127


def not_black(mask: np.ndarray) -> np.ndarray:
    """Tampered where any channel is above 0: uint8 [H, W, 3] -> bool [H, W]."""
    return np.any(mask, axis=2)


def dark(mask: np.ndarray) -> np.ndarray:
    """Tampered where no channel is above 127: uint8 [H, W, 3] -> bool [H, W]."""
    return mask.max(axis=2) <= 127


def green(mask: np.ndarray) -> np.ndarray:
    """Tampered where a JPEG was painted (0, 200, 0) or (0, 255, 0): uint8 [H, W, 3] -> bool [H, W].

    The threshold of 100 is halfway from black to the darker green. Next to red, chroma subsampling mixes the two, so
    green only has to be the strongest channel, by 16 to ignore JPEG errors on gray.
    """
    red, level, blue = np.moveaxis(mask.astype(np.int16), 2, 0)
    return (level > 100) & (level > np.maximum(red, blue) + 16)


@dataclass(frozen=True)
class Entry:
    """A picture before it is read. ``problem``: why it cannot be scored, known from the folder alone."""

    name: str  # unique in its benchmark
    image: Path | None
    mask: Path | None = None
    spliced: bool | None = None  # None: determined by the mask
    info: dict[str, str] = field(default_factory=dict)  # recorded facts
    read_mask: MaskReader = bright
    fit_mask: bool = False  # resize the mask to the picture if their sizes differ
    problem: str = ""


def tampered(
    pictures: list[Path], masks: Path, mask_stem: str = "{}", read_mask: MaskReader = bright, kind: str = "spliced"
) -> list[Entry]:
    """Entries of tampered pictures; each mask is in the folder ``masks``, named ``mask_stem`` of the picture's stem.

    Raises BenchmarkError if there are pictures but no such folder.
    """
    if pictures and not masks.is_dir():
        owners, pattern = "/".join(pictures[0].parent.parts[-2:]), mask_stem.format("<stem>")
        raise BenchmarkError(f"{masks}: no such folder; put the masks of {owners} there, e.g. {pattern}.png")
    by_stem, entries = by_stem_of(files(masks)), []
    for path in pictures:
        entry = Entry(path.name, path, spliced=True, info={"kind": kind}, read_mask=read_mask)
        entries.append(with_mask(entry, by_stem, mask_stem.format(path.stem)))
    return entries


def authentic(pictures: list[Path]) -> list[Entry]:
    return [Entry(path.name, path, spliced=False) for path in pictures]


def with_mask(entry: Entry, masks: dict[str, list[Path]], stem: str) -> Entry:
    found = masks.get(stem.casefold(), [])
    if len(found) > 1:
        return replace(entry, problem=f"{len(found)} masks with the same stem, such as {found[0]}; keep one of them")
    if found:
        return replace(entry, mask=found[0])
    if entry.spliced is False:
        return entry
    wanted = f"it as {stem}.*" if entry.spliced else "it (all black for an authentic picture)"
    return replace(entry, problem=f"no mask; add {wanted}")


def checked(entries: list[Entry], root: Path) -> list[Entry]:
    """The entries with unique printable names, and with a problem if a file is outside ``root`` or a mask belongs to
    two pictures."""
    named = Counter(entry.name for entry in entries)
    owners = defaultdict(set)
    for entry in entries:
        if entry.image and entry.mask:
            owners[entry.mask].add(entry.image.stem)
    inside = os.path.join(os.path.realpath(root), "")

    def problem(entry: Entry) -> str:
        for path in (entry.image, entry.mask):
            if path and not os.path.realpath(path).startswith(inside):
                return f"{path}: a link to outside of {root}; put the file itself there"
        if entry.mask and len(owners[entry.mask]) > 1:
            pictures = " and ".join(sorted(owners[entry.mask]))
            return f"{entry.mask}: the mask of both {pictures}; make their names differ by more than case"
        return entry.problem

    apart = [entry if named[entry.name] == 1 else name_by_path(entry, root) for entry in entries]
    return [replace(entry, name=printable(entry.name), problem=problem(entry)) for entry in apart]


def subfolder(folder: Path, *names: str) -> Path:
    """The subfolder with one of these names, case-insensitively; ``folder / names[0]`` if there is none.

    Raises BenchmarkError if there are several.
    """
    wanted = {name.casefold() for name in names}
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in listed if path.name.casefold() in wanted and path.is_dir()]
    if len(found) > 1:
        raise BenchmarkError(f"{folder}: contains both {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else folder / names[0]


def files(folder: Path) -> list[Path]:
    """All but folders and hidden files, by name; non-pictures are included, so that they are reported."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))


def by_stem_of(paths: list[Path]) -> dict[str, list[Path]]:
    by_stem = defaultdict(list)
    for path in paths:
        by_stem[path.stem.casefold()].append(path)
    return dict(by_stem)


def starts_with(path: Path, *starts: str) -> bool:
    return path.name.casefold().startswith(tuple(start.casefold() for start in starts))


def name_by_path(entry: Entry, root: Path) -> Entry:
    """The entry, named by its picture's path relative to ``root``."""
    return replace(entry, name=entry.image.relative_to(root).as_posix()) if entry.image else entry


def _folder(root: Path) -> list[Entry]:
    """``images/<stem>.*`` with ``masks/<stem>.*`` (above 127 = tampered) and, if there is one, ``index.csv``.

    ``index.csv`` has the columns ``name`` (a file name or stem in ``images/``) and ``kind`` (one of ``KINDS``); other
    columns go to ``info``. Pictures listed as authentic need no mask; ``BenchmarkImage.spliced`` is true for all other
    kinds. A row without a picture, a row that contradicts its mask, and an unlisted picture are skipped and reported.

    Without an index, an all-black mask marks an authentic picture. A picture without a mask is skipped rather than
    taken as authentic, because a lost mask would silently turn a splice into an authentic picture.
    """
    pictures = files(subfolder(root, "images"))
    masks = by_stem_of(files(subfolder(root, "masks")))
    if not pictures:
        raise BenchmarkError(f"{root}: no pictures in images/; expected images/, masks/ and optionally index.csv")
    index = root / "index.csv"
    if index.is_file():
        return _indexed(_read_index(index, "name", "kind"), pictures, masks)
    if not masks:
        raise BenchmarkError(f"{root}: has neither masks/ nor index.csv to mark spliced pictures; add one of them")
    return [with_mask(Entry(path.name, path), masks, path.stem) for path in pictures]


def _read_index(path: Path, *needed: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{key: value.strip() for key, value in row.items() if key is not None} for row in reader]
            columns = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise BenchmarkError(f"{path}: not a readable CSV file ({error}); save it as UTF-8 CSV") from error
    if not set(needed) <= set(columns):
        raise BenchmarkError(f"{path}: needs the columns {' and '.join(needed)}, has {', '.join(columns) or 'none'}")
    return rows


def _indexed(rows: list[dict[str, str]], pictures: list[Path], masks: dict[str, list[Path]]) -> list[Entry]:
    # Names are only looked up among the files of images/, never joined to a path, so no row can escape the folder.
    exact = {printable(path.name): [path] for path in pictures}
    any_case = defaultdict(list)
    for picture in pictures:
        for key in {printable(name).casefold() for name in (picture.name, picture.stem)}:
            any_case[key].append(picture)
    times = Counter(row["name"] for row in rows)
    entries, listed = [], set()
    for name, row in {row["name"]: row for row in rows}.items():
        kind = row["kind"]
        found = exact.get(name) or any_case.get(name.casefold(), [])
        path = found[0] if len(found) == 1 else None
        info = {key: value for key, value in row.items() if key != "name"}
        problem = ""
        if path is None:
            problem = f"index.csv: {len(found)} pictures named {name!r} in images/; list it by its file name"
        elif kind not in KINDS:
            problem = f"index.csv: kind is {kind!r}; write one of {', '.join(KINDS)}"
        elif path in listed or times[name] > 1:
            problem = f"index.csv: {name!r} is listed twice; delete one of the rows"
        listed.update(found)
        entry = Entry(name, path, spliced=kind != "authentic", info=info, problem=problem)
        entries.append(entry if path is None or problem else with_mask(entry, masks, path.stem))
    unlisted = [path for path in pictures if path not in listed]
    return entries + [Entry(path.name, path, problem="not listed in index.csv; add a row") for path in unlisted]


def _authentic(root: Path) -> list[Entry]:
    """``images/*``, all authentic, no masks. The other columns of an ``index.csv`` with ``name`` go to ``info``."""
    index = root / "index.csv"
    rows = {row.pop("name"): row for row in _read_index(index, "name")} if index.is_file() else {}
    entries = authentic(files(subfolder(root, "images")))
    return [replace(entry, info=rows.get(Path(entry.name).stem, rows.get(entry.name, {}))) for entry in entries]


def _columbia(root: Path) -> list[Entry]:
    """Columbia: ``4cam_auth/*``, ``4cam_splc/*``, masks ``4cam_splc/edgemask/<stem>_edgemask.jpg``, ``green``."""
    spliced = subfolder(root, "4cam_splc")
    found = tampered(files(spliced), subfolder(spliced, "edgemask"), "{}_edgemask", green)
    return authentic(files(subfolder(root, "4cam_auth"))) + found


def _dso_1(root: Path) -> list[Entry]:
    """DSO-1: ``DSO-1/{normal,splicing}-NN.png``, masks ``DSO-1-Fake-Images-Masks/splicing-NN.png``, ``dark``."""
    pictures = files(subfolder(root, "DSO-1"))
    normal, splicing = ([path for path in pictures if starts_with(path, start)] for start in ("normal-", "splicing-"))
    others = sorted({*pictures} - {*normal, *splicing})
    return [
        *authentic(normal),
        *tampered(splicing, subfolder(root, "DSO-1-Fake-Images-Masks"), "{}", dark),
        *(Entry(path.name, path, problem="named neither normal-* nor splicing-*; remove it") for path in others),
    ]


def _in_the_wild(root: Path) -> list[Entry]:
    """In-the-Wild: ``images/*``, all spliced, masks ``masks/<stem>.png``, ``bright``."""
    return tampered(files(subfolder(root, "images")), subfolder(root, "masks"))


def _realistic_tampering(root: Path) -> list[Entry]:
    """Realistic Tampering: a folder per camera, with ``{pristine,tampered-realistic}/*``, ``ground-truth/<stem>.PNG``.

    Masks are ``not_black``: gray marks incidental changes. ``kind`` is ``authentic`` or ``tampered`` (objects inserted
    or removed). A forgery has the same file name as its original, so names are paths relative to ``root``.
    """
    entries = []
    for camera in ("Canon_60D", "Nikon_D90", "Nikon_D7000", "Sony_A57"):
        folder = subfolder(root, camera)
        forged = files(subfolder(folder, "tampered-realistic"))
        entries += authentic(files(subfolder(folder, "pristine")))
        entries += tampered(forged, subfolder(folder, "ground-truth"), "{}", not_black, kind="tampered")
    return [name_by_path(entry, root) for entry in entries]


def _scene_completion(root: Path) -> list[Entry]:
    """Scene completion (Hays): ``<stem>.*``, all spliced, next to masks ``<stem>_mask.*``, ``bright``.

    The reference code uses any value above 0, which in a JPEG also includes ringing around the region.
    """
    listed = files(root)
    masks = {f"{path.stem.casefold()}_mask" for path in listed}
    return tampered([path for path in listed if path.stem.casefold() not in masks], root, "{}_mask")


_CASIA_NAME = re.compile(
    r"(?:Sp|CM)_(?P<origin>[DS])_(?P<operations>[A-Z]{3})_(?P<shape>[A-Z])"
    r"_(?P<first>[a-z]{3}\d{4})_(?P<second>[a-z]{3}\d{4})_\d+"
)


def _casia_1(root: Path) -> list[Entry]:
    """CASIA 1.0: ``Au/*``, ``Tp/{Sp,CM}/*``, masks ``CASIA 1.0 groundtruth/{Sp,CM}/<stem>_gt.png``, ``bright``.

    ``info``: ``format``; ``kind``: ``authentic``, ``spliced`` or ``copy-move`` (``BenchmarkImage.spliced`` is true for
    the last two); and the codes in a regular name such as ``Sp_D_NRN_A_art0071_art0029_0478``: ``origin`` (D: two
    pictures, S: one), ``operations``, ``shape``, and ``sources``, either of which may be the host.
    """
    entries = authentic(files(subfolder(root, "Au")))
    for folder, kind in (("Sp", "spliced"), ("CM", "copy-move")):
        pictures = files(subfolder(subfolder(root, "Tp"), folder))
        truth = subfolder(subfolder(root, "CASIA 1.0 groundtruth"), folder)
        found = tampered(pictures, truth, "{}_gt", kind=kind)
        entries += [replace(entry, info=entry.info | _casia_codes(Path(entry.name).stem)) for entry in found]
    return entries


def _casia_codes(stem: str) -> dict[str, str]:
    match = _CASIA_NAME.fullmatch(stem)
    if match is None:
        return {}
    codes = match.groupdict()
    codes["sources"] = f"{codes.pop('first')} {codes.pop('second')}"
    return codes


def _casia_2(root: Path) -> list[Entry]:
    """CASIA 2.0: ``Au/*``, ``Tp/*`` (``Tp_S_*``: ``kind`` is ``copy-move``), masks ``<stem>_gt.png``, ``bright``.

    The masks are in ``CASIA 2 Groundtruth`` or ``CASIA2.0_Groundtruth``. ``BenchmarkImage.spliced`` is true for
    both kinds.
    """
    truth = subfolder(root, "CASIA 2 Groundtruth", "CASIA2.0_Groundtruth")
    return authentic(files(subfolder(root, "Au"))) + casia_tampered(files(subfolder(root, "Tp")), truth)


def casia_tampered(pictures: list[Path], masks: Path) -> list[Entry]:
    """``tampered`` for pictures with the kind in their names: CASIA's code S, one source, is a copy-move."""
    by_kind = defaultdict(list)
    for path in pictures:
        by_kind["copy-move" if starts_with(path, "Tp_S_", "Sp_S_", "CM_") else "spliced"].append(path)
    return [entry for kind, paths in by_kind.items() for entry in tampered(paths, masks, "{}_gt", kind=kind)]


#: name -> function that lists a folder; its docstring describes the layout
LAYOUTS: dict[str, Callable[[Path], list[Entry]]] = {
    "folder": _folder,
    "authentic": _authentic,
    "columbia": _columbia,
    "dso_1": _dso_1,
    "in_the_wild": _in_the_wild,
    "realistic_tampering": _realistic_tampering,
    "scene_completion": _scene_completion,
    "casia_1": _casia_1,
    "casia_2": _casia_2,
}
