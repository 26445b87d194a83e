"""Training-free embeddings of windows: baselines that use the same windows and readouts as a model.

A splice also changes color and sharpness, so a model must beat these to show that it recognizes cameras.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-R BT.601 in thousandths: luma and its differences are integers, exact in float32 whatever the summation order.
GRAY = (299.0, 587.0, 114.0)
STEP = 4.0


class MeanColor:
    """Mean and standard deviation of each color channel, centered on their typical range."""

    def encode_image(self, patches: Tensor) -> Tensor:
        """uint8 [B, 3, P, P] → float32 [B, 6], unit norm."""
        pixels = patches.float() / 255
        mean, deviation = pixels.mean((2, 3)), pixels.std((2, 3), unbiased=False)  # [B, 3, P, P] -> [B, 3] each
        return F.normalize(torch.cat([mean - 0.5, deviation - 0.1], dim=1), dim=1)  # [B, 6]


class ResidualStatistics:
    """Co-occurrence of a quantized high-pass residual (Splicebuster: Cozzolino, Poggi, Verdoliva 2015).

    Third-order differences of luma along rows and along columns, divided by `STEP` gray levels, rounded and clipped to
    -1, 0, 1; the histogram of four consecutive ones (81 bins per direction). The square roots of its frequencies have
    unit norm, and their cosine is the Bhattacharyya coefficient.
    """

    def encode_image(self, patches: Tensor) -> Tensor:
        """uint8 [B, 3, P, P] → float32 [B, 162], unit norm; patches smaller than 8 pixels replicate their border."""
        if short := max(0, 8 - min(patches.shape[2:])):
            patches = F.pad(patches.float(), (0, short, 0, short), mode="replicate")
        luma = torch.einsum("bchw,c->bhw", patches.float(), torch.tensor(GRAY))  # [B, 3, H, W] -> [B, H, W]
        histograms = [self._histogram(luma), self._histogram(luma.transpose(1, 2))]
        return F.normalize(torch.cat(histograms, dim=1).sqrt(), dim=1)  # 2 x [B, 81] -> [B, 162]

    def _histogram(self, luma: Tensor) -> Tensor:
        residual = luma.diff(n=3, dim=2)  # [B, H, W] -> [B, H, W - 3]
        half = 500 * STEP
        level = (residual > half).long() - (residual < -half).long() + 1
        width = level.shape[2] - 3
        code = sum(3**k * level[:, :, k : k + width] for k in range(4)).flatten(1)  # [B, H * (W - 6)]
        count = torch.zeros(len(code), 81)
        return count.scatter_add_(1, code, torch.ones(code.shape)) / code.shape[1]


BASELINES: dict[str, type[MeanColor] | type[ResidualStatistics]] = {
    "mean color": MeanColor,
    "residual statistics": ResidualStatistics,
}
