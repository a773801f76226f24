"""Generators that know more than they were trained on: learnt words, learnt conditionings, other weights.

Each function returns a copy that shares with the original all that did not change; the original stays as it is. A copy
travels to another process as the original and what was learnt.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from zsclib.models.generator import Generator
from zsclib.prompts import ARTICLE


class Learnt(nn.Module):
    """What a generator has learnt to be asked for: a part of it, so that it travels and counts in its fingerprint.

    Attributes:
        tokens: words that its tokenizer was given, to be used within prompts.
        names: names of conditionings, each a whole prompt. embeddings: what each stands for, float32 (m, L, d).
        pooled: their second summary, (m, p), where the model needs one (Stable Diffusion 3); else None.
        sizes: images that each was learnt from, int64 (m,).
    """

    def __init__(
        self,
        tokens: Sequence[str] = (),
        names: Sequence[str] = (),
        embeddings: Tensor | None = None,
        pooled: Tensor | None = None,
        sizes: Sequence[int] = (),
    ):
        super().__init__()
        self.tokens, self.names = tuple(tokens), tuple(names)
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("pooled", pooled)
        self.register_buffer("sizes", torch.tensor(list(sizes), dtype=torch.int64))
        text = json.dumps([self.tokens, self.names]).encode()  # a hash of the weights has the names, too
        self.register_buffer("text", torch.tensor(list(text), dtype=torch.uint8))


def learnt_name(word: str, number: int | None = None) -> str:
    """Return the name of what is learnt of a class: "<star>" for "a star", "<star:2>" for its second cluster."""
    name = "-".join(ARTICLE.sub("", word.strip()).split())
    if not name:
        raise ValueError(f"a class needs a name to be learnt under, got {word!r}")
    return f"<{name}>" if number is None else f"<{name}:{number}>"


def with_learnt_word(name: str, of_class: str) -> str:
    """Return a class's name as prompts have it with the learnt word where the noun stood: "a <star>" for "a star"."""
    return name.replace(ARTICLE.sub("", name), learnt_name(of_class))


def learnt_names(generator: Generator, words: Sequence[str]) -> list[str]:
    """Return the names for classes; ValueError where two are the same, or the generator knows one already."""
    names = [learnt_name(word) for word in words]
    for word, name in zip(words, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"two classes would both be learnt as {name}, one of them {word!r}; name them differently")
        check_new(generator, name)
    return names


def check_new(generator: Generator, name: str) -> None:
    """Raise ValueError where the generator knows a name already."""
    learnt = generator.parts.get("learnt") or Learnt()
    tokenizer = generator.tokenizer
    if name in (*learnt.tokens, *learnt.names) or (tokenizer is not None and name in tokenizer.get_vocab()):
        raise ValueError(f"the model knows {name!r} already: a new word must be one that its tokenizer lacks")


def with_tokens(generator: Generator, vectors: Mapping[str, Tensor]) -> Generator:
    """Return the generator with new words, for use in any prompt (Gal et al. 2022).

    Args:
        generator: one with a single text encoder (Stable Diffusion 1 and 2).
        vectors: the embedding of each new token, float (d,), by its name.

    Raises:
        ValueError: a model of another kind, a word that the tokenizer knows, or a vector of another width.
    """
    check_single_text_encoder(generator)
    tokenizer = copy.deepcopy(generator.tokenizer)
    encoder = sharing_copy(generator.text_encoder)
    table = encoder.get_input_embeddings().weight.detach()                                 # (tokens, d)
    for name, vector in vectors.items():
        check_new(generator, name)
        if vector.shape != table.shape[1:]:
            raise ValueError(f"{name}: a token of this model has {table.shape[1]} numbers, got {tuple(vector.shape)}")
        tokenizer.add_tokens([AddedToken(name, normalized=False)])
        row = tokenizer.convert_tokens_to_ids(name)
        table = torch.cat([table, table.new_zeros(max(0, row + 1 - len(table)), table.shape[1])])
        table[row] = vector.to(table)
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(table))
    encoder.config.vocab_size = len(table)
    before = generator.parts.get("learnt") or Learnt()
    learnt = Learnt((*before.tokens, *vectors), before.names, before.embeddings, before.pooled, before.sizes.tolist())
    tuned = with_parts(generator, tokenizer=tokenizer, text_encoder=encoder, learnt=learnt)
    return tuned.made_by(with_tokens, generator, {name: vector.detach().cpu() for name, vector in vectors.items()})


