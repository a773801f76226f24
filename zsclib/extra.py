"""Extra labelled images, what they took, and equal counts of them: what the arms of papers hand over.

    one = first_of_each(images, equal_counts([images, others], 16))     # as many of each class as both have
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from zsclib.images.image_set import ImageSet


@dataclass(frozen=True, eq=False, kw_only=True)
class Extra:
    """The extra images of an arm, and what they took.

    Attributes:
        images: S, at most n of a class. report: a row per class: class, wanted, delivered, and the arm's own columns.
        evaluations: of the denoiser, to generate. tuning_samples: images that the denoiser learnt from, with repeats.
        seconds: to make S, where nothing of it was cached.
    """

    images: ImageSet
    report: pd.DataFrame
    evaluations: float
    tuning_samples: int
    seconds: float

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all this as arrays, for the cache; `extra_of` is the way back."""
        manifest = self.images.manifest
        about = {
            "classes": self.images.classes,
            "manifest": {name: manifest[name].tolist() for name in manifest.columns},
            "with gaps": [name for name in manifest.columns if str(manifest[name].dtype) == "Int64"],
            "report": {name: self.report[name].tolist() for name in self.report.columns},
        }
        costs = [self.evaluations, self.tuning_samples, self.seconds]
        text = np.frombuffer(json.dumps(about, default=lambda gap: None).encode(), np.uint8)
        return {"images": self.images.images, "labels": self.images.labels, "about": text, "costs": np.array(costs)}


def extra_of(arrays: Mapping[str, np.ndarray]) -> Extra:
    """Return what `Extra.arrays` has turned into arrays."""
    about = json.loads(np.asarray(arrays["about"]).tobytes())
    evaluations, samples, seconds = map(float, arrays["costs"])
    columns = about["manifest"] | {name: pd.array(about["manifest"][name], "Int64") for name in about["with gaps"]}
    manifest = pd.DataFrame(columns, index=pd.RangeIndex(len(arrays["labels"])))
    images = ImageSet(arrays["images"], arrays["labels"], tuple(about["classes"]), manifest=manifest)
    report = pd.DataFrame(about["report"])
    return Extra(
        images=images, report=report, evaluations=evaluations, tuning_samples=int(samples), seconds=seconds
    )


def extra_from(
    made: ImageSet | tuple[ImageSet, pd.DataFrame], n: int, tuning_samples: int, seconds: float
) -> Extra:
    """Return what an arm made as `Extra`: at most n images of each class, and a report of what was delivered.

    Args:
        made: the images, with `evaluations` in their manifest; or these and the arm's own report, a row per class.
        tuning_samples, seconds: what it took.
    """
    images, own = made if isinstance(made, tuple) else (made, pd.DataFrame())
    images = first_of_each(images, np.full(len(images.classes), n))
    report = pd.DataFrame({"class": images.classes, "wanted": n, "delivered": counts(images)})
    report = pd.concat([report, own.drop(columns=["class", "asked", "delivered"], errors="ignore")], axis=1)
    evaluations = float(images.manifest["evaluations"].sum()) if len(images) else 0.0
    return Extra(
        images=images, report=report, evaluations=evaluations, tuning_samples=tuning_samples, seconds=seconds
    )


def costs(extra: Mapping[str, Extra]) -> pd.DataFrame:
    """Return a row per arm: images delivered, the fewest of a class, and what they took."""
    rows = [
        {
            "arm": name,
            "images": len(one.images),
            "fewest of a class": int(counts(one.images).min()),
            "denoiser evaluations": one.evaluations,
            "samples tuned on": one.tuning_samples,
            "seconds": one.seconds,
        }
        for name, one in extra.items()
    ]
    return pd.DataFrame(rows)


def counts(images: ImageSet) -> np.ndarray:
    """Return how many images of each class a set has, int64 (C,)."""
    return np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))


def equal_counts(sets: Iterable[ImageSet], n: int) -> np.ndarray:
    """Return how many images of each class every one of some sets has, n at most: int64 (C,)."""
    return np.minimum(n, np.min([counts(images) for images in sets], axis=0))


def first_of_each(images: ImageSet, most: np.ndarray) -> ImageSet:
    """Return of each class y the first most[y] images, in the set's order."""
    own = pd.Series(images.labels).groupby(images.labels).cumcount().to_numpy()  # the how-manieth of its class
    return images.take(own < np.asarray(most)[images.labels])


def in_turn(images: ImageSet) -> ImageSet:
    """Return a set with its classes in turn: the first image of every class, then the second."""
    turn = pd.Series(images.labels).groupby(images.labels).cumcount().to_numpy()
    return images.take(np.lexsort((images.labels, turn)))
