"""How well photos match their own EXIF: retrieval, and own sentences against those of other cameras."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from exiflang.data.patches import decode_patch
from exiflang.data.shards import Photo, plain_name
from exiflang.exif.text import exif_to_text
from exiflang.models.model import ExifLang


def embed_photos(
    model: ExifLang, photos: Sequence[Photo], crops: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Image and EXIF embeddings of n photos: float32 [n, D] each, unit norm.

    The image embedding is the mean over `crops` random patches of the photo's tiles, so each photo has equal weight
    whatever its number of tiles. Puts the model in evaluation mode. Raises `ValueError` for no photos, and `DataError`
    naming a broken tile.
    """
    if not photos:
        raise ValueError("no photos to embed: the held-out shards are empty")
    model.eval()
    size = model.config.patch_size
    image, text = [], []
    with torch.inference_mode():
        for index, photo in enumerate(tqdm(photos, unit=" photos")):
            rng = np.random.default_rng([seed, index])
            patches = torch.stack([decode_patch(photo, size, rng) for _ in range(crops)])  # [crops, 3, P, P]
            image.append(model.encode_image(patches.to(model.device)).mean(0).cpu())  # [crops, D] -> [D]
        for part in range(0, len(photos), 64):
            text.append(model.encode_exif([photo.tags for photo in photos[part : part + 64]]).cpu())
    image_side = torch.nn.functional.normalize(torch.stack(image), dim=1)
    return image_side.numpy(), torch.cat(text).numpy()


def retrieval(image: np.ndarray, text: np.ndarray, photos: Sequence[Photo], among: int = 64, seed: int = 0) -> dict:
    """Photo → EXIF recall@1: how often a photo's own sentence is nearest, among `among` photos and within a camera.

    `recall`: mean over 100 random groups of `among` photos (all photos if there are fewer). `recall_camera`: among the
    held-out photos of the same camera, for cameras with at least two. A sentence identical to the photo's own counts as
    a hit; ties between different sentences, e.g. if all embeddings are equal, are broken at random. `chance`,
    `chance_camera`: the score of a random guess in the same groups, which is one over the group's size, or more if some
    sentences are identical.

    Raises `ValueError` for no photos, for a number of embeddings that differs from that of photos, and for NaN.
    """
    similarity = _similarity(image, text, photos)
    _, sentences = np.unique([exif_to_text(photo.tags) for photo in photos], return_inverse=True)  # [n]
    rng = np.random.default_rng(seed)

    def hits(group: np.ndarray) -> np.ndarray:
        """Whether each photo of the group found its sentence, and the probability of a guess: float [2, group]."""
        group = rng.permutation(group)
        nearest = group[similarity[np.ix_(group, group)].argmax(1)]
        own = sentences[group]
        return np.stack([sentences[nearest] == own, (own[:, None] == own).mean(1)])

    size = min(among, len(photos))
    groups = [rng.choice(len(photos), size, replace=False) for _ in range(100)]
    by_camera = pd.Series(range(len(photos))).groupby([photo.camera for photo in photos]).indices.values()
    cameras = [np.asarray(members) for members in by_camera if len(members) > 1]
    result: dict[str, float] = {}
    for suffix, among_whom in (("", groups), ("_camera", cameras)):
        if among_whom:
            recall, chance = np.concatenate([hits(group) for group in among_whom], axis=1).mean(1)
            result |= {f"recall{suffix}": float(recall), f"chance{suffix}": float(chance)}
    return result | {"photos": len(photos), "among": size, "cameras": len(cameras)}


def exif_fit(image: np.ndarray, text: np.ndarray, photos: Sequence[Photo]) -> dict:
    """How well cosine similarity separates own sentences from those of other cameras: AUC, 0.5 for chance.

    `auc`: pooled over all photos; positives are the n photos with their own sentences, negatives all pairs of a photo
    and a sentence whose cameras (make and model, ignoring case, spaces and punctuation) differ. `macro`: the mean of
    per-photo AUCs, which is easier, since it needs no common scale over photos. Ties count half. `photos`, `cameras`
    and `negatives` are the numbers of each. Memory: about 80 bytes per pair of photos.

    Args:
        image, text: embeddings of the photos and of their sentences, float [n, D], as `embed_photos` returns.

    Raises `ValueError` for no photos, for a number of embeddings that differs from that of photos, for NaN, and for
    fewer than two cameras.
    """
    similarity = _similarity(image, text, photos)
    cameras, camera = np.unique([plain_name(photo.camera) for photo in photos], return_inverse=True)  # [n]
    if len(cameras) < 2:
        raise ValueError(f"all {len(photos)} photos are from one camera: give photos from two or more")
    other = camera[:, None] != camera  # [n, n]
    own = np.diag(similarity)
    negatives = similarity[other]  # [pairs]
    labels = np.repeat([True, False], [len(own), len(negatives)])
    lower = (own[:, None] > similarity) + 0.5 * (own[:, None] == similarity)  # [n, n]
    return {
        "auc": float(roc_auc_score(labels, np.concatenate([own, negatives]))),
        "macro": float(lower.mean(1, where=other).mean()),
        "photos": len(photos),
        "cameras": len(cameras),
        "negatives": len(negatives),
    }


def _similarity(image: np.ndarray, text: np.ndarray, photos: Sequence[Photo]) -> np.ndarray:
    """Cosines of photos (rows) and sentences; `ValueError` for NaN and if there is not one embedding per photo."""
    similarity = image @ text.T  # [n, D] x [D, n] -> [n, n]
    if not photos or similarity.shape != (len(photos), len(photos)):
        raise ValueError(f"embeddings of {len(image)} images and {len(text)} sentences for {len(photos)} photos")
    if not np.isfinite(similarity).all():
        raise ValueError("embeddings contain NaN or infinity: the weights are broken")
    return similarity
