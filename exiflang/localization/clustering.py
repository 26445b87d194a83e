"""Readouts: how unlike each other the cells of a picture are → one value a cell, high where it is spliced.

Each takes the dissimilarity of cells, float [h, w, h, w] (`1 - cosine`, 0 for equal, at most 2), as an estimator with
`fit_predict`. They look at that array alone, so that any embedding can stand before them.
"""

from dataclasses import dataclass

import numpy as np

# scipy is imported by the functions: an import of the localizer does not wait for it.


def square_rows(dissimilarity: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Check [h, w, h, w] and flatten it to float64 [h * w, h * w]."""
    array = np.asarray(dissimilarity)
    if array.ndim != 4 or array.shape[:2] != array.shape[2:] or array.size == 0:
        raise ValueError(f"dissimilarity must be [h, w, h, w] and not empty, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("dissimilarity holds NaN or infinity: the embeddings are broken")
    h, w = array.shape[:2]
    return array.reshape(h * w, h * w).astype(np.float64), h, w


@dataclass
class MeanShiftMode:
    """The paper's readout: mean shift over the rows of the dissimilarity; its strongest mode is the heatmap.

    Radius: `percentile` of all pairwise Euclidean distances of rows, the zero diagonal included. `iterations` times,
    all rows at once: each becomes the mean of the original rows within the radius of it. Then the mean of those
    shifted rows that have the most original rows within the radius. (The reference moves rows one after the other in
    place, which depends on their order.) The radius is widened by the rounding of `_squared_distances`, so that equal
    rows are always near each other.
    """

    percentile: float = 10.0
    iterations: int = 5

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w], the dissimilarity of each cell to the picture's largest mode."""
        rows, h, w = square_rows(dissimilarity)
        centered = (rows - rows.mean(0)).astype(np.float32)  # what all rows share would only add to the rounding
        gram = centered @ centered.T  # [n, n]
        norms = np.diag(gram)
        squared = norms[:, None] + norms - 2 * gram  # of the rows among themselves
        radius = np.percentile(np.sqrt(np.maximum(squared, 0)), self.percentile)
        reach = radius**2 + 1e-5 * norms.max()
        # A shifted row is weights @ rows: its distances need the Gram matrix alone.
        weights = np.eye(h * w, dtype=np.float32)
        for _ in range(self.iterations):
            near = squared <= reach  # [n, n]
            size = near.sum(1, keepdims=True, dtype=np.float32)
            np.divide(near, size, out=weights, where=size > 0)  # with no original row in reach a row stays where it is
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
    """Mean dissimilarity of a cell to all cells: right while the spliced region is the smaller part."""

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w]."""
        rows, h, w = square_rows(dissimilarity)
        return rows.mean(1).reshape(h, w).astype(np.float32)


def smooth(dissimilarity: np.ndarray, sigma: float) -> np.ndarray:
    """Dissimilarity after Gaussian smoothing of the unit embeddings behind it over the grid: [h, w, h, w] → the same.

    With `K` the filter and `G` the cosines, embeddings smoothed and scaled back to unit norm have the cosines
    `(K G K') / sqrt(diag diag')`: no need for the embeddings themselves.
    """
    from scipy.ndimage import gaussian_filter

    _, h, w = square_rows(dissimilarity)
    cosine = gaussian_filter(1 - np.asarray(dissimilarity, np.float32), sigma, mode="nearest").reshape(h * w, h * w)
    norm = np.sqrt(np.maximum(np.diag(cosine), 1e-12))
    return (1 - cosine / np.outer(norm, norm)).reshape(h, w, h, w)


def affinity(smoothed: np.ndarray) -> np.ndarray:
    """Positive part of the cosines of centered embeddings, from their dissimilarity [h, w, h, w]: [n, n], symmetric.

    The diagonal is 1: a cell without variance has itself alone.
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

    All zeros where there is nothing to tell apart. The sign is arbitrary, but the same for the same input.
    """
    from scipy.sparse.linalg import eigsh

    degree = edges.sum(1, dtype=np.float64)
    n = len(degree)
    if n < 2:
        return np.zeros(n)
    # The first eigenvector is known, D^1/2 1: taken off, it cannot mix with the second where parts are unconnected.
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
    """A cell of the host has friends all over the picture, a spliced one only beside itself.

    Minus the mean cosine of a cell with the most similar tenth (`share` of all cells) among those at least a quarter
    (`distance`) of the longer side away; embeddings smoothed by a Gaussian of `sigma` cells first. Where the grid has
    too few cells that far, the farthest ones are taken.
    """

    share: float = 0.1
    distance: float = 0.25
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.distance < 0 or self.sigma < 0:
            raise ValueError(f"{self}: give a share above 0 and at most 1, a distance and a sigma of at least 0")

    def fit_predict(self, dissimilarity: np.ndarray) -> np.ndarray:
        """float [h, w, h, w] → float32 [h, w] in -1..1: `-cosine`, so 1 means that no far cell is anything alike."""
        _, h, w = square_rows(dissimilarity)
        n = h * w
        cosine = 1 - smooth(dissimilarity, self.sigma).reshape(n, n)
        y, x = np.divmod(np.arange(n), w)
        distance = np.hypot(y[:, None] - y, x[:, None] - x)  # [n, n]
        wanted = max(1, round(self.share * n))
        # Cells differ in how many far ones they have (few near the middle of a small grid): rank distances per cell.
        reach = np.minimum(self.distance * max(h, w), np.sort(distance, 1)[:, [n - wanted]])
        far = np.where(distance >= reach, cosine, -np.inf)
        friends = -np.partition(-far, wanted - 1, axis=1)[:, :wanted]  # [n, n] -> [n, wanted]
        return -friends.mean(1).reshape(h, w).astype(np.float32)


@dataclass
class Diffusion:
    """Far friends diffused along the affinity, so that cells of one origin share their value.

    With `P` the row-normalized positive part of the cosines of centered embeddings, and `f` the far-friends map,
    `steps` times `q <- (1 - weight) f + weight P q`, starting from `f` (a random walk with restarts at `f`). Friends
    are the most similar quarter here: what the walk averages need not be as sharp as what is shown.
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
    """`Diffusion` of the map [h, w] along the affinities [n, n]: float32 [h, w]."""
    walk = edges / edges.sum(1, keepdims=True)
    f = far.reshape(-1)
    q = f
    for _ in range(steps):
        q = (1 - weight) * f + weight * (walk @ q)
    return q.reshape(far.shape).astype(np.float32)


