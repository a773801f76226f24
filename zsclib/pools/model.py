"""Which CLIP made embeddings: its fingerprint, and the refusal of another one's."""

from __future__ import annotations

import json

import numpy as np

from zsclib.hashing import key
from zsclib.models.clip import Clip
from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.vectors import Embeddings, spread

SAME_IMAGE = (
    0.9  # least cosine of an image's embeddings by one model, whatever prepared it and in what precision
)


def check_model(embeddings: Embeddings, clip: Clip, pool: CaptionedPool | None = None) -> None:
    """Raise ValueError unless embeddings are a CLIP's own.

    Args:
        pool: its images, some of which are embedded again where nobody noted the model.
    """
    where, width = embeddings.folder or "these embeddings", clip.model.config.projection_dim
    if embeddings.vectors.shape[1] != width:
        raise ValueError(
            f"{where}: {embeddings.vectors.shape[1]} wide, this CLIP's embeddings are {width}; give the CLIP that made "
            "them"
        )
    if embeddings.model is not None:
        if embeddings.model != model_fingerprint(clip):
            raise ValueError(
                f"{where}: made by another CLIP than this one; give the one that made them, or embed again"
            )
    elif pool is not None:
        rows = spread(len(embeddings), 16)
        images = pool.read(embeddings.rows_in(pool)[rows], side_of(clip))
        usable = [i for i, image in enumerate(images) if image is not None]
        again = clip.encode_images(np.stack([images[i] for i in usable])).cpu().numpy()
        cosines = (again * embeddings.vectors[rows[usable]]).sum(1)
        if np.median(cosines) < SAME_IMAGE:
            raise ValueError(
                f"{where}: this CLIP embeds the same images otherwise (cosine {np.median(cosines):.2f} with what is "
                f"stored, at least {SAME_IMAGE} expected); give the CLIP that made them, or embed again"
            )


def model_fingerprint(clip: Clip) -> str:
    """Return a hash of a CLIP's weights and of how it prepares images."""
    names = ("size", "crop_size", "image_mean", "image_std", "resample", "do_center_crop")
    prepared = {name: clip.processor.to_dict().get(name) for name in names}
    return key(
        weights=dict(clip.model.state_dict()), prepared=json.dumps(prepared, sort_keys=True, default=str)
    )


def side_of(clip: Clip) -> int:
    """Return how many pixels wide a CLIP sees images."""
    return int(clip.model.config.vision_config.image_size)
