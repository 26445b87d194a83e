"""Linear probes: what a linear classifier or regression reads from frozen embeddings, of pictures it was not fitted on.

Everything is cross-validated in groups: what shares a group (a source picture, a photo, a camera) is never on both
sides of a split. Probes of a tower with random weights and of training-free embeddings go beside a model's.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from exiflang.data.shards import Photo, plain_name
from exiflang.evaluation.benchmarks import Benchmark
from exiflang.evaluation.layouts import BenchmarkError
from exiflang.evaluation.probe_data import (
    STRONGEST,
    corners_and_middle,
    distort,
    embed,
    reduced,
    source_groups,
    whole_views,
)
from exiflang.localization.windows import ImageEncoder

#: Inverse strength of the classifier's penalty for features of unit mean square: embeddings have about as many
#: dimensions as there are pictures. Of 0.01, 0.1 and 1 for 256 dimensions the first read most of held-out photos' EXIF.
C = 2.5
#: Tags that are numbers: read by regression on the logarithm.
NUMBERS = ("PhotographicSensitivity", "ExposureTime", "FNumber", "FocalLength")
PROBED_TAGS = (
    "Make", "Model", "Flash", "WhiteBalance", "MeteringMode", "ExposureProgram", "SceneCaptureType", "Orientation",
    "YCbCrPositioning", *NUMBERS,
)  # fmt: skip
BINS = 20  # of the strength of distortion


def probe(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    groups: Sequence | np.ndarray,
    kind: str = "class",
    folds: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """How well `labels` are read from `features`, each item by a fit to the other folds; no group is on both sides.

    "class": logistic regression; `score` is the accuracy over all items, `balanced` the mean over classes, `chance`
    the share of the most frequent class. `se` is the accuracy's standard error, items of one group taken together.
    "rank": ridge regression, its penalty chosen within each fit; `score` is Spearman's rank correlation within a fold,
    averaged, `se` its standard error over the folds, `chance` 0; a fold with equal labels or predictions counts as 0.
    Both stand on features of zero mean and unit variance. `n`, `groups`, `classes` count items, groups and classes.

    Args:
        features: float [n, D].
        labels: [n], of any type for "class", numbers for "rank".
        groups: [n], of any type.

    Raises `ValueError` for another `kind`, for lengths that differ, nothing at all, NaN or infinity, a single class,
    fewer groups than folds, and a class in fewer groups than folds.
    """
    features, labels, groups = np.asarray(features, float), np.asarray(labels), np.asarray(groups)
    if kind not in ("class", "rank"):
        raise ValueError(f"kind is {kind!r}: choose 'class' or 'rank'")
    if features.ndim != 2 or not len(features) == len(labels) == len(groups):
        raise ValueError(f"features {list(features.shape)} for {len(labels)} labels and {len(groups)} groups")
    if not features.size:
        raise ValueError(f"nothing to probe: features {list(features.shape)}")
    if not np.isfinite(features).all() or (kind == "rank" and not np.isfinite(labels.astype(float)).all()):
        raise ValueError("features or labels hold NaN or infinity")
    names, group = np.unique(groups, return_inverse=True)  # [n]
    if not 2 <= folds <= len(names):
        raise ValueError(f"{len(names)} groups for {folds} folds: take 2 folds or more, and at least as many groups")
    counts = {"n": len(labels), "groups": len(names)}
    if kind == "rank":
        return _rank_probe(features, labels.astype(float), group, folds, seed) | counts
    classes, label = np.unique(labels, return_inverse=True)  # [n]
    if len(classes) < 2:
        raise ValueError(f"all labels are {classes[0]}: there is nothing to tell apart")
    spread = (pd.crosstab(label, group) > 0).sum(axis=1).to_numpy()  # groups of each class
    if spread.min() < folds:
        rare = classes[spread.argmin()]
        raise ValueError(f"label {rare} is in {spread.min()} groups, fewer than {folds} folds: leave it out")
    return _class_probe(features, label, group, folds, seed) | counts | {"classes": len(classes)}


def _class_probe(features: np.ndarray, label: np.ndarray, group: np.ndarray, folds: int, seed: int) -> dict:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C / features.shape[1], max_iter=1000))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(model, features, label, groups=group, cv=split)
    hits = (predicted == label).astype(float)
    of_group = np.bincount(group, hits - hits.mean())  # [groups], what each adds to the error of the mean
    return {
        "score": hits.mean(),
        "se": np.sqrt((of_group**2).sum() * len(of_group) / (len(of_group) - 1)) / len(hits),
        "balanced": balanced_accuracy_score(label, predicted),
        "chance": np.bincount(label).max() / len(label),
    }


def _rank_probe(features: np.ndarray, label: np.ndarray, group: np.ndarray, folds: int, seed: int) -> dict:
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 6, 15)))
    scores = []
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(features, label, group):
        predicted = model.fit(features[train], label[train]).predict(features[test])
        constant = min(np.ptp(predicted), np.ptp(label[test])) == 0
        scores.append(0.0 if constant else spearmanr(predicted, label[test]).statistic)
    return {"score": np.mean(scores), "se": np.std(scores, ddof=1) / np.sqrt(folds), "chance": 0.0}


def exif_probes(
    embedded: Mapping[str, np.ndarray],
    photos: Sequence[Photo],
    tags: Sequence[str] = PROBED_TAGS,
    folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """What each embedding tells of each tag: a row a tag, grouping and method (a key of `embedded`).

    Grouped by "camera" the probe has seen no photo of the cameras it is asked about: of a make it must know what its
    models share, of a setting what the setting itself leaves. Grouped by "photo" it may know the camera again and say
    what that usually writes; only so can it be asked for the model. Values in fewer groups than `folds` are left out:
    `left_out` counts their photos and those without the tag, `values_left_out` the values. Of `NUMBERS` the logarithm
    is ranked, and none is left out. A tag of which too little remains has NaN for `score` and 0 for `n`.

    Args:
        embedded: of each method, float [n, D], as `retrieval.embed_photos` gives it first.
        photos: the n photos.

    Columns: tag, grouping, kind, method, those of `probe`, left_out, values_left_out. Raises `ValueError` for no photos
    and what `probe` refuses.
    """
    if not photos:
        raise ValueError("no photos to probe")
    by = {"camera": [plain_name(photo.camera) for photo in photos], "photo": [photo.id for photo in photos]}
    rows = []
    for tag in tqdm(tags, unit=" tags"):
        kind = "rank" if tag in NUMBERS else "class"
        values = pd.Series([photo.tags.get(tag) for photo in photos], dtype=object)
        if kind == "rank":
            numbers = values.map(lambda value: float(Fraction(value)), na_action="ignore").astype(float)
            values = pd.Series(np.log2(numbers.where(numbers > 0)))
        for grouping in ("photo",) if tag == "Model" else by:
            groups = pd.Series(by[grouping])
            spread = groups.groupby(values).nunique()  # of each value
            rare = list(spread[spread < folds].index) if kind == "class" else []
            kept = (values.notna() & ~values.isin(rare)).to_numpy()
            enough = groups[kept].nunique() >= folds and (kind == "rank" or values[kept].nunique() > 1)
            left = {"left_out": int((~kept).sum()), "values_left_out": len(rare)}
            for method, features in embedded.items():
                found = {"score": np.nan, "n": 0, "groups": 0}
                if enough:
                    found = probe(features[kept], values[kept].to_numpy(), groups[kept].to_numpy(), kind, folds, seed)
                rows.append({"tag": tag, "grouping": grouping, "kind": kind, "method": method} | found | left)
    return pd.DataFrame(rows)


def splice_probe(
    encoders: Mapping[str, ImageEncoder], benchmark: Benchmark, folds: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Spliced (or otherwise tampered) against authentic, from one embedding of a picture: a row a view and method.

    Views, see `probe_data.whole_views`: "center crop", 224 pixels a side, and "resized", the whole picture at that
    size. Pictures with a common source picture are one group, see `probe_data.source_groups`. The paper reports both
    for CASIA, on one split of its own.

    Columns: view, method, those of `probe`. Pictures that cannot be read are in `benchmark.skipped` afterwards. Raises
    `BenchmarkError` if none can be read, `ValueError` for what `probe` refuses, such as too few pictures of a kind.
    """
    items: list[tuple[str, dict[str, str], bool]] = []
    features: dict[tuple[str, str], list[np.ndarray]] = {}
    for item in tqdm(benchmark, unit=" pictures"):
        items.append((item.name, item.info, item.spliced))
        for view, picture in whole_views(item.image).items():
            for method, encoder in encoders.items():
                features.setdefault((view, method), []).append(embed(encoder, picture[None])[0])
    if not items:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in benchmark.skipped[:3])
        raise BenchmarkError(f"{benchmark.name}: no picture to probe among {len(benchmark)} ({reasons})")
    groups = source_groups([(name, info) for name, info, _ in items])
    spliced = [spliced for *_, spliced in items]
    return pd.DataFrame(
        {"view": view, "method": method} | probe(np.array(part), spliced, groups, "class", folds, seed)
        for (view, method), part in features.items()
    )


