"""Your Diffusion Model is Secretly a Zero-Shot Classifier (ICCV 2023): begin with `classifier`."""

from zsclib.papers.diffusion_classifier.classifier import (
    DiffusionClassifier,
    Result,
    Schedule,
    Sequential,
    Store,
    clark_jaini,
    classify,
    errors,
    exhaustive,
    nested_stages,
    noise,
    posterior,
    reference_stages,
    result_of,
    sequential,
)

__all__ = [
    "DiffusionClassifier",
    "Result",
    "Schedule",
    "Sequential",
    "Store",
    "clark_jaini",
    "classify",
    "errors",
    "exhaustive",
    "nested_stages",
    "noise",
    "posterior",
    "reference_stages",
    "result_of",
    "sequential",
]
