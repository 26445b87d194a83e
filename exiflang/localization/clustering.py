"""Readouts: pairwise dissimilarity of a picture's cells → one value per cell, high where spliced.

Each is an estimator whose `fit_predict` takes the dissimilarity of cells, float [h, w, h, w] (`1 - cosine`, 0 for
equal, at most 2). It uses nothing else, so readouts work with any embedding.
"""

from dataclasses import dataclass

import numpy as np

# scipy is imported inside functions to keep importing the localizer fast.


def square_rows(dissimilarity: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Check [h, w, h, w] and flatten it to float64 [h * w, h * w]."""
    array = np.asarray(dissimilarity)
    if array.ndim != 4 or array.shape[:2] != array.shape[2:] or array.size == 0:
        raise ValueError(f"dissimilarity must be [h, w, h, w] and not empty, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("dissimilarity contains NaN or infinity: the embeddings are broken")
    h, w = array.shape[:2]
    return array.reshape(h * w, h * w).astype(np.float64), h, w


@dataclass
class MeanShiftMode:
    """The paper's readout: mean shift over the rows of the dissimilarity; its strongest mode is the heatmap.

    The radius is the `percentile` of all pairwise Euclidean distances of rows, including the zero diagonal. Repeated
    `iterations` times, for all rows at once: each becomes the mean of the original rows within its radius. The mode is
    the mean of the shifted rows that have the most original rows within the radius. (The reference code shifts rows in
    place one after another, so its result depends on their order.) The radius is widened by the rounding error of
    `_squared_distances`, so equal rows are always neighbors.
    """

    percentile: float = 10.0
    iterations: int = 5

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w], the dissimilarity of each cell to the picture's largest mode."""
        rows, h, w = square_rows(dissimilarity)
        centered = (rows - rows.mean(0)).astype(np.float32)  # a common offset would only add rounding error
        gram = centered @ centered.T  # [n, n]
        norms = np.diag(gram)
        squared = norms[:, None] + norms - 2 * gram  # between all pairs of rows
        radius = np.percentile(np.sqrt(np.maximum(squared, 0)), self.percentile)
        reach = radius**2 + 1e-5 * norms.max()
        # A shifted row is weights @ rows, so its distances need only the Gram matrix.
        weights = np.eye(h * w, dtype=np.float32)
        for _ in range(self.iterations):
            near = squared <= reach  # [n, n]
            size = near.sum(1, keepdims=True, dtype=np.float32)
            np.divide(near, size, out=weights, where=size > 0)  # no row in reach: keep it
            squared = _squared_distances(weights, gram)
        members = (squared <= reach).sum(1)  # [n]
        return (weights[members == members.max()].mean(0) @ rows).reshape(h, w).astype(np.float32)


def _squared_distances(weights: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Squared distances [m, n] of mixtures `weights @ rows` [m, d] to the rows [n, d], from their `gram` [n, n]."""
    across = weights @ gram  # [m, n]
    norms = np.einsum("mn,mn->m", across, weights)
    across *= -2
    across += norms[:, None]
    across += np.diag(gram)
    return across


@dataclass
class MeanDissimilarity:
    """Mean dissimilarity of a cell to all cells; valid while the spliced region is less than half of the picture."""

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w]."""
        rows, h, w = square_rows(dissimilarity)
        return rows.mean(1).reshape(h, w).astype(np.float32)


def smooth(dissimilarity: np.ndarray, sigma: float) -> np.ndarray:
    """Dissimilarity after Gaussian smoothing of the underlying embeddings over the grid: [h, w, h, w] → [h, w, h, w].

    With `K` the filter and `G` the cosines, embeddings smoothed and rescaled to unit norm have the cosines
    `(K G K') / sqrt(diag diag')`, so the embeddings themselves are not needed.
    """
    from scipy.ndimage import gaussian_filter

    _, h, w = square_rows(dissimilarity)
    cosine = gaussian_filter(1 - np.asarray(dissimilarity, np.float32), sigma, mode="nearest").reshape(h * w, h * w)
    norm = np.sqrt(np.maximum(np.diag(cosine), 1e-12))
    return (1 - cosine / np.outer(norm, norm)).reshape(h, w, h, w)


def affinity(smoothed: np.ndarray) -> np.ndarray:
    """Positive part of the cosines of centered embeddings, from their dissimilarity [h, w, h, w]: [n, n], symmetric.

    The diagonal is 1, so a cell without variance is linked only to itself.
    """
    _, h, w = square_rows(smoothed)
    cosine = 1 - smoothed.reshape(h * w, h * w)
    # Cosines of centered embeddings: double-center the Gram matrix, then scale its diagonal to one.
    gram = cosine - cosine.mean(0) - cosine.mean(1)[:, None] + cosine.mean()
    norm = np.sqrt(np.maximum(np.diag(gram), 1e-12))
    edges = np.maximum(gram / np.outer(norm, norm), 0)
    np.fill_diagonal(edges, 1)
    return edges


def second_eigenvector(edges: np.ndarray) -> np.ndarray:
    """`v = D^-1/2 u`, `u` the second eigenvector of `D^-1/2 A D^-1/2`, from the affinity A: standardized, float64 [n].

    All zeros if all cells are alike. The sign is arbitrary but deterministic.
    """
    from scipy.sparse.linalg import eigsh

    degree = edges.sum(1, dtype=np.float64)
    n = len(degree)
    if n < 2:
        return np.zeros(n)
    # The first eigenvector is known, D^1/2 1. Deflating it keeps it from mixing with the second in unconnected graphs.
    first = np.sqrt(degree / degree.sum())
    rest = edges / np.sqrt(np.outer(degree, degree)) - np.outer(first, first)  # [n, n]
    start = np.random.default_rng(0).standard_normal(n)
    _, vector = eigsh(rest, k=1, which="LA", v0=start, tol=1e-5)  # [n, 1]
    v = vector[:, 0] / np.sqrt(degree)
    v -= v.mean()
    deviation = v.std()
    return v / deviation if deviation > 1e-6 * np.abs(vector).max() else np.zeros(n)


@dataclass
class FarFriends:
    """Negative similarity to the best-matching distant cells ("far friends"): host cells have them, spliced ones don't.

    Minus the mean cosine of a cell with the most similar cells (as many as a tenth, `share`, of all) among those at
    least a quarter (`distance`) of the longer side away. Embeddings are first smoothed by a Gaussian of `sigma` cells.
    If too few cells are that far away, the farthest ones count.
    """

    share: float = 0.1
    distance: float = 0.25
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.distance < 0 or self.sigma < 0:
            raise ValueError(f"{self}: give a share above 0 and at most 1, a distance and a sigma of at least 0")

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w] in -1..1: `-cosine`, so 1 means that no distant cell is similar."""
        _, h, w = square_rows(dissimilarity)
        n = h * w
        cosine = 1 - smooth(dissimilarity, self.sigma).reshape(n, n)
        y, x = np.divmod(np.arange(n), w)
        distance = np.hypot(y[:, None] - y, x[:, None] - x)  # [n, n]
        wanted = max(1, round(self.share * n))
        # The number of distant cells varies (few for the middle of a small grid), so rank distances per cell.
        reach = np.minimum(self.distance * max(h, w), np.sort(distance, 1)[:, [n - wanted]])
        far = np.where(distance >= reach, cosine, -np.inf)
        friends = -np.partition(-far, wanted - 1, axis=1)[:, :wanted]  # [n, n] -> [n, wanted]
        return -friends.mean(1).reshape(h, w).astype(np.float32)


@dataclass
class Diffusion:
    """Far-friends map diffused along the affinity, which evens out its values over cells of one origin.

    With `P` the row-normalized positive part of the cosines of centered embeddings, and `f` the far-friends map,
    repeats `q <- (1 - weight) f + weight P q` `steps` times from `q = f` (a random walk with restart). Friends are the
    most similar quarter here: `f` may be less sharp, because the walk averages it.
    """

    steps: int = 15
    weight: float = 0.8
    share: float = 0.25
    sigma: float = 1.0

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w], on the scale of `FarFriends`."""
        far = FarFriends(share=self.share, sigma=self.sigma).fit_predict(dissimilarity)
        return _diffuse(far, affinity(smooth(dissimilarity, self.sigma)), self.steps, self.weight)


def _diffuse(far: np.ndarray, edges: np.ndarray, steps: int, weight: float) -> np.ndarray:
    """`Diffusion` of a map [h, w] along affinities [n, n]: float32 [h, w]."""
    walk = edges / edges.sum(1, keepdims=True)
    f = far.reshape(-1)
    q = f
    for _ in range(steps):
        q = (1 - weight) * f + weight * (walk @ q)
    return q.reshape(far.shape).astype(np.float32)


@dataclass
class SignedEigenvector:
    """The relaxed normalized cut (Shi and Malik 2000), with the sign that makes the part without far friends high.

    With `A` the affinity and `D` its row sums, `u` is the second eigenvector of `D^-1/2 A D^-1/2` and `v = D^-1/2 u`,
    which is nearly constant in each part of the picture. Its sign and scale are arbitrary, so both come from the
    far-friends map `f`, by regressing `f` on `v`: `mean f + (v - mean v) cov(f, v) / var(v)`. The result has the order
    of `v` up to the sign of their correlation, and is flat on an authentic picture because `f` is.
    """

    share: float = 0.1
    sigma: float = 1.0

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w], about on the scale of `FarFriends`."""
        smoothed = smooth(dissimilarity, self.sigma)
        far = FarFriends(share=self.share, sigma=0).fit_predict(smoothed)
        vector = second_eigenvector(affinity(smoothed)).reshape(far.shape)
        return (far.mean() + _covariance(far, vector) * vector).astype(np.float32)


@dataclass
class DiffusedCut:
    """Diffused far friends, which find small regions, plus a little of the eigenvector, which separates large ones.

    `q + cut * sign * std(q) * v`, with `q` the diffused map, `v` the standardized eigenvector of `SignedEigenvector`
    and `sign` the sign of its correlation with the far-friends map. The result is flat on an authentic picture, as `q`
    is.
    """

    cut: float = 0.25
    share: float = 0.1
    sigma: float = 1.0

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w], about on the scale of `FarFriends`."""
        smoothed = smooth(dissimilarity, self.sigma)
        far = FarFriends(share=self.share, sigma=0).fit_predict(smoothed)
        edges = affinity(smoothed)
        diffused = _diffuse(far, edges, Diffusion.steps, Diffusion.weight)
        vector = second_eigenvector(edges).reshape(far.shape)
        size = self.cut * np.sign(_covariance(far, vector)) * diffused.std()
        return (diffused + size * vector).astype(np.float32)


