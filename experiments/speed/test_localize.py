"""One picture of 1024 x 768 pixels: plain loops with batches of 32 in float32, against the package, in one run."""

import copy
from functools import cache

import numpy as np
import pytest
import torch

from exiflang import ExifLang, ExifLangConfig, SpliceLocalizer
from exiflang.localization.clustering import MeanShiftMode, NormalizedCut
from exiflang.localization.consistency import cell_consistency, principal_components
from exiflang.localization.localizer import Comparison
from exiflang.localization.windows import window_grid
from experiments.speed import agreement, loop
from experiments.speed.marks import bf16, gpu
from experiments.speed.pictures import noise

IMAGE = noise(0.786432)
WINDOW, STRIDE = window_grid(*IMAGE.shape[:2], 124, 25)  # the paper's
SPREAD = WINDOW // STRIDE

WAYS = [pytest.param(options, id=way, marks=bf16 if "bf16" in way else ()) for way, options in agreement.WAYS.items()]


@cache
def resnet50() -> ExifLang:
    """The paper's towers with random weights, which are as fast as trained ones."""
    torch.manual_seed(0)
    return ExifLang(ExifLangConfig.preset("paper")).eval()


def paper(**options) -> SpliceLocalizer:
    return SpliceLocalizer(resnet50(), 25, WINDOW, "mean_shift", **options)


@pytest.mark.parametrize("options", [pytest.param(None, id="loop"), *WAYS])
def test_whole_analysis(measure, options):
    call = paper(**options) if options is not None else lambda image: loop.localize(resnet50(), image, WINDOW, STRIDE)
    measure("whole analysis, ResNet-50", call, IMAGE)


@pytest.mark.parametrize("options", [pytest.param(None, id="loop"), *WAYS])
def test_encoding(measure, options):
    call = (
        paper(**options).embed if options is not None else lambda image: loop.embed(resnet50(), image, WINDOW, STRIDE)
    )
    measure("encoding, ResNet-50", call, IMAGE)


@gpu
@pytest.mark.parametrize("options", [{"precision": "bf16"}], ids=["GPU, bf16"])
def test_encoding_on_a_gpu(measure, options):
    localizer = SpliceLocalizer(copy.deepcopy(resnet50()).cuda(), 25, WINDOW, **options)
    rows, cols = localizer.embed(IMAGE)[0].shape[:2]
    measure("encoding, ResNet-50, on a GPU", localizer.embed, IMAGE, windows=rows * cols)


@cache
def embeddings() -> np.ndarray:
    """Embeddings as of a picture with a spliced region: float32 [rows, cols, 768]."""
    rows, cols = (len(loop.places(side, WINDOW, STRIDE)) for side in IMAGE.shape[:2])
    found = np.random.default_rng(0).standard_normal((rows, cols, 768)).astype(np.float32)
    found[5:12, 4:11] += 0.3
    return found / np.linalg.norm(found, axis=2, keepdims=True)


@pytest.mark.parametrize("call", [loop.vote_pairs, cell_consistency], ids=["loop", "exact"])
def test_votes(measure, call):
    measure("votes", call, embeddings(), SPREAD)


@pytest.mark.parametrize("call", [loop.mean_shift, MeanShiftMode().fit_predict], ids=["loop", "exact"])
def test_mean_shift(measure, call):
    measure("mean shift", call, cell_consistency(embeddings(), SPREAD))


@pytest.mark.parametrize("call", [loop.cut, NormalizedCut().fit_predict], ids=["loop", "exact"])
def test_cut(measure, call):
    measure("normalized cut", call, cell_consistency(embeddings(), SPREAD))


@pytest.mark.parametrize("call", [loop.components, principal_components], ids=["loop", "exact"])
def test_components(measure, call):
    measure("principal components", call, embeddings(), SPREAD)


@pytest.mark.parametrize(
    "options", [pytest.param({"comparison": Comparison(fast=False)}, id="windows one by one"), *WAYS[:2]]
)
def test_encoding_packaged(measure, options):
    measure("encoding, packaged weights", SpliceLocalizer(**options).embed, IMAGE)


@pytest.mark.parametrize("megapixels", [0.786432, 12], ids=["1024 x 768", "12 MP"])
def test_whole_analysis_packaged(measure, megapixels):
    measure("whole analysis, packaged weights", SpliceLocalizer(), noise(megapixels))
