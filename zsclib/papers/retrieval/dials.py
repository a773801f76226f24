"""The dials of a pool on the side of its index, the generator being left as it is: what would retrieval have had?

    dials = Dials(size=0.1, frequency=0.02, thinned=("star", "car"))
    rows = remaining(len(pool), shows(pool.captions, dials.thinned), dials)

A smaller pool holds rows of a larger one, and so does a thinner one: turning a dial down takes rows away and changes
none. Pixels, captions and the generator stay as they are. What a caption says reaches a CLIP's image features, and a
generator's images, only through their training: for that side of caption noise and of frequency, train another U-Net
(`python -m zsclib.pocket unet --caption-noise … --concept-exponent …`). On the side of the index, captions count where
they are searched: `captions` is their weight in a query, and `noise` the share of them that belong to another image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from zsclib.pools.captioned import CaptionedPool
from zsclib.pools.copies import Traces
from zsclib.pools.vectors import Embeddings, Vectors
from zsclib.prompts import ARTICLE
from zsclib.seeds import rng


@dataclass(frozen=True, kw_only=True)
class Dials:
    """A pool as its index shows it.

    Attributes:
        size: share of the pool's rows that are there.
        frequency: share of the rows of some classes that are there, beside all rows of other things.
        thinned: names of these classes.
        captions: weight of a caption's text features beside the image's features in what is searched: 0 is the paper's
            index of images, 1 an index of texts alone, as Geng et al. (2024) search in addition.
        noise: share of the captions that are those of other rows, in the index alone.
        seed: which rows, which captions.
    """

    size: float = 1.0
    frequency: float = 1.0
    thinned: tuple[str, ...] = ()
    captions: float = 0.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "frequency", "captions", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Dials: {name} must be a share, from 0 to 1, got {getattr(self, name)!r}")


def shows(captions: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return whether each caption names one of some classes, as whole words and without its article: bool (n,)."""
    bare = [f" {ARTICLE.sub('', name).lower()} " for name in names]
    padded = (f" {caption.lower()} " for caption in captions)
    return np.array([any(name in caption for name in bare) for caption in padded], bool)


def remaining(n: int, of_classes: np.ndarray, dials: Dials) -> np.ndarray:
    """Return the rows of a pool of n that its dials leave, int64, rising.

    Args:
        of_classes: whether a row shows one of the thinned classes, bool (n,).
    """
    by_size = rng(dials.seed, "pool dial", "size").random(n) < dials.size
    thinned = of_classes & (rng(dials.seed, "pool dial", "frequency").random(n) >= dials.frequency)
    return np.flatnonzero(by_size & ~thinned)


def exchanged(n: int, dials: Dials) -> np.ndarray:
    """Return of each row of a pool of n the row whose caption it has in the index: int64 (n,), mostly its own."""
    random = rng(dials.seed, "pool dial", "captions")
    wrong = random.random(n) < dials.noise
    return np.where(wrong, random.integers(0, n, n), np.arange(n))


def dialled(
    embeddings: Embeddings, pool: CaptionedPool, of_classes: np.ndarray, dials: Dials, texts: np.ndarray | None
) -> Embeddings:
    """Return the embeddings that dials leave of a pool's, in memory.

    Where captions count, a row is its image's features with its caption's behind them, (n, 2 d), and queries and traces
    are as long (`as_long`): the share of each is then the query's affair, and near-copies are still told by images.

    Args:
        embeddings: of the pool's n images (those that are readable), d wide.
        of_classes: whether an image of the pool shows a thinned class, bool (len(pool),).
        texts: the captions' features, float16 (n, d); None where captions do not count.

    Raises:
        ValueError: nothing is left.
    """
    places = embeddings.rows_in(pool)
    own = np.flatnonzero(np.isin(places, remaining(len(pool), of_classes, dials)))
    if not len(own):
        raise ValueError(f"dialled: {dials} leave nothing of the {len(pool)} images of {pool.name}")
    left = embeddings.take(own)
    if texts is None:
        return left
    behind = texts[exchanged(len(embeddings), dials)[own]]
    vectors = Vectors([np.concatenate([left.vectors[:], behind.astype(left.vectors.dtype)], 1)])
    names = pa.table({"image_path": list(left.ids), "caption": list(left.captions)})
    return Embeddings(vectors, names, model=embeddings.model)


def as_long(queries: np.ndarray, dials: Dials) -> np.ndarray:
    """Return queries (C, d) that weigh images and captions, unit length: (C, 2 d), or as they are without captions.

    Their cosine with a row is √(1 − w) times that with its image and √w times that with its caption.
    """
    if not dials.captions:
        return queries
    image, text = np.sqrt(1 - dials.captions), np.sqrt(dials.captions)
    return np.concatenate([image * queries, text * queries], 1).astype(np.float32)


def traces_as_long(traces: Traces, dials: Dials) -> Traces:
    """Return traces of images that are compared with such rows by their images alone."""
    if not dials.captions:
        return traces
    features = np.concatenate([traces.features, np.zeros_like(traces.features)], 1)
    return Traces(features, traces.thumbnails)
