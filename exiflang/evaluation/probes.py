"""Linear probes: how well a linear classifier or regression predicts properties of held-out pictures from embeddings.

Everything is cross-validated by group: items of one group (a source picture, a photo, a camera) are never on both sides
of a split. Compare a model's probes with those of a tower with random weights and of training-free embeddings.
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

#: Inverse strength of the classifier's penalty, for features of unit mean square: embeddings have about as many
#: dimensions as there are pictures. Of 0.01, 0.1 and 1, at 256 dimensions, 0.01 predicted held-out EXIF best.
C = 2.5
#: Numeric tags, probed by regression on the logarithm.
NUMBERS = ("PhotographicSensitivity", "ExposureTime", "FNumber", "FocalLength")
PROBED_TAGS = (
    "Make", "Model", "Flash", "WhiteBalance", "MeteringMode", "ExposureProgram", "SceneCaptureType", "Orientation",
    "YCbCrPositioning", *NUMBERS,
)  # fmt: skip
BINS = 20  # of distortion strength


def probe(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    groups: Sequence | np.ndarray,
    kind: str = "class",
    folds: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """How well `features` predict `labels` in cross-validation over `folds` in which no group is split.

    "class": logistic regression; `score` is the accuracy over all items, `balanced` the mean over classes, `chance`
    the fraction of the most frequent class. `se` is the accuracy's standard error, clustered by group. "rank": ridge
    regression, with the penalty chosen within each fit; `score` is Spearman's rank correlation within a fold, averaged,
    `se` its standard error over folds, `chance` 0; a fold with constant labels or predictions counts as 0. Features are
    standardized to zero mean and unit variance. `n`, `groups`, `classes` count items, groups and classes.

    Args:
        features: float [n, D].
        labels: [n], of any type for "class", numbers for "rank".
        groups: [n], of any type.

    Raises `ValueError` for an unknown `kind`, different lengths, empty input, NaN or infinity, a single class, fewer
    groups than folds, and a class in fewer groups than folds.
    """
    features, labels, groups = np.asarray(features, float), np.asarray(labels), np.asarray(groups)
    if kind not in ("class", "rank"):
        raise ValueError(f"kind is {kind!r}: choose 'class' or 'rank'")
    if features.ndim != 2 or not len(features) == len(labels) == len(groups):
        raise ValueError(f"features {list(features.shape)} for {len(labels)} labels and {len(groups)} groups")
    if not features.size:
        raise ValueError(f"nothing to probe: features {list(features.shape)}")
    if not np.isfinite(features).all() or (kind == "rank" and not np.isfinite(labels.astype(float)).all()):
        raise ValueError("features or labels contain NaN or infinity")
    names, group = np.unique(groups, return_inverse=True)  # [n]
    if not 2 <= folds <= len(names):
        raise ValueError(f"{len(names)} groups for {folds} folds: use 2 folds or more, and at least as many groups")
    counts = {"n": len(labels), "groups": len(names)}
    if kind == "rank":
        return _rank_probe(features, labels.astype(float), group, folds, seed) | counts
    classes, label = np.unique(labels, return_inverse=True)  # [n]
    if len(classes) < 2:
        raise ValueError(f"all labels are {classes[0]}: a probe needs at least two classes")
    spread = (pd.crosstab(label, group) > 0).sum(axis=1).to_numpy()  # number of groups per class
    if spread.min() < folds:
        rare = classes[spread.argmin()]
        few = f"label {rare} is in {spread.min()} groups, fewer than {folds} folds"
        raise ValueError(f"{few}: leave it out, give more data, or use fewer folds")
    return _class_probe(features, label, group, folds, seed) | counts | {"classes": len(classes)}


def _class_probe(features: np.ndarray, label: np.ndarray, group: np.ndarray, folds: int, seed: int) -> dict:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C / features.shape[1], max_iter=1000))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(model, features, label, groups=group, cv=split)
    hits = (predicted == label).astype(float)
    of_group = np.bincount(group, hits - hits.mean())  # [groups], each one's contribution to the mean's error
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
    """How well each embedding predicts each tag: one row per tag, grouping and method (a key of `embedded`).

    Grouped by "camera", the probe is tested on cameras it was not fitted on: for a make, it has to use what the models
    have in common; for a setting, the traces of the setting itself. Grouped by "photo", it can recognize the camera and
    predict that camera's usual values; only this grouping can probe the model tag. Values in fewer groups than `folds`
    are excluded: `left_out` counts their photos and those without the tag, `values_left_out` the values. `NUMBERS` are
    ranked by their logarithm, without exclusions. A tag with too few values left has NaN for `score` and 0 for `n`.

    Args:
        embedded: for each method, float [n, D], the first array returned by `retrieval.embed_photos`.
        photos: the n photos.

    Columns: tag, grouping, kind, method, those of `probe`, left_out, values_left_out. Raises `ValueError` for no
    photos, and as `probe` does.
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
            spread = groups.groupby(values).nunique()  # groups per value
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
    """Spliced (or otherwise tampered) against authentic, from one embedding per picture: one row per view and method.

    Views, see `probe_data.whole_views`: "center crop", 224 pixels per side, and "resized", the whole picture at that
    size. Pictures with a common source picture are one group, see `probe_data.source_groups`. The paper reports both
    for CASIA, on a single split.

    Columns: view, method, those of `probe`. Unreadable pictures are in `benchmark.skipped` afterwards. Raises
    `BenchmarkError` if no picture can be read, and `ValueError` as `probe` does, e.g. for too few pictures of a class.
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
    """The strength of radial distortion, from embeddings of distorted pictures: four rows per method.

    Each picture is distorted (`distort`) with `strengths` random values of k1 in [-0.4, 0], drawn equally often from 20
    equal bins, and downscaled to 224 x 224 pixels. It should have at least 800 pixels per side, so that downscaling
    hides traces of interpolation. Views: "whole", one embedding of the whole picture, as in the paper's probe;
    "windows", the concatenated embeddings of the four corners and the middle, with which the probe can compare
    positions. Column `asked`: "bin" is classification of the bin (`chance` 1/20), "order" the rank correlation of a
    regression on it. Each picture is a group.

    The paper does not specify its bins, so do not compare these figures with its 0.31 (Dresden) and 0.35 (RAISE).
    Distortion also compresses detail toward the corners, and a probe may use that rather than bent lines.

    Columns: view, asked, method, those of `probe`. Raises `ValueError` for no pictures, for `strengths` below 1, and as
    `distort` and `probe` do: pictures * strengths must be at least 20 * folds.
    """
    if not pictures or strengths < 1:
        raise ValueError(f"{len(pictures)} pictures and {strengths} strengths: give at least one of each")
    rng = np.random.default_rng(seed)
    drawn = np.resize(rng.permutation(BINS), len(pictures) * strengths)  # one permutation, repeated
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
