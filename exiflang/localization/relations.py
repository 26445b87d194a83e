"""Relations between the windows of a picture: the learned readout's input in place of embeddings.

Relations look alike for any embedding model, so a readout stays usable when the weights are retrained.
"""

import math
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# scipy is imported inside functions to keep importing the localizer fast.

#: Each window is compared with at most this many, spread evenly over the picture: the cost is linear in the number of
#: windows, not quadratic.
MOST_REFERENCES = 800
#: Fractions of the reference windows that count as friends; outer radii of rings of neighbors, in windows.
SHARES, RINGS = (0.02, 0.1, 0.25, 0.5), (1.6, 3.2, 6.4, 12.8)
EIGENVECTORS = 4
#: A window's relations, in order: each as it is and standardized within the picture, plus the eigenvectors.
MAPS = (
    *(f"far friends {share}" for share in SHARES),
    "mean dissimilarity",
    "diffused far friends",
    *(f"ring {ring}" for ring in RINGS),
)
NAMES = (*MAPS, *(f"{name}, standardized" for name in MAPS), *(f"eigenvector {k}" for k in range(1, EIGENVECTORS + 1)))


@dataclass(frozen=True, eq=False)
class Relations:
    """Relations of a picture's n = rows x cols windows to m of them, the references.

    Attributes:
        maps: float32 [rows, cols, len(NAMES)].
        picture: float32 [len(MAPS) + EIGENVECTORS + 1]: deviation of each map, eigenvalues, log of n.
        cosine: float32 [n, m], of the centered embeddings.
        references: int64 [m], their indices among the n windows.
    """

    maps: Tensor
    picture: Tensor
    cosine: Tensor
    references: Tensor


@torch.autocast("cpu", enabled=False)  # a caller's lower precision is meant for networks
def window_relations(embeddings: Tensor) -> Relations:
    """Relations of unit embeddings float32 [rows, cols, D], smoothed over the grid by a Gaussian of one window.

    "far friends s": minus the mean cosine with the most similar fraction s of the references that are at least a
    quarter of the longer side away; "ring r": mean dissimilarity to neighbors between r / 2 and r windows away;
    "diffused": far friends after 15 steps of a random walk along the affinities, as in `clustering.Diffusion`;
    eigenvectors of the normalized affinity (Shi and Malik 2000), signed by their correlation with far friends.

    Raises `ValueError` for embeddings that are NaN or infinite.
    """
    if not embeddings.isfinite().all():
        raise ValueError("the embeddings contain NaN or infinity: the model is broken")
    rows, cols, _ = embeddings.shape
    references = reference_windows(rows, cols)
    unit, centered = smooth_unit(embeddings)
    cosine = unit @ unit[references].T  # [n, D] x [m, D] -> [n, m]
    alike = centered @ centered[references].T
    distance = _distances(rows, cols, references)
    far = _far_friends(cosine, distance, max(rows, cols))
    affinity = alike.clamp(min=0)
    walk = affinity / affinity.sum(1, keepdim=True).clamp(min=1e-6)
    maps = [*far, 1 - cosine.mean(1), _diffused(far[2], walk, references), *_rings(1 - cosine, distance)]
    stacked = torch.stack(maps, 1)  # [n, M]
    deviation = stacked.std(0, correction=0)
    standard = (stacked - stacked.mean(0)) / (deviation + 1e-6)
    vectors, values = _eigenvectors(affinity, walk, references, far[1])
    picture = torch.cat([deviation, values, torch.tensor([math.log(rows * cols)])])
    maps_of_windows = torch.cat([stacked, standard, vectors], 1).view(rows, cols, -1)
    return Relations(maps_of_windows, picture, alike, references)


