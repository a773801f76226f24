"""What the text tower knows of the order of two things, read off its states by a linear probe (Alain & Bengio 2016)."""

from __future__ import annotations

import numpy as np

from zsclib.models.generator import Generator
from zsclib.pocket.requests import requests


def order_in_text_states(generator: Generator, n: int, training: int = 4000) -> np.ndarray:
    """Return for which prompts a probe on the text states names the colour that stands left or above; bool (n,).

    Neither the words nor their places tell it to such a probe: it takes the relation and the order together. Should the
    probe read it, the text tower has worked it out.

    Args:
        generator: whose text tower is meant.
        n: prompts that test the probe.
        training: other prompts, which fit it.
    """
    wanted = requests("relation of colours", n + training, seed=2)
    here, there = (
        (wanted[f"{a} colour"] + wanted[f"{b} colour"]).to_numpy()
        for a, b in (("left", "top"), ("right", "bottom"))
    )
    states = generator.encode_prompts(wanted.prompt.tolist()).embeddings                  # (n + training, 32, d)
    return linear_probe(states.flatten(1).float().cpu().numpy(), here, there, training)


def linear_probe(features: np.ndarray, here: np.ndarray, there: np.ndarray, training: int) -> np.ndarray:
    """Return whether a linear probe tells, of each row's two words, the one that is `here`; bool (n − training,).

    Ridge regression of one output per word: 1 where the word is here, −1 where it is there, 0 where it is neither.

    Args:
        features: float (n, d).
        here: a word per row, (n,).
        there: another, (n,).
        training: the last rows, which fit the probe; it is tested on the rows before them.
    """
    words, both = np.unique(np.concatenate([here, there]), return_inverse=True)
    here, there = np.split(both, 2)
    rows, n = np.arange(len(features)), len(features) - training
    target = np.zeros((len(features), len(words)))
    target[rows, here], target[rows, there] = 1, -1
    x = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    gram = x[n:].T @ x[n:]
    gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
    outputs = x[:n] @ np.linalg.solve(gram, x[n:].T @ target[n:])
    return outputs[rows[:n], here[:n]] > outputs[rows[:n], there[:n]]
