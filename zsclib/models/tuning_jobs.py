"""The jobs of tuning: what is learnt of some images, as arrays, by the loop of `zsclib.models.denoising`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from zsclib.hashing import key
from zsclib.models.conditioning import Condition
from zsclib.models.denoising import Conditions, Latents, Tuning, finetune
from zsclib.models.encoding import encode_texts
from zsclib.models.generator import Generator
from zsclib.models.personalised import with_network, with_tokens, word_vector
from zsclib.seeds import rng
from zsclib.workers import Execution, Job, run_jobs

Labelled = tuple[np.ndarray, np.ndarray]  # images uint8 (n, H, W, 3), labels int64 (n,)


def run_tuning(
    function: Callable[..., dict], generator: Generator, calls: Sequence[tuple], execution: Execution, what: str
) -> list[Mapping[str, np.ndarray]]:
    """Run a job per call, `function(generator, checkpoint, *call)`, and return their results; all are cached.

    Args:
        function: returns arrays, among them `history` (rows, 3): samples, loss, held-out loss.
        calls: arguments that determine the result, of the kinds that `zsclib.hashing.key` takes.
        what: the name of the work, for the progress.
    """
    fingerprint, jobs = None if execution.cache is None else generator.fingerprint(), []
    for call in calls:
        name = checkpoint = None
        if fingerprint is not None:
            name = key(function=function.__name__, generator=fingerprint, call=call)
            checkpoint = execution.cache.beside(name, ".partial")
        samples = sum(part.samples for part in call if isinstance(part, Tuning))
        jobs.append(Job(function, (generator, checkpoint, *call), name, samples))
    with torch.inference_mode(False):  # tensors made under it could not be tuned
        return list(run_jobs(jobs, execution, what))


def histories(
    names: Sequence[str], parts: Sequence[np.ndarray], results: Iterable[Mapping[str, np.ndarray]]
) -> pd.DataFrame:
    """Return the histories of several tunings as one table: name, images, samples, loss, held_out."""
    tables = [
        pd.DataFrame(result["history"], columns=["samples", "loss", "held_out"]).assign(name=name, images=len(part))
        for name, part, result in zip(names, parts, results, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)[["name", "images", "samples", "loss", "held_out"]]


def job_token(
    generator: Generator,
    checkpoint: Path | None,
    images: np.ndarray,
    held_out: np.ndarray | None,
    name: str,
    word: str,
    prompts: Sequence[str],
    tuning: Tuning,
) -> dict[str, np.ndarray]:
    """Learn the embedding of one new token: `vector` (d,), `history`.

    Args:
        generator: it does not know the token. checkpoint: of the loop.
        images: of one class, uint8 (n, H, W, 3). held_out: others, or None.
        name: the token. word: what it begins as. prompts: texts that hold it, one chosen for every sample.
        tuning: how.
    """
    vector = word_vector(generator, word).float().clone()                                  # (d,)
    tuned = with_tokens(generator, {name: vector})
    table, row = tuned.text_encoder.get_input_embeddings(), tuned.tokenizer.convert_tokens_to_ids(name)
    tuned.text_encoder.set_input_embeddings(_TableWithOneLearnt(table, row, vector))
    tuned.encode_prompts(prompts)  # refuses what it cannot tell apart

    def condition(y: Tensor, samples: np.ndarray) -> Condition:
        chosen = [int(rng(tuning.seed, "template", int(sample)).integers(len(prompts))) for sample in samples]
        used, rows = np.unique(chosen, return_inverse=True)
        embeddings, _ = encode_texts(tuned, [prompts[i] for i in used])                    # (used, L, d)
        return Condition(embeddings).take(torch.from_numpy(rows))

    history = finetune(
        tuned, latents(tuned, images), condition, [vector], tuning, latents(tuned, held_out), checkpoint=checkpoint
    )
    return {"vector": vector.cpu().numpy(), "history": history.to_numpy()}


class _TableWithOneLearnt(nn.Module):
    """An embedding table of which one row is a tensor of its own, through which gradients flow."""

    def __init__(self, table: nn.Embedding, row: int, vector: Tensor):
        super().__init__()
        self.table, self.row, self.vector = table, row, vector

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.table(ids)                                                             # (n, L, d)
        return torch.where((ids == self.row)[..., None], self.vector.to(rows), rows)


def job_conditioning(
    generator: Generator,
    checkpoint: Path | None,
    images: np.ndarray,
    held_out: np.ndarray | None,
    prompt: str,
    tuning: Tuning,
) -> dict[str, np.ndarray]:
    """Learn what cross-attention reads, from a prompt's encoding on: `embedding` (L, d), `pooled` if any, `history`."""
    start = generator.encode_prompts([prompt])
    c, pooled = start.prompts.float().clone(), start.pooled                                # (1, L, d), (1, p)

    def condition(y: Tensor, samples: np.ndarray) -> Condition:
        return Condition(c, pooled).take(torch.zeros_like(y))

    history = finetune(
        generator, latents(generator, images), condition, [c], tuning, latents(generator, held_out),
        checkpoint=checkpoint,
    )  # fmt: skip
    result = {"embedding": c[0].cpu().numpy(), "history": history.to_numpy()}
    return result if pooled is None else result | {"pooled": pooled[0].float().cpu().numpy()}


def job_network(
    generator: Generator,
    checkpoint: Path | None,
    shots: Labelled,
    held_out: Labelled | None,
    prompts: Sequence[str],
    tuning: Tuning,
) -> dict[str, np.ndarray]:
    """Tune the whole network, each label under its prompt: its weights by name, and `history`."""
    tuned = with_network(generator, generator.unet.state_dict())
    history = finetune(
        tuned, latents(tuned, *shots), prompts_of_labels(tuned, prompts), list(tuned.unet.parameters()), tuning,
        None if held_out is None else latents(tuned, *held_out), checkpoint=checkpoint,
    )  # fmt: skip
    weights = {name: value.cpu().numpy() for name, value in tuned.unet.state_dict().items()}
    return weights | {"history": history.to_numpy()}


def prompts_of_labels(generator: Generator, prompts: Sequence[str], differentiable: bool = False) -> Conditions:
    """Return the conditions of `finetune` that ask for each label by its prompt.

    Args:
        differentiable: whether text encoders are being tuned, so that prompts are encoded anew at every step.
    """
    if not differentiable:
        encoded = generator.encode_prompts(prompts)
        return lambda y, samples: encoded.take(y)

    def condition(y: Tensor, samples: np.ndarray) -> Condition:
        used, rows = y.unique(return_inverse=True)
        return Condition(*encode_texts(generator, [prompts[i] for i in used.tolist()])).take(rows)

    return condition


def latents(generator: Generator, images: np.ndarray | None, labels: np.ndarray | None = None) -> Latents | None:
    """Return encoded images with their labels (default: all 0); None where there are none."""
    if images is None or len(images) == 0:
        return None
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    return Latents(generator.encode_images(images), torch.from_numpy(np.asarray(labels, np.int64)))