def with_conditionings(
    generator: Generator,
    embeddings: Mapping[str, Tensor],
    pooled: Mapping[str, Tensor] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Generator:
    """Return the generator with names that stand for conditionings, each a whole prompt.

    Args:
        generator: a text-to-image model.
        embeddings: what cross-attention reads, float (L, d), by name.
        pooled: the second summary, (p,), where the model needs one.
        sizes: images that each was learnt from, by which `prompts_in_proportion` chooses; default: one.

    Raises:
        ValueError: a class-conditional model, a name that is known, shapes that do not fit.
    """
    check_text_model(generator)
    before = generator.parts.get("learnt") or Learnt()
    for name in embeddings:
        check_new(generator, name)
    values = torch.stack([embeddings[name].detach().float() for name in embeddings]).to(generator.device)  # (m, L, d)
    expected = generator.encode_prompts([""])
    if values.shape[1:] != expected.prompts.shape[1:]:
        got, wanted = tuple(values.shape[1:]), tuple(expected.prompts.shape[1:])
        raise ValueError(f"a conditioning of this model has the shape {wanted}, got {got}")
    if (expected.pooled is None) != (pooled is None):
        raise ValueError(f"this model reads {'no' if expected.pooled is None else 'a'} pooled conditioning")
    seconds = None
    if pooled is not None:
        seconds = torch.stack([pooled[name].detach().float() for name in embeddings]).to(generator.device)  # (m, p)
    counts = [1 if sizes is None else int(sizes[name]) for name in embeddings]
    if before.names:
        values = torch.cat([before.embeddings, values])
        seconds = None if seconds is None else torch.cat([before.pooled, seconds])
    learnt = Learnt(
        before.tokens, (*before.names, *embeddings), values, seconds, (*before.sizes.tolist(), *counts)
    )
    plain = [
        None if part is None else {name: value.detach().cpu() for name, value in part.items()}
        for part in (embeddings, pooled)
    ]
    return with_parts(generator, learnt=learnt).made_by(with_conditionings, generator, *plain, sizes)


def with_network(generator: Generator, weights: Mapping[str, Tensor]) -> Generator:
    """Return the generator with other weights in its network (U-Net or transformer): the whole state, by name."""
    network = copy.deepcopy(generator.unet)
    network.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    tuned = with_parts(generator, **{network_name(generator): network})
    plain = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    return tuned.made_by(with_network, generator, plain)


def prompts_in_proportion(generator: Generator, word: str, n: int) -> list[str]:
    """Return n prompts for a class: its learnt name, or those of its clusters in proportion to their sizes.

    Any first part of the list has the proportions, too, to within one image.

    Example:
        prompts_in_proportion(generator, "a star", 4) gives <star:1>, <star:1>, <star:2>, <star:1> for sizes 15 and 5.

    Raises:
        ValueError: nothing was learnt of that class.
    """
    learnt, name = generator.parts.get("learnt") or Learnt(), learnt_name(word)
    clusters = {other: size for other, size in zip(learnt.names, learnt.sizes.tolist(), strict=True)
                if other == name or other.startswith(f"{name[:-1]}:")}
    if not clusters:
        raise ValueError(f"nothing was learnt under {name}; there is {', '.join(learnt.names) or 'nothing'}")
    names, sizes = list(clusters), np.array(list(clusters.values()), float)
    counts, prompts = np.zeros(len(names)), []
    for i in range(n):
        lags = (i + 1) * sizes / sizes.sum() - counts
        counts[lags.argmax()] += 1
        prompts.append(names[lags.argmax()])
    return prompts


def word_vector(generator: Generator, word: str) -> Tensor:
    """Return the embedding, (d,), of the last word of a class name that is one token; else the mean of all tokens."""
    table = generator.text_encoder.get_input_embeddings().weight.detach()                  # (tokens, d)
    for part in reversed(ARTICLE.sub("", word).split()):
        ids = generator.tokenizer(part, add_special_tokens=False).input_ids
        if len(ids) == 1 and ids[0] != generator.tokenizer.unk_token_id:
            return table[ids[0]].clone()
    return table.mean(0)


def with_parts(generator: Generator, **parts: object) -> Generator:
    """Return a generator that has these parts in place of, or beside, its own, and shares all others."""
    own = {network_name(generator): generator.unet, "vae": generator.vae}
    own |= {} if generator.text_encoder is None else {"text_encoder": generator.text_encoder}
    whole = {**generator.parts, **own, **parts}
    return Generator(whole, generator.pipeline_class, generator.device, generator.dtype, generator.image_size)


def network_name(generator: Generator) -> str:
    """Return which of its parts predicts: "unet" or "transformer"."""
    return "unet" if "unet" in generator.parts else "transformer"


def sharing_copy(module: nn.Module) -> nn.Module:
    """Return a copy with layers of its own, to be changed or replaced, that hold the very weights of the original."""
    weights = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(weight): weight for weight in weights})


def check_text_model(generator: Generator) -> None:
    """Raise ValueError for a class-conditional model."""
    if generator.text_encoder is None:
        raise ValueError("a class-conditional model reads no text: no word or conditioning can be learnt for it")


def check_single_text_encoder(generator: Generator) -> None:
    """Raise ValueError unless the model has one text encoder."""
    check_text_model(generator)
    if several := [name for name in generator.parts if name.startswith("text_encoder_")]:
        raise ValueError(
            f"a new word needs a model of one text encoder (Stable Diffusion 1, 2); this one has {several[0]}, too: "
            "learn a conditioning instead"
        )
