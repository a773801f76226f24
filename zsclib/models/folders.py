"""Opening what others saved: model folders in the layout of diffusers and transformers.

Nothing is fetched unless asked, only safetensors weights are opened, and no code beside a model is run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import torch
import transformers

from zsclib.paths import ROOT

NETWORKS = ("UNet2DConditionModel", "SD3Transformer2DModel", "DiTTransformer2DModel")
NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")  # one of them makes a tokenizer


def find_folder(path: str | Path, must_hold: str, allow_network: bool = False) -> Path:
    """Return the local folder of a model given by folder or Hub id; FileNotFoundError if there is none.

    A relative path is looked up in the working directory, then in this clone; `~` is the home folder. A Hub id may
    name a revision (a branch, a tag, a commit, or `refs/pr/N`): ID@REVISION.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() and (ROOT / folder).is_dir():
        folder = ROOT / folder
    if folder.is_dir():
        if not (folder / must_hold).is_file():
            raise FileNotFoundError(f"{folder} holds no {must_hold}: is it the right folder?")
        return folder
    ident, _, revision = str(path).partition("@")
    try:
        local = huggingface_hub.snapshot_download(
            ident,
            revision=revision or None,
            local_files_only=not allow_network,
            allow_patterns=["*.json", "*.txt", "*.model", "*/*.safetensors", "model*.safetensors"],
            ignore_patterns=["*non_ema*", "safety_checker/*", *(_halves(ident, revision) if allow_network else [])],
        )
    except (OSError, ValueError) as error:  # the Hub's for unknown ids, malformed ids and missing files
        where = "on the Hub" if allow_network else "in the local Hub cache"
        raise FileNotFoundError(f"no folder {folder}, and no model of that name {where}: {error}") from error
    return Path(local)


def _halves(ident: str, revision: str) -> list[str]:
    """Return the half-precision files of a model on the Hub that has each of them in full precision too."""
    names = set(huggingface_hub.HfApi().list_repo_files(ident, revision=revision or None))
    return [name for name in names if ".fp16." in name and name.replace(".fp16.", ".") in names]


def read_index(folder: Path) -> tuple[type, dict[str, list[str]], dict[int, str] | None]:
    """Read a generator's model_index.json.

    Returns:
        The class of its pipeline; the library and class of each part that a generator needs, by the part's name; and
        the labels of a class-conditional model (DiT), None for others.

    Raises:
        FileNotFoundError: a part that every generator needs is not named.
        ValueError: the model is of a kind not supported.
    """
    index = json.loads((folder / "model_index.json").read_text())
    parts_named = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None}
    named = {name: entry for name, entry in parts_named.items() if name not in NOT_NEEDED}
    with quietly():
        pipeline_class = getattr(diffusers, str(index.get("_class_name")), None)
    by_class = index.get("_class_name") == "DiTPipeline"
    if by_class and named.get("transformer") == ["diffusers", "Transformer2DModel"]:
        named["transformer"] = ["diffusers", "DiTTransformer2DModel"]  # its name when DiT was published
    network = (named.get("unet") or named.get("transformer") or [None, None])[1]
    if pipeline_class is None or network not in NETWORKS or by_class != (network == NETWORKS[2]):
        raise ValueError(
            f"{folder} is a {index.get('_class_name')} around {network}; supported are Stable Diffusion 1, 2 "
            f"({NETWORKS[0]}) and 3 ({NETWORKS[1]}), and a DiTPipeline ({NETWORKS[2]})"
        )
    for name in ("vae", "scheduler", *(() if by_class else ("text_encoder", "tokenizer"))):
        if name not in named:
            raise FileNotFoundError(f"{folder}/model_index.json names no {name!r}: a generator needs it")
    labels = {int(i): label for i, label in (index.get("id2label") or {}).items()} if by_class else None
    return pipeline_class, named, labels


def open_part(folder: Path, library: str, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """Open a sub-model, tokenizer or scheduler by the class its model names: local, safetensors, complete."""
    package = {"diffusers": diffusers, "transformers": transformers}.get(library)
    cls = getattr(package, kind, None) if package else None
    if cls is None:
        raise ValueError(
            f"{folder} should be opened by {library}.{kind}, which the installed libraries do not have; "
            "code that comes with a model is not run"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"the model lacks its part {folder.name!r}: no folder {folder}")
    options: dict[str, Any] = {"local_files_only": True}
    if "Tokenizer" in kind and not any((folder / file).is_file() for file in VOCABULARIES):
        # the class would silently open as one without words
        raise FileNotFoundError(f"{folder} holds no vocabulary ({', '.join(VOCABULARIES)}) for {kind}")
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        return cls.from_pretrained(folder, **options)
    files = [path.name for path in folder.glob("*.safetensors")]
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no .safetensors file (pickled weights are never opened); a model on the Hub may have them "
            "in a conversion: look there for a pull request named 'Adding `safetensors` variant', and give its "
            "revision as ID@refs/pr/N"
        )
    if all(".fp16." in name for name in files):  # saved in half precision only: that is all there is
        options["variant"] = "fp16"
    options |= {"use_safetensors": True, "output_loading_info": True}
    options["torch_dtype" if library == "diffusers" else "dtype"] = dtype
    with quietly():
        part, info = cls.from_pretrained(folder, **options)
    if info["missing_keys"]:  # from_pretrained would leave these random and only warn
        lacking = sorted(info["missing_keys"])
        raise ValueError(f"{folder}: its safetensors lack {len(lacking)} weights of {kind}, as {lacking[0]}")
    return part


def check_truncation(tokenizers: Sequence[Any], prompts: Sequence[str]) -> None:
    """Raise ValueError where two different prompts are cut to the same tokens by every tokenizer."""
    first: dict[tuple, tuple] = {}
    for prompt in dict.fromkeys(prompts):
        whole = tuple(tuple(tokenizer(prompt, verbose=False).input_ids) for tokenizer in tokenizers)
        cut = tuple(tuple(tokenizer(prompt, truncation=True).input_ids) for tokenizer in tokenizers)
        other, other_whole = first.setdefault(cut, (prompt, whole))
        if other_whole != whole:
            raise ValueError(
                f"two prompts differ only beyond the {tokenizers[0].model_max_length} tokens this model "
                f"reads, so it cannot tell them apart; shorten them: {other!r} and {prompt!r}"
            )


def check_told_apart(tokenizers: Sequence[Any], prompts: Sequence[str], classes: Sequence[str]) -> None:
    """Raise ValueError where the prompts of two classes are the same tokens to every tokenizer.

    CLIP's reads no capitals, so that to it "F-16A" and "F-16a" are one class.
    """
    first: dict[tuple, str] = {}
    for prompt, name in zip(prompts, classes, strict=True):
        tokens = tuple(tuple(tokenizer(prompt, verbose=False).input_ids) for tokenizer in tokenizers)
        if tokens and (other := first.setdefault(tokens, name)) != name:
            raise ValueError(
                f"the classes {other!r} and {name!r} are the same words to this model, which reads {prompt!r} without "
                "capitals or the like, so it cannot tell them apart; give one of them another name"
            )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what transformers prints to stderr (bars, notes) while something is imported or opened."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
