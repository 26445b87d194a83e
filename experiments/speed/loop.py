"""The paper's localization and training in plain loops: the baseline for speed, and a test oracle.

Written from the paper's sections 3.3 and 3.4 and known properties of its reference code. The baseline is fair: window
batches, similarities, per-cell averages, row distances and clustering are as fast as their libraries make them.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA

from exiflang.localization.windows import ImageEncoder
from exiflang.models.model import ExifLang


def places(side: int, window: int, stride: int) -> list[int]:
    """Start positions of windows along a side."""
    return list(range(0, side - window + 1, stride))


def load_patch(path: str | Path, size: int, rng: np.random.Generator) -> torch.Tensor:
    """A random crop of a photo that is first decoded completely and converted to 0..1: float32 [3, size, size]."""
    photo = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255  # [3, H, W]
    y, x = (int(rng.integers(side - size + 1)) for side in photo.shape[1:])
    return photo[:, y : y + size, x : x + size]


def embed(model: ImageEncoder, image: np.ndarray, window: int, stride: int, batch_size: int = 32) -> np.ndarray:
    """Embeddings of all windows in raster order: uint8 [H, W, 3] -> float32 [rows, cols, D]; each window is copied."""
    height, width = image.shape[:2]
    rows, cols = places(height, window, stride), places(width, window, stride)
    crops = [image[y : y + window, x : x + window].transpose(2, 0, 1).copy() for y in rows for x in cols]
    parts = []
    with torch.inference_mode():
        for first in range(0, len(crops), batch_size):
            parts.append(model.encode_image(torch.from_numpy(np.stack(crops[first : first + batch_size]))).numpy())
    return np.concatenate(parts).reshape(len(rows), len(cols), -1)


def vote_pairs(embeddings: np.ndarray, spread: int) -> np.ndarray:
    """Dissimilarity `1 - cosine` of pairs of cells, averaged over the pairs of windows that cover them: [h, w, h, w].

    Windows [rows, cols, D] cover `spread` cells per side, so `h = rows + spread - 1`. The sum over pairs of windows is
    divided by their number plus 1e-4.
    """
    rows, cols, dim = embeddings.shape
    flat = embeddings.reshape(-1, dim)
    response = (1 - flat @ flat.T).reshape(rows, cols, rows, cols)
    h, w = rows + spread - 1, cols + spread - 1
    total = np.zeros((h, w, h, w), np.float32)
    count = np.zeros((h, w, h, w), np.float32)
    for y, x, v, u in np.ndindex(rows, cols, rows, cols):
        total[y : y + spread, x : x + spread, v : v + spread, u : u + spread] += response[y, x, v, u]
        count[y : y + spread, x : x + spread, v : v + spread, u : u + spread] += 1
    return total / (count + 1e-4)


def mean_shift(dissimilarity: np.ndarray, percentile: float = 10.0, iterations: int = 5) -> np.ndarray:
    """The strongest mode of the rows of [h, w, h, w], as a map [h, w]; rows shift one after another, in place.

    Each becomes the mean of the original rows within the radius, the `percentile` of all pairwise distances (including
    the zero diagonal). The mode is the mean of the shifted rows that have the most original rows within the radius.
    """
    h, w = dissimilarity.shape[:2]
    original = dissimilarity.reshape(h * w, h * w).astype(np.float64)
    distances = np.stack([np.linalg.norm(original - row, axis=1) for row in original])
    radius = np.percentile(distances, percentile)
    moved = original.copy()
    for _ in range(iterations):
        for i in range(len(moved)):
            near = np.linalg.norm(original - moved[i], axis=1) <= radius
            if near.any():
                moved[i] = original[near].mean(0)
    votes = np.array([(np.linalg.norm(original - row, axis=1) <= radius).sum() for row in moved])
    return moved[votes == votes.max()].mean(0).reshape(h, w)


def cut(dissimilarity: np.ndarray, seed: int = 0) -> np.ndarray:
    """The smaller of two spectral clusters of the cells of [h, w, h, w]: bool [h, w]."""
    h, w = dissimilarity.shape[:2]
    affinity = np.clip(1 - dissimilarity.reshape(h * w, h * w), 0, None)
    labels = SpectralClustering(2, affinity="precomputed", random_state=seed).fit_predict((affinity + affinity.T) / 2)
    return (labels == (labels.mean() < 0.5)).reshape(h, w)


def components(embeddings: np.ndarray, spread: int) -> np.ndarray:
    """Three whitened principal components of [rows, cols, D], averaged over the cells they cover: [h, w, 3]."""
    rows, cols, dim = embeddings.shape
    found = PCA(3, whiten=True, random_state=0).fit_transform(embeddings.reshape(-1, dim)).reshape(rows, cols, 3)
    total = np.zeros((rows + spread - 1, cols + spread - 1, 3))
    count = np.zeros((rows + spread - 1, cols + spread - 1, 1))
    for y in range(rows):
        for x in range(cols):
            total[y : y + spread, x : x + spread] += found[y, x]
            count[y : y + spread, x : x + spread] += 1
    return total / count


def training_step(
    model: ExifLang, optimizer: torch.optim.Optimizer, patches: torch.Tensor, sentences: list[str], tokens: int = 512
) -> float:
    """One step on patches uint8 [B, 3, P, P] and their B sentences, all padded to `tokens`; returns the loss."""
    padded = model.tokenizer(sentences, padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")
    image = model.encode_image(patches)  # [B, D]
    text = model.encode_tokens(padded["input_ids"], padded["attention_mask"], bucketed=False)  # [B, D]
    logits = model.logit_scale * image @ text.T  # [B, B]
    own = torch.arange(len(patches))
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def localize(model: ImageEncoder, image: np.ndarray, window: int, stride: int) -> tuple[np.ndarray, ...]:
    """Heatmap [H, W], mask of cells [h, w] and components [h, w, 3] of a picture, using all of the above."""
    spread = max(1, window // stride)
    embeddings = embed(model, image, window, stride)
    dissimilarity = vote_pairs(embeddings, spread)
    cells = mean_shift(dissimilarity)
    heatmap = np.asarray(
        Image.fromarray(cells.astype(np.float32)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    )
    return heatmap, cut(dissimilarity), components(embeddings, spread)