def reference_windows(rows: int, cols: int) -> Tensor:
    """Every k-th window of every k-th row, for the smallest k with at most `MOST_REFERENCES` of them: int64 [m]."""
    every = torch.arange(rows * cols).view(rows, cols)
    for step in count(1):
        found = every[min(step // 2, rows - 1) :: step, min(step // 2, cols - 1) :: step]
        if found.numel() <= MOST_REFERENCES:
            break
    return found.flatten()


def smooth_unit(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [rows, cols, D] smoothed over the grid at unit norm, and centered at unit norm: [n, D] each."""
    rows, cols, _ = embeddings.shape
    smooth = _gaussian(cols) @ (_gaussian(rows) @ embeddings.flatten(1)).view_as(embeddings)  # rows, then columns
    unit = F.normalize(smooth.flatten(0, 1), dim=1)
    centered = unit - unit.mean(0)
    centered[centered.norm(dim=1) < 1e-5] = 0  # else rounding errors would become a direction
    return unit, F.normalize(centered, dim=1)


def _gaussian(n: int) -> Tensor:
    """A Gaussian of sigma 1 window along a side of n, truncated at 4, borders replicated: float32 [n, n]."""
    offsets = torch.arange(-4, 5)
    weights = torch.softmax(-0.5 * offsets**2.0, 0)
    at = (torch.arange(n)[:, None] + offsets).clamp(0, n - 1)  # [n, 9]
    return torch.zeros(n, n).scatter_add_(1, at, weights.expand(n, -1))


def _distances(rows: int, cols: int, references: Tensor) -> Tensor:
    """Distances of windows to the references, in windows: float32 [n, m]."""
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).float().view(-1, 2)
    away = at[:, None] - at[references]
    return away.square().sum(2).sqrt()


def _far_friends(cosine: Tensor, distance: Tensor, longer: int) -> list[Tensor]:
    """For each of `SHARES`, float32 [n]; if too few references are far enough away, the farthest ones count."""
    m = cosine.shape[1]
    counts = [max(1, round(share * m)) for share in SHARES]
    reach = torch.full((len(cosine),), longer / 4)
    few = (distance >= longer / 4).sum(1) < counts[-1]
    reach[few] = distance[few].topk(counts[-1], dim=1).values[:, -1]
    friends = cosine.masked_fill(distance < reach[:, None], -2).sort(dim=1, descending=True).values
    sums = friends[:, : counts[-1]].cumsum(1)
    return [-sums[:, count - 1] / count for count in counts]


def _diffused(far: Tensor, walk: Tensor, references: Tensor) -> Tensor:
    """Far friends [n] after 15 steps of `walk` [n, m] with restarts."""
    found = far
    for _ in range(15):
        found = 0.2 * far + 0.8 * (walk @ found[references])
    return found


def _rings(dissimilarity: Tensor, distance: Tensor) -> list[Tensor]:
    """For each of `RINGS`, float32 [n]; 0 if it contains no reference."""
    rings = [(distance > ring / 2) & (distance <= ring) for ring in RINGS]
    return [(dissimilarity * ring).sum(1) / ring.sum(1).clamp(min=1) for ring in rings]


def _eigenvectors(affinity: Tensor, walk: Tensor, references: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """The leading eigenvectors after the constant one: standardized, float32 [n, EIGENVECTORS], and their eigenvalues.

    Computed on the references and extended to all windows by one step of the walk. Zeros if there are too few windows.
    """
    from scipy.sparse.linalg import eigsh
    from threadpoolctl import threadpool_limits

    n, m = affinity.shape
    vectors, values = torch.zeros(n, EIGENVECTORS), torch.zeros(EIGENVECTORS)
    own = affinity[references]
    degree = own.sum(1)
    if m <= 2 * EIGENVECTORS or not degree.min() > 0:
        return vectors, values
    first = (degree / degree.sum()).sqrt()  # known; deflating it keeps it from mixing with the others
    rest = own / torch.outer(degree, degree).sqrt() - torch.outer(first, first)
    start = np.random.default_rng(0).normal(size=m).astype(np.float32)
    with threadpool_limits(1, "blas"):  # its threads would spin alongside torch's longer than this takes
        found, turned = eigsh(rest.numpy(), EIGENVECTORS, which="LA", v0=start, tol=1e-3)
    order = np.argsort(-found)
    values = torch.from_numpy(np.ascontiguousarray(found[order])).float()
    v = torch.from_numpy(np.ascontiguousarray(turned[:, order])).float() / degree.sqrt()[:, None]
    v = v if m == n else walk @ v
    v = (v - v.mean(0)) / (v.std(0, correction=0) + 1e-6)
    sign = torch.where((far - far.mean()) @ v < 0, -1.0, 1.0)
    return v * sign, values
