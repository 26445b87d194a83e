"""The published layouts of splice benchmarks: a folder -> its entries. Each layout's protocol is its docstring."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exiflang.entries import (
    BenchmarkError,
    Entry,
    authentic,
    by_stem_of,
    dark,
    files,
    format_of,
    green,
    not_black,
    path_from,
    starts_with,
    subfolder,
    tampered,
    with_mask,
)


def _folder(root: Path) -> list[Entry]:
    """``images/<stem>.*`` with ``masks/<stem>.*`` (above 127 = foreign) and, if there is one, ``index.csv``.

    ``index.csv`` has the columns ``name`` (a file name or stem in ``images/``) and ``kind`` (``spliced`` or
    ``authentic``); other columns go to ``info``. A picture that it calls authentic needs no mask. A row without its
    picture, a row that its mask contradicts and a picture that no row lists are skipped by name.

    Without an index the mask decides: a mask all black means authentic. A picture without a mask is skipped, never
    taken for authentic, because a lost mask would quietly turn a splice into an authentic picture.
    """
    pictures = files(subfolder(root, "images"))
    masks = by_stem_of(files(subfolder(root, "masks")))
    if not pictures:
        raise BenchmarkError(f"{root}: no pictures in images/; expected images/, masks/ and perhaps index.csv")
    index = root / "index.csv"
    if index.is_file():
        return _indexed(_read_index(index), pictures, masks)
    if not masks:
        raise BenchmarkError(f"{root}: neither masks/ nor index.csv says which pictures are spliced; add one of them")
    return [with_mask(Entry(path.name, path, info={"format": format_of(path)}), masks, path.stem) for path in pictures]


def _read_index(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{key: value.strip() for key, value in row.items() if key is not None} for row in reader]
            columns = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise BenchmarkError(f"{path}: not a readable CSV file ({error}); save it as UTF-8 CSV") from error
    if "name" not in columns or "kind" not in columns:
        raise BenchmarkError(f"{path}: needs the columns name and kind, has {', '.join(columns) or 'none'}")
    return rows


def _indexed(rows: list[dict[str, str]], pictures: list[Path], masks: dict[str, list[Path]]) -> list[Entry]:
    # Names are only looked up among the files of images/, never joined to a path: no row can leave the folder.
    exact = {path.name: [path] for path in pictures}
    any_case = defaultdict(list)
    for path in pictures:
        for key in {path.name.casefold(), path.stem.casefold()}:
            any_case[key].append(path)
    times = Counter(row["name"] for row in rows)
    entries, listed = [], set()
    for name, row in {row["name"]: row for row in rows}.items():
        kind = row["kind"]
        found = exact.get(name) or any_case.get(name.casefold(), [])
        path = found[0] if len(found) == 1 else None
        info = {"format": format_of(path) if path else ""} | {k: v for k, v in row.items() if k != "name"}
        entry = Entry(name, path, spliced=kind == "spliced", info=info)
        if path is None:
            problem = f"index.csv: {len(found)} pictures named {name!r} in images/; list it by its file name"
        elif kind not in ("spliced", "authentic"):
            problem = f"index.csv: kind is {kind!r}; write spliced or authentic"
        elif path in listed or times[name] > 1:
            problem = f"index.csv: {name!r} is listed twice; delete one of the rows"
        else:
            problem = ""
        listed.update(found)
        entries.append(replace(entry, problem=problem) if problem else with_mask(entry, masks, path.stem))
    unlisted = [path for path in pictures if path not in listed]
    return entries + [Entry(path.name, path, problem="not listed in index.csv; add a row") for path in unlisted]


def _columbia(root: Path) -> list[Entry]:
    """Columbia: ``4cam_auth/*``, ``4cam_splc/*``, ``4cam_splc/edgemask/<stem>_edgemask.jpg``, foreign is ``green``."""
    spliced = subfolder(root, "4cam_splc")
    return authentic(files(subfolder(root, "4cam_auth"))) + tampered(
        files(spliced), subfolder(spliced, "edgemask"), "{}_edgemask", green
    )


def _dso_1(root: Path) -> list[Entry]:
    """DSO-1: ``DSO-1/{normal,splicing}-NN.png``, ``DSO-1-Fake-Images-Masks/splicing-NN.png``, foreign is ``dark``."""
    pictures = files(subfolder(root, "DSO-1"))
    normal, splicing = ([path for path in pictures if starts_with(path, start)] for start in ("normal-", "splicing-"))
    others = sorted({*pictures} - {*normal, *splicing})
    return [
        *authentic(normal),
        *tampered(splicing, subfolder(root, "DSO-1-Fake-Images-Masks"), "{}", dark),
        *(Entry(path.name, path, problem="named neither normal-* nor splicing-*; take it away") for path in others),
    ]


def _in_the_wild(root: Path) -> list[Entry]:
    """In-the-Wild: ``images/*``, all spliced, ``masks/<stem>.png``, foreign is ``bright``."""
    return tampered(files(subfolder(root, "images")), subfolder(root, "masks"), "{}")


def _realistic_tampering(root: Path) -> list[Entry]:
    """Realistic Tampering: a folder a camera, in it ``{pristine,tampered-realistic}/*``, ``ground-truth/<stem>.PNG``.

    Foreign is ``not_black``: grey means changed along the way. ``kind`` is ``authentic`` or ``tampered`` (objects put
    in or taken out). A forgery is named as its original, so names are paths from ``root``.
    """
    entries = []
    for camera in ("Canon_60D", "Nikon_D90", "Nikon_D7000", "Sony_A57"):
        folder = subfolder(root, camera)
        forged = files(subfolder(folder, "tampered-realistic"))
        entries += authentic(files(subfolder(folder, "pristine")))
        entries += tampered(forged, subfolder(folder, "ground-truth"), "{}", not_black, kind="tampered")
    return [replace(entry, name=path_from(root, entry.image)) for entry in entries]


def _scene_completion(root: Path) -> list[Entry]:
    """Scene completion (Hays): ``<stem>.*``, all spliced, beside ``<stem>_mask.*``, foreign is ``bright``.

    The reference takes any value above 0, which in a JPEG also takes the ripples beside the region.
    """
    listed = files(root)
    masks = {f"{path.stem.casefold()}_mask" for path in listed}
    return tampered([path for path in listed if path.stem.casefold() not in masks], root, "{}_mask")


_CASIA_NAME = re.compile(
    r"(?:Sp|CM)_(?P<origin>[DS])_(?P<operations>[A-Z]{3})_(?P<shape>[A-Z])"
    r"_(?P<first>[a-z]{3}\d{4})_(?P<second>[a-z]{3}\d{4})_\d+"
)


def _casia_1(root: Path) -> list[Entry]:
    """CASIA 1.0: ``Au/*``, ``Tp/{Sp,CM}/*``, ``CASIA 1.0 groundtruth/{Sp,CM}/<stem>_gt.png``, foreign is ``bright``.

    ``info``: ``format``; ``kind``: ``authentic``, ``spliced`` or ``copy-move`` (``Item.spliced`` is true of both); and
    of a regular name such as ``Sp_D_NRN_A_art0071_art0029_0478`` its codes as they stand: ``origin`` (D: two pictures,
    S: one), ``operations``, ``shape``, and ``sources``, of which either may be the host.
    """
    entries = authentic(files(subfolder(root, "Au")))
    for folder, kind in (("Sp", "spliced"), ("CM", "copy-move")):
        pictures = files(subfolder(subfolder(root, "Tp"), folder))
        truth = subfolder(subfolder(root, "CASIA 1.0 groundtruth"), folder)
        found = tampered(pictures, truth, "{}_gt", kind=kind)
        entries += [replace(entry, info=entry.info | _casia_codes(entry.image.stem)) for entry in found]
    return entries


def _casia_codes(stem: str) -> dict[str, str]:
    match = _CASIA_NAME.fullmatch(stem)
    if match is None:
        return {}
    codes = match.groupdict()
    return {key: codes[key] for key in ("origin", "operations", "shape")} | {
        "sources": f"{codes['first']} {codes['second']}"
    }


def _casia_2(root: Path) -> list[Entry]:
    """CASIA 2.0: ``Au/*``, ``Tp/*`` (``Tp_S_*``: ``kind`` is ``copy-move``), masks ``<stem>_gt.png``, ``bright``.

    The masks lie in ``CASIA 2 Groundtruth`` or ``CASIA2.0_Groundtruth``. ``Item.spliced`` is true of both kinds.
    """
    truth = subfolder(root, "CASIA 2 Groundtruth", "CASIA2.0_Groundtruth")
    return authentic(files(subfolder(root, "Au"))) + casia_tampered(files(subfolder(root, "Tp")), truth)


def casia_tampered(pictures: list[Path], masks: Path) -> list[Entry]:
    """``tampered`` of pictures whose names say the kind: CASIA's code S, one source, is a copy-move."""
    by_kind = defaultdict(list)
    for path in pictures:
        by_kind["copy-move" if starts_with(path, "Tp_S_", "Sp_S_", "CM_") else "spliced"].append(path)
    return [entry for kind, paths in by_kind.items() for entry in tampered(paths, masks, "{}_gt", kind=kind)]


#: name -> lister of a folder; the protocol of each is its docstring
LAYOUTS: dict[str, Callable[[Path], list[Entry]]] = {
    "folder": _folder,
    "columbia": _columbia,
    "dso_1": _dso_1,
    "in_the_wild": _in_the_wild,
    "realistic_tampering": _realistic_tampering,
    "scene_completion": _scene_completion,
    "casia_1": _casia_1,
    "casia_2": _casia_2,
}