def distortion_probe(
    encoders: Mapping[str, ImageEncoder],
    pictures: Sequence[np.ndarray],
    strengths: int = 20,
    folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The strength of radial distortion, from embeddings of a distorted picture: four rows a method.

    Each picture is distorted (`distort`) with `strengths` random k1 of [-0.4, 0], all of whose 20 equal bins are drawn
    equally often, and reduced to 224 x 224 pixels. It should have 800 pixels a side or more, so that the reduction
    hides traces of interpolation. Views: "whole", one embedding of all of it, as the paper's probe takes; "windows",
    those of its four corners and its middle in one vector, so that the probe can compare positions. Asked: "bin", which
    of the 20 it is (`chance` 1/20), and "order", the rank correlation of a regression with it. A picture is a group.

    What bins the paper took is not known, and this figure must not stand beside its 0.31 (Dresden) and 0.35 (RAISE).
    Distortion also presses detail together towards the corners; a probe may read that rather than lines that bend.

    Columns: view, asked, method, those of `probe`. Raises `ValueError` for no pictures, for `strengths` below 1, for
    what `distort` refuses and what `probe` does: pictures * strengths must be 20 * folds or more.
    """
    if not pictures or strengths < 1:
        raise ValueError(f"{len(pictures)} pictures and {strengths} strengths: give one of each or more")
    rng = np.random.default_rng(seed)
    drawn = np.resize(rng.permutation(BINS), len(pictures) * strengths)  # the same order over and over
    features: dict[tuple[str, str], list[np.ndarray]] = {}
    for picture, bins in zip(tqdm(pictures, unit=" pictures"), drawn.reshape(-1, strengths), strict=True):
        for k1 in STRONGEST * (bins + rng.random(strengths)) / BINS:
            shown = reduced(distort(picture, k1))
            for view, patches in (("whole", shown[None]), ("windows", corners_and_middle(shown))):
                for method, encoder in encoders.items():
                    features.setdefault((view, method), []).append(embed(encoder, patches).ravel())
    groups = np.repeat(np.arange(len(pictures)), strengths)
    return pd.DataFrame(
        {"view": view, "asked": asked, "method": method} | probe(np.array(part), drawn, groups, kind, folds, seed)
        for asked, kind in (("bin", "class"), ("order", "rank"))
        for (view, method), part in features.items()
    )
