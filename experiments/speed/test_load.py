"""Training patches from 12 MP photos, in one process and thread: decoding whole photos against precut tiles."""

import json
from pathlib import Path

import numpy as np
import pytest

from exiflang.data.patches import PatchDataset, decode_views
from exiflang.data.shards import Sample
from exiflang.exif.reader import read_exif
from exiflang.preparation.tiles import cut_tiles
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.render import render_photo
from experiments.speed import loop
from tests.shard_writer import write_shards

SIZE, COUNT = 124, 20  # pixels, patches per round
GROUP = f"{COUNT} patches of {SIZE} px from 12 MP photos"


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A photo of a simulated camera, as a JPEG file."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    path.write_bytes(render_photo(CAMERAS[0], seed=0, size=(4000, 3000)))
    return path


@pytest.fixture(scope="module")
def dataset(photo, tmp_path_factory) -> PatchDataset:
    """Its tiles in a shard, each as a separate photo."""
    tiles = cut_tiles(photo.read_bytes(), COUNT, 256, np.random.default_rng(0))
    exif = json.dumps(read_exif(photo))
    samples = [
        Sample(f"{i:02d}", tile.data, tile.extension, {"exif": exif, "width": 256, "height": 256, "photo": f"{i}"})
        for i, tile in enumerate(tiles)
    ]
    return PatchDataset(write_shards(samples, tmp_path_factory.mktemp("shards")), SIZE)


@pytest.mark.parametrize("way", ["loop", "one crop a tile", "four crops a tile"])
def test_patches(measure, photo, dataset, way):
    rng = np.random.default_rng(0)
    calls = {
        "loop": lambda: [loop.load_patch(photo, SIZE, rng) for _ in range(COUNT)],
        "one crop a tile": lambda: [dataset[i] for i in range(COUNT)],
        "four crops a tile": lambda: [decode_views(dataset.photos[i], SIZE, 4, rng) for i in range(COUNT // 4)],
    }
    measure(GROUP, calls[way])
