"""Adapters: low-rank additions to the attention of a generator's U-Net and text encoder (Hu et al. 2022), by peft.

They are DataDream's (Kim et al. 2024): on all four projections of every attention, in files as diffusers reads them.
An adapted generator holds the very weights of its base, so several adapters stand side by side at little cost, and one
is swapped for another by asking another generator.

    short = Tuning(samples=8, batch=4, learning_rate=1e-4)
    tuned = tune_lora(generator, labelled, prompts, short, Lora(rank=2, alpha=2))
    file = save_adapter(tuned, folder / "adapter")
    again = load_adapter(generator, file)
    again.encode_prompts(prompts).embeddings                      # (C, 24, 16)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zsclib.checks import is_integer
from zsclib.images.image_set import ImageSet
from zsclib.models.denoising import Tuning, finetune
from zsclib.models.finetune import labelled_images, seeded
from zsclib.models.generator import Generator
from zsclib.models.personalised import network_name, sharing_copy, with_parts
from zsclib.models.tuning_jobs import Labelled, histories, latents, prompts_of_labels, run_tuning
from zsclib.paths import atomic
from zsclib.seeds import torch_generator
from zsclib.workers import Execution

NETWORK_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")  # the last two: Stable Diffusion 3
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")  # CLIP's; T5 has other layers
FILE = "pytorch_lora_weights.safetensors"  # as diffusers calls it
# DataDream (Kim et al. 2024), run script, for a class of 16 images: 200 rounds in batches of 8, 100 steps of warm-up.
# For a whole data set the authors' samples are as many times this as it has classes.
DATADREAM = Tuning(
    samples=3_200, batch=8, learning_rate=1e-4, warm_up=800, decay="cosine", weight_decay=1e-2, check_every=400
)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The shape of an adapter; the defaults are DataDream's.

    Attributes:
        rank: of each addition B A. alpha: the addition is scaled by alpha / rank.
        text_encoder: whether the text encoder is adapted, too.
    """

    rank: int = 16
    alpha: int = 16
    text_encoder: bool = True

    def __post_init__(self) -> None:
        if not is_integer(self.rank, 1) or not self.alpha > 0:
            raise ValueError(f"an adapter needs a rank of at least 1 and a positive alpha, got {self}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """What was learnt: a part of the generator that has it, and what its file holds.

    Attributes:
        lora: its shape.
        base: fingerprint of the generator that it is for.
        prompts: what it was tuned on, a prompt per class.
        weights: A (rank, d_in) and B (d_out, rank) of each layer, by "unet.….lora_A.weight".
    """

    lora: Lora
    base: str
    prompts: tuple[str, ...]
    weights: Mapping[str, Tensor] = field(repr=False)


def tune_lora(
    generator: Generator,
    images: ImageSet,
    prompts: Sequence[str],
    tuning: Tuning = DATADREAM,
    lora: Lora = Lora(),  # noqa: B008
    *,
    held_out: ImageSet | None = None,
    execution: Execution = Execution(),
) -> Generator:
    """Tune one adapter on all classes, each under its prompt (DataDream-dset).

    An image's latents are computed once, the mean of the autoencoder's posterior, and of images as they are given; the
    authors sample them at every step, and crop at random.

    Args:
        generator: a text-to-image model; of its text encoders those of CLIP are adapted.
        images: of every class at least one, of the generator's size.
        prompts: one per class, in label order.
        tuning: how; the first A follow from its seed, B begin as 0, so that it begins as the base model.
        lora: the adapter's shape.
        held_out: other images of the classes, for the history.
        execution: where the job runs, and its cache.

    Returns:
        The adapted generator, asked by the same prompts.

    Raises:
        ValueError: a class without images, images of another size, numbers of prompts and classes differ, a generator
            with an adapter already, or a class-conditional one.
        FloatingPointError: the loss is not finite.
    """
    parts, others = labelled_images(images, prompts, held_out)
    calls = [(_joined(parts), _joined(others), list(prompts), tuning, lora)]
    return _tuned(generator, calls, ["all"], execution)[0]


def tune_lora_by_class(
    generator: Generator,
    images: ImageSet,
    prompts: Sequence[str],
    tuning: Tuning = DATADREAM,
    lora: Lora = Lora(),  # noqa: B008
    *,
    held_out: ImageSet | None = None,
    execution: Execution = Execution(),
) -> dict[str, Generator]:
    """Tune an adapter per class, a job each (DataDream-cls); arguments and errors are those of `tune_lora`.

    Returns:
        The adapted generators by class name, all on the weights of the one base. Each class has seeds of its own.
    """
    parts, others = labelled_images(images, prompts, held_out)
    calls = [
        (_joined([part]), _joined([other]), [prompt], seeded(tuning, name), lora)
        for part, other, prompt, name in zip(parts, others, prompts, images.classes, strict=True)
    ]
    return dict(zip(images.classes, _tuned(generator, calls, images.classes, execution), strict=True))


def with_adapter(generator: Generator, adapter: Adapter) -> Generator:
    """Return the generator with an adapter beside its weights, which it shares with the original.

    Raises:
        ValueError: it has an adapter already, or weights that do not fit its layers.
    """
    tuned, layers = _adapted(generator, adapter.lora)
    if layers.keys() != adapter.weights.keys():
        wrong = sorted(layers.keys() ^ adapter.weights.keys())
        raise ValueError(f"the adapter does not fit the network's layers: {len(wrong)} differ, as {wrong[0]}")
    with torch.no_grad():
        for name, value in adapter.weights.items():
            if layers[name].shape != value.shape:
                expected, got = tuple(layers[name].shape), tuple(value.shape)
                raise ValueError(f"the adapter does not fit the network: {name} must be {expected}, got {got}")
            layers[name].copy_(value)
    tuned.parts["adapter"] = adapter
    return tuned.made_by(with_adapter, generator, adapter)


def save_adapter(generator: Generator, path: Path | str) -> Path:
    """Write a generator's adapter as diffusers' `load_lora_weights` opens it; return the file.

    Args:
        generator: one that has an adapter.
        path: a folder, in which the file gets diffusers' name; or a file, ending in .safetensors.

    Raises:
        ValueError: it has none.
    """
    if (adapter := generator.parts.get("adapter")) is None:
        raise ValueError("save_adapter: this generator has no adapter; tune_lora makes one")
    path = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / FILE
    parts, shape = {name.partition(".")[0] for name in adapter.weights}, {"r": adapter.lora.rank}
    shape["lora_alpha"] = adapter.lora.alpha
    settings = {f"{part}.{name}": value for part in sorted(parts) for name, value in shape.items()}
    settings |= {f"{part}.target_modules": list(_targets_in(part)) for part in sorted(parts)}
    about = {**asdict(adapter.lora), "base": adapter.base, "prompts": adapter.prompts}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings), "zsclib": json.dumps(about)}
    with atomic(path) as temporary:
        save_file({name: value.contiguous() for name, value in adapter.weights.items()}, temporary, metadata)
    return path


def load_adapter(generator: Generator, path: Path | str) -> Generator:
    """Return the generator with the adapter of a file: the very one that was saved, bit for bit.

    Args:
        generator: the base model that the adapter was tuned on.
        path: the file, or its folder, as `save_adapter` wrote it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is cut short, was not written by `save_adapter`, or is for another base model; or the generator
            is opened in another precision than float32, in which adapters are tuned.
    """
    if generator.dtype != torch.float32:
        raise ValueError(
            f"{path}: adapters are tuned on a base model in float32, and this one is in {generator.dtype}: open it in "
            "float32, load the adapter, and give it to the model in the other precision by `with_adapter`"
        )
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no adapter at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("zsclib", "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole adapter ({error}); was it cut short?") from None
    if about is None:
        raise ValueError(f"{path} does not say which base model it is for; save_adapter writes files that do")
    if about["base"] != (own := generator.fingerprint()):
        raise ValueError(f"{path} is for another base model: its fingerprint is {about['base']}, this one's {own}")
    lora = Lora(rank=about["rank"], alpha=about["alpha"], text_encoder=about["text_encoder"])
    try:
        return with_adapter(
            generator, Adapter(lora=lora, base=own, prompts=tuple(about["prompts"]), weights=weights)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def job_adapter(
    generator: Generator,
    checkpoint: Path | None,
    shots: Labelled,
    held_out: Labelled | None,
    prompts: Sequence[str],
    tuning: Tuning,
    lora: Lora,
) -> dict[str, np.ndarray]:
    """Tune an adapter, each label under its prompt: its weights by name, and `history`."""
    tuned, layers = _adapted(generator, lora, tuning.seed)
    history = finetune(
        tuned, latents(tuned, *shots), prompts_of_labels(tuned, prompts, lora.text_encoder), list(layers.values()),
        tuning, None if held_out is None else latents(tuned, *held_out), checkpoint=checkpoint,
    )  # fmt: skip
    return {name: value.cpu().numpy() for name, value in layers.items()} | {"history": history.to_numpy()}


def _tuned(
    generator: Generator, calls: Sequence[tuple], names: Sequence[str], execution: Execution
) -> list[Generator]:
    for _, _, prompts, _, lora in calls:
        generator.encode_prompts(prompts)
        _adapted_parts(generator, lora)
    base, results = generator.fingerprint(), run_tuning(job_adapter, generator, calls, execution, "tuning adapters")
    adapted = []
    for (shots, _, prompts, _, lora), name, result in zip(calls, names, results, strict=True):
        weights = {layer: torch.from_numpy(value) for layer, value in result.items() if layer != "history"}
        tuned = with_adapter(
            generator, Adapter(lora=lora, base=base, prompts=tuple(prompts), weights=weights)
        )
        tuned.history = histories([name], [shots[0]], [result])
        adapted.append(tuned)
    return adapted


def _targets_in(part: str) -> tuple[str, ...]:
    """Return how the names of the layers end that an adapter changes in a part."""
    return TEXT_TARGETS if part in TEXT_ENCODERS else NETWORK_TARGETS


def _adapted_parts(generator: Generator, lora: Lora) -> list[str]:
    """Return the parts of a generator that an adapter changes."""
    if generator.parts.get("adapter") is not None:
        raise ValueError("this generator has an adapter already: adapt its base model")
    if generator.text_encoder is None:
        raise ValueError("adapters are for text-to-image models, this one is class-conditional: use tune_unet")
    texts = [name for name in TEXT_ENCODERS if name in generator.parts]
    return [network_name(generator), *(texts if lora.text_encoder else ())]


def _adapted(generator: Generator, lora: Lora, seed: int = 0) -> tuple[Generator, dict[str, nn.Parameter]]:
    """Return a copy with new layers in place of attention's, and their weights by name: A random, B zero."""
    parts, layers = {}, {}
    own = {network_name(generator): generator.unet, "text_encoder": generator.text_encoder}
    for name in _adapted_parts(generator, lora):
        part = parts[name] = sharing_copy(own.get(name, generator.parts[name]))
        with torch.random.fork_rng(devices=[]):  # what peft makes at random is replaced below
            part.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(_targets_in(name))))
        for layer, weight in part.named_parameters():
            if ".lora_" in layer:
                layers[f"{name}.{layer.replace('.default.', '.')}"] = weight
    with torch.no_grad():
        for name, weight in layers.items():
            stream = torch_generator(seed, "adapter", name)
            begin = torch.randn(weight.shape, generator=stream) / lora.rank
            weight.copy_(begin if "lora_A" in name else torch.zeros_like(begin))
    return with_parts(generator, **parts), layers


def _joined(parts: Sequence[np.ndarray | None]) -> Labelled | None:
    """Return the images of several classes with their labels; None where there are none."""
    if any(part is None for part in parts) or sum(map(len, parts)) == 0:
        return None
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
