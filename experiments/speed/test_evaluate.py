"""Time for the metrics of one large picture."""

import numpy as np

from exiflang.evaluation.metrics import localization_scores
from exiflang.localization.consistency import resize_cells


def test_metrics_of_12_megapixels(measure):
    cells = np.random.default_rng(0).random((60, 80)).astype(np.float32)
    heatmap = resize_cells(cells, 3000, 4000, 64, 49)
    mask = np.zeros(heatmap.shape, bool)
    mask[500:1500, 700:2000] = True
    measure("all metrics of a heatmap", localization_scores, mask, heatmap)