@dataclass
class SignedEigenvector:
    """The relaxed normalized cut (Shi and Malik 2000), turned so that the part without far friends is high.

    With `A` the affinity and `D` its row sums, `u` the second eigenvector of `D^-1/2 A D^-1/2` and `v = D^-1/2 u`,
    nearly constant in each part of the picture. Neither its sign nor its size means anything, so the far-friends map
    `f` gives both: the regression of `f` on `v`, `mean f + (v - mean v) cov(f, v) / var(v)`. It has the order of
    `v`, the sign of their correlation, and stays flat on an authentic picture, where `f` is.
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
    """Diffused far friends, which find small regions, plus a little of the eigenvector, which cuts off large ones.

    `q + cut * sign * std(q) * v`, with `v` of `SignedEigenvector`, standardized, its `sign` that of its correlation
    with the far-friends map, and its size that of the diffused map `q`, which is flat on an authentic picture.
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
        """float [h, w, h, w] → bool [h, w], true for the smaller cluster; all false where there is nothing to cut."""
        rows, h, w = square_rows(dissimilarity)
        if h * w < 3 or np.ptp(rows) < 1e-5:
            return np.zeros((h, w), bool)
        # Below zero there is no affinity; the small constant keeps the graph connected.
        vector = second_eigenvector(np.clip(1 - (rows + rows.T) / 2, 0, None) + 1e-6)
        high = vector > _two_means(vector)
        return (high == (high.mean() < 0.5)).reshape(h, w) & vector.any()


def _two_means(values: np.ndarray) -> float:
    """The threshold between the two clusters of k-means, at its global optimum: float [n], n above 1.

    The first of the two eigenvectors of spectral clustering is constant: one dimension is left, in which a cluster is a
    run of the sorted values. Of all n - 1 ways to divide them the one with the largest variance between its parts.
    """
    ranked = np.sort(values)
    n, sums = len(ranked), np.cumsum(ranked)
    count = np.arange(1, n)  # in the lower part
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
    """Higher = more likely spliced.

    The deviation of the cells' values; for mean shift the mean response, as the paper has it. For "diffused_cut" how
    far the far-friends map reaches above its median, to its 99th percentile: the cut divides authentic pictures too.
    """
    if readout in ("mean_shift", "sequential_mean_shift"):
        return float(consistency.mean())
    if readout == "diffused_cut":
        median, high = np.percentile(FarFriends().fit_predict(consistency), [50, 99])
        return float(high - median)
    return float(cells.std())
