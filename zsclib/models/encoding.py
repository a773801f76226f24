"""Prompts become what a network reads: by the model's own text encoders, by class names, or by learnt names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zsclib.models.conditioning import class_ids
from zsclib.models.folders import check_truncation

PROMPTS_AT_ONCE = 100


def encode(generator: Any, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what `Condition` holds of n prompts: embeddings (n, L, d), pooled (n, p) or None, class ids (n,) or None.

    Errors are those of `Generator.encode_prompts`, which calls this.
    """
    if generator.id2label is not None:
        table = generator.unet.transformer_blocks[0].norm1.emb.class_embedder.embedding_table
        ids = class_ids(prompts, generator.id2label, generator.unet.config.num_embeds_ada_norm)
        rows = torch.tensor(ids, device=generator.device)
        return table(rows)[:, None], None, rows
    learnt = generator.parts.get("learnt")
    names = () if learnt is None else learnt.names
    texts = [prompt for prompt in prompts if prompt not in names]
    for text in texts:
        if inside := [name for name in names if name in text]:
            raise ValueError(
                f"{inside[0]} is a learnt conditioning, a whole prompt by itself, and no word for a longer one; got "
                f"{text!r} (words are learnt by textual_inversion)"
            )
    tokenizers = [part for name, part in generator.parts.items() if name.startswith("tokenizer")]
    check_truncation(tokenizers, texts)
    if not names:
        return *encode_texts(generator, texts), None
    embeddings, pooled = encode_texts(generator, texts) if texts else (learnt.embeddings[:0], None)
    place = {name: len(texts) + row for row, name in enumerate(names)}
    others = iter(range(len(texts)))
    rows = torch.tensor([place[prompt] if prompt in place else next(others) for prompt in prompts])
    rows, pooled = rows.to(generator.device), [part for part in (pooled, learnt.pooled) if part is not None]
    embeddings = torch.cat([embeddings, learnt.embeddings])
    return embeddings[rows], torch.cat(pooled)[rows] if pooled else None, None


def encode_texts(generator: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Return embeddings (n, L, d) and pooled (n, p) or None of n texts, differentiable in the encoders' weights."""
    pipeline, embeddings, pooled = generator.pipeline(), [], []
    for start in range(0, len(texts), PROMPTS_AT_ONCE):
        chunk = list(texts[start : start + PROMPTS_AT_ONCE])
        if "transformer" in generator.parts:
            encoded = pipeline.encode_prompt(
                chunk, None, None, device=generator.device, do_classifier_free_guidance=False
            )
            pooled.append(encoded[2])
        else:
            encoded = pipeline.encode_prompt(chunk, generator.device, 1, do_classifier_free_guidance=False)
        embeddings.append(encoded[0])
    return torch.cat(embeddings), torch.cat(pooled) if pooled else None