def _covariance(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - a.mean()) * (b - b.mean())).mean())


@dataclass
class NormalizedCut:
    """Two clusters of cells by spectral clustering on `1 - dissimilarity` (Shi and Malik 2000; the paper's mask)."""

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → bool [h, w], true in the smaller cluster; all false if there are no two clusters."""
        rows, h, w = square_rows(dissimilarity)
        if h * w < 3 or np.ptp(rows) < 1e-5:
            return np.zeros((h, w), bool)
        # Affinities are not negative; the small constant keeps the graph connected.
        vector = second_eigenvector(np.clip(1 - (rows + rows.T) / 2, 0, None) + 1e-6)
        high = vector > _two_means(vector)
        return (high == (high.mean() < 0.5)).reshape(h, w) & vector.any()


def _two_means(values: np.ndarray) -> float:
    """The threshold between two k-means clusters at the global optimum: float [n], n above 1.

    Spectral clustering's first eigenvector is constant, which leaves one dimension, where clusters are runs of the
    sorted values. Of the n - 1 possible splits, the one with the largest between-class variance is optimal.
    """
    ranked = np.sort(values)
    n, sums = len(ranked), np.cumsum(ranked)
    count = np.arange(1, n)  # in the lower cluster
    between = (sums[:-1] - count * sums[-1] / n) ** 2 / (count * (n - count))  # [n - 1], times n
    return float(ranked[between.argmax()])


READOUTS = {
    "mean_shift": MeanShiftMode,
    "mean_dissimilarity": MeanDissimilarity,
    "far_friends": FarFriends,
    "diffusion": Diffusion,
    "eigenvector": SignedEigenvector,
    "diffused_cut": DiffusedCut,
}


def detection_score(cells: np.ndarray, consistency: np.ndarray, readout: str) -> float:
    """The picture's score; higher = more likely spliced.

    It is the standard deviation of the cells' values; for mean shift, the mean response, as in the paper. For
    "diffused_cut", it is the 99th percentile of the far-friends map minus its median, because the cut also divides
    authentic pictures.
    """
    if readout in ("mean_shift", "sequential_mean_shift"):
        return float(consistency.mean())
    if readout == "diffused_cut":
        median, high = np.percentile(FarFriends().fit_predict(consistency), [50, 99])
        return float(high - median)
    return float(cells.std())
