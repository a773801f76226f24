"""Your Diffusion Model is Secretly a Zero-Shot Classifier (ICCV 2023): `method` says how, `classify` does it."""

from zsclib.papers.diffusion_classifier.classifier import DiffusionClassifier, classify
from zsclib.papers.diffusion_classifier.error_matrix import (
    exhaustive,
    nested,
    nested_stages,
    reference_stages,
)
from zsclib.papers.diffusion_classifier.sequential import clark_jaini, sequential

__all__ = [
    "DiffusionClassifier",
    "clark_jaini",
    "classify",
    "exhaustive",
    "nested",
    "nested_stages",
    "reference_stages",
    "sequential",
]
