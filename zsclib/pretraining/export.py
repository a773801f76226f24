"""From checkpoints to the folders that `diffusers` and `transformers` open, averaged weights, and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from zsclib.hashing import hash_file
from zsclib.paths import atomic, write_json
from zsclib.pretraining.card import thinned
from zsclib.pretraining.checkpoint import write_checkpoint
from zsclib.pretraining.clip import new_processor
from zsclib.pretraining.loop import load_phases
from zsclib.pretraining.sizes import POCKET, Sizes
from zsclib.pretraining.unet import new_scheduler, new_unet, write_facts


def export_clip(folder: Path, target: Path, phases: Sequence[str] = ()) -> None:
    """Write a `CLIPModel` folder with its processor.

    Args:
        folder: the checkpoints; the towers that were frozen (`frozen/`) are taken from there.
        target: a folder of that name is replaced as a whole.
        phases: names of successive trainings of the image tower after that; the last that was run is exported.

    Raises: FileNotFoundError when nothing was frozen yet.
    """
    frozen, metas = _frozen(folder)
    tokenizer, clip = CLIPTokenizer.from_pretrained(frozen / "tokenizer"), CLIPModel.from_pretrained(frozen / "clip")
    trained = _chosen(metas, "clip", *phases) | load_phases(clip, folder, *phases)

    def save(inside: Path) -> None:
        processor = new_processor(tokenizer, clip.config.vision_config.image_size)
        clip.save_pretrained(inside)
        processor.save_pretrained(inside)
        processor.image_processor.save_pretrained(inside)
        _copy_vocabulary(frozen / "tokenizer", inside)

    write_model(target, trained, save)


def export_generator(
    folder: Path, target: Path, phases: Sequence[str] = ("unet",), sizes: Sizes = POCKET
) -> None:
    """Write a `StableDiffusionPipeline` folder.

    Args:
        folder: the checkpoints; autoencoder and text tower that were frozen (`frozen/`) are taken from there.
        target: a folder of that name is replaced as a whole.
        phases: names of the U-Net's successive trainings; the last that was run is exported.
        sizes: of the U-Net.

    Raises: FileNotFoundError when nothing was frozen yet.
    """
    frozen, metas = _frozen(folder)
    unet = new_unet(sizes)
    trained = _chosen(metas, "autoencoder", *phases) | load_phases(unet, folder, *phases)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(frozen / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(frozen / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(frozen / "tokenizer"),
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def save(inside: Path) -> None:
        pipeline.save_pretrained(inside)
        _copy_vocabulary(frozen / "tokenizer", inside / "tokenizer")

    write_model(target, trained, save)


def take_up(
    sd: Path,
    clip: Path,
    folder: Path,
    clip_phases: Sequence[str] = (),
    unet_phases: Sequence[str] = ("unet",),
    only_frozen: bool = False,
) -> None:
    """Turn exported folders into checkpoints, so that a training that begins from their weights can be run on them.

    The opposite of the two above, for what later trainings build on: what was frozen, the image tower and the U-Net.
    The optimiser's state was not exported: a training that has ended cannot be prolonged, only followed by another.

    Args:
        sd, clip: the two model folders.
        folder: where the checkpoints go.
        clip_phases, unet_phases: names of successive trainings, as above.
        only_frozen: leave out image tower and U-Net, so that a U-Net is trained anew on what was frozen.

    Raises: FileExistsError when there are checkpoints in `folder` already.
    """
    frozen = Path(folder) / "frozen"
    if frozen.exists() or any(Path(folder).glob("*.safetensors")):
        raise FileExistsError(f"restore: {folder} holds checkpoints; give a folder without any")
    both = CLIPModel.from_pretrained(clip).float()
    unet = UNet2DConditionModel.from_pretrained(Path(sd) / "unet").float()
    metas = {}
    for model, place, phases in ((both, clip, clip_phases), (unet, sd, unet_phases)):
        training = json.loads((Path(place) / "training.json").read_text())
        trained_on = [phase for phase in phases if phase in training]
        metas |= {name: meta for name, meta in training.items() if not only_frozen or name not in phases}
        if trained_on and not only_frozen:
            meta = training[trained_on[-1]]
            tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
            tensors |= {f"ema.{k}": v.clone() for k, v in model.named_parameters()}
            write_checkpoint(Path(folder) / f"{trained_on[-1]}-{meta['step']:07d}.safetensors", tensors, meta)
    with atomic(frozen) as temporary:
        shutil.copytree(Path(sd) / "tokenizer", temporary / "tokenizer")
        for part, kind in {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}.items():
            shutil.copytree(Path(sd) / part, temporary / part)
            model = kind.from_pretrained(Path(sd) / part)
            if model.dtype != torch.float32:
                model.float().save_pretrained(temporary / part)
        both.save_pretrained(temporary / "clip")
        write_facts(temporary, metas)


def write_half(models: Path, target: Path) -> None:
    """Write a copy of `sd` and `clip`, their cards and what was measured of them, with float16 weights: half the space.

    What opens the copy computes in float32, as with the originals, and a training can begin from it.

    Args:
        models: holds both folders, as `zsc pretrain` leaves them.
        target: a folder of that name is replaced as a whole.

    Raises: FileNotFoundError when one of the two is missing.
    """
    with atomic(target) as folder:
        folder.mkdir()
        for name in ("sd", "clip"):
            if not (Path(models) / name).is_dir():
                raise FileNotFoundError(f"{Path(models) / name}: there is no such model; first  zsc pretrain")
            shutil.copytree(Path(models) / name, folder / name)
        for path in folder.rglob("*.safetensors"):
            tensors = load_file(path)
            tensors |= {name: value.half() for name, value in tensors.items() if value.is_floating_point()}
            save_file(tensors, path, metadata={"format": "pt"})
        for path in folder.rglob("config.json"):  # by which transformers chooses the precision that it opens in
            path.write_text(path.read_text().replace('"dtype": "float32"', '"dtype": "float16"'))
        for name in ("quality.json", "samples.png"):
            if (Path(models) / name).exists():
                shutil.copy(Path(models) / name, folder)
        if (measured := folder / "quality.json").exists():
            weights = {"weights": hash_file(folder / "sd" / "unet" / "diffusion_pytorch_model.safetensors")}
            write_json(measured, json.loads(measured.read_text()) | weights)


def write_model(target: Path, trained: dict[str, dict], save: Callable[[Path], object]) -> None:
    """Write a model folder and put it in place as a whole, without traces of the machine.

    Args:
        target: the folder; one that is there is replaced.
        trained: part → meta of its checkpoint (`loop.load_averaged`), which become training.json.
        save: writes everything else into an empty folder.
    """
    with atomic(target) as folder:
        folder.mkdir()
        save(folder)
        for path in folder.rglob("*.json"):
            content = json.loads(path.read_text())
            if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(content, indent=2) + "\n")
        for path in folder.rglob("*.safetensors"):
            path.chmod(0o644)
        training = {name: meta | {"history": thinned(meta["history"])} for name, meta in trained.items()}
        (folder / "training.json").write_text(json.dumps(training, indent=1) + "\n")


def _frozen(folder: Path) -> tuple[Path, dict[str, dict]]:
    """Return where frozen parts lie, and the metas of their trainings."""
    frozen = Path(folder) / "frozen"
    if not frozen.exists():
        raise FileNotFoundError(f"export: no {frozen}; train autoencoder and clip, then run the stage `freeze`")
    return frozen, json.loads((frozen / "meta.json").read_text())


def _chosen(metas: dict[str, dict], *names: str) -> dict[str, dict]:
    return {name: metas[name] for name in names if name in metas}


def _copy_vocabulary(tokenizer: Path, target: Path) -> None:
    for name in ("vocab.json", "merges.txt"):  # the files of Stable Diffusion 1.x, which other tools read
        shutil.copyfile(tokenizer / name, target / name)
