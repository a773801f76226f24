"""A byte-level CLIP tokenizer learnt from the pool's captions: their words are short, no word is unknown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

from zsclib.pretraining.sizes import POCKET

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(
    captions: Iterable[str], folder: Path, length: int = POCKET.prompt_tokens, merges: int = 1000
) -> CLIPTokenizer:
    """Learn byte-pair merges (Sennrich et al. 2016) and write a `CLIPTokenizer` folder for prompts of `length` tokens.

    The vocabulary is laid out as CLIP's: 256 bytes, the same bytes ending a word, the merges, the two marks.
    """
    plain = CLIPTokenizer()  # for CLIP's own normaliser and word splitting
    words = Counter()
    for caption in set(captions):
        text = plain.backend_tokenizer.normalizer.normalize_str(caption)
        words.update(word for word, _ in plain.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    # a word repeated as often as its square root: rare names get merges too
    learner.train_from_iterator(
        (" ".join([word] * int(count**0.5)) for word, count in sorted(words.items())), trainer
    )
    pairs = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:merges]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    letters = set(tokens)
    tokens += dict.fromkeys(a + b for a, b in pairs if a + b not in letters)
    tokens += [START, END]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=pairs,
        model_max_length=length,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    return CLIPTokenizer.from_pretrained(folder)


def different(captions: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the captions that differ, sorted, and which of these each caption is, int64 (n,)."""
    texts = sorted(set(captions))
    place = {text: row for row, text in enumerate(texts)}
    return texts, np.array([place[caption] for caption in captions], np.int64)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return the ids int64 (n, 32) of captions, padded and cut as `StableDiffusionPipeline` does."""
    return tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
