"""Mosaics of one camera's tiles: stand-ins for whole photos where shards hold only tiles."""

from collections.abc import Iterator, Sequence

import numpy as np

from exiflang.data.patches import decode_tile
from exiflang.data.shards import Photo


def camera_mosaics(photos: Sequence[Photo], rows: int = 3, cols: int = 4, seed: int = 0) -> Iterator[np.ndarray]:
    """Mosaics of one camera's tiles, for `calibrate`: uint8 [rows * side, cols * side, 3] each.

    A camera's photos come in random order, with all tiles of a photo adjacent and no tile repeated; a mosaic takes
    `rows * cols` of them in raster order, and a camera gives as many mosaics as it has tiles for. `side` is the
    smallest side of its tiles. Because exposure and quality differ between a camera's photos, mosaics are less uniform
    than photos: calibration on mosaics alone biases heatmaps and scores toward authentic. If photos are given one at a
    time, each mosaic has a single exposure.

    Raises `ValueError` if no camera has tiles for one mosaic, `DataError` naming a tile that is broken.
    """
    if rows < 1 or cols < 1:
        raise ValueError(f"a mosaic of {rows} x {cols} tiles is empty: rows and cols must be at least 1")
    cameras: dict[str, list[Photo]] = {}
    for photo in photos:
        cameras.setdefault(photo.camera, []).append(photo)
    wanted = rows * cols
    large = {name: own for name, own in cameras.items() if sum(len(photo.tiles) for photo in own) >= wanted}
    if not large:
        raise ValueError(
            f"no camera has {wanted} tiles for a mosaic of {rows} x {cols}: give more photos or fewer tiles"
        )
    rng = np.random.default_rng(seed)
    for name in sorted(large):
        own = [large[name][i] for i in rng.permutation(len(large[name]))]
        located = [(photo, location) for photo in own for location in photo.tiles]
        for start in range(0, len(located) - wanted + 1, wanted):
            tiles = [decode_tile(*pair) for pair in located[start : start + wanted]]
            side = min(min(tile.shape[:2]) for tile in tiles)
            grid = np.stack([tile[:side, :side] for tile in tiles]).reshape(rows, cols, side, side, 3)
            yield grid.swapaxes(1, 2).reshape(rows * side, cols * side, 3)  # [rows, side, cols, side, 3] -> [H, W, 3]
