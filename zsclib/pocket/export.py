"""From checkpoints to the model folders that ship, and back."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderKL, DiTPipeline

from zsclib.hashing import hash_file
from zsclib.pocket.attributes import new_classifier
from zsclib.pocket.card import write_cards
from zsclib.pretraining.checkpoint import checkpoints, read_meta
from zsclib.pretraining.clip import IMAGE_PHASES
from zsclib.pretraining.dit import SIZE, new_dit
from zsclib.pretraining.export import export_clip, export_generator, take_up, write_model
from zsclib.pretraining.loop import load_averaged
from zsclib.pretraining.sizes import POCKET, Sizes
from zsclib.pretraining.unet import UNET_PHASES, new_scheduler
from zsclib.world.targets import CLASSES


def export(
    folder: Path,
    models: Path,
    sizes: Sizes = POCKET,
    size: dict[str, int] = SIZE,
    unet_phases: tuple[str, ...] = UNET_PHASES,
) -> None:
    """Write `pocket-clip`, and `pocket-sd`, `pocket-dit` and `pocket-judge` once they were trained, with their cards.

    Args:
        folder: the checkpoints; what the U-Net was trained on (`frozen/`) is taken from there.
        models: where the model folders go; a folder of the same name is replaced as a whole.
        sizes: of the U-Net. size: of the DiT.
        unet_phases: names of the U-Net's successive trainings; the last that was run is exported.

    Raises: FileNotFoundError when nothing was frozen yet, ValueError when it changed under the DiT.
    """
    folder, models = Path(folder), Path(models)
    export_clip(folder, models / "pocket-clip", IMAGE_PHASES)
    for name, meta in json.loads((folder / "frozen" / "meta.json").read_text()).items():
        newest = checkpoints(folder, name)
        if newest and int(newest[-1].stem.rsplit("-", 1)[1]) != meta["step"]:
            print(f"export: {name} was frozen at step {meta['step']}; {newest[-1].name} is not exported")
    if any(checkpoints(folder, phase) for phase in unet_phases):
        export_generator(folder, models / "pocket-sd", unet_phases, sizes)
    if checkpoints(folder, "dit"):
        export_dit(folder, models, size)
    if checkpoints(folder, "judge"):
        classifier = new_classifier()
        trained = {"judge": load_averaged(classifier, folder, "judge")}
        write_model(models / "pocket-judge", trained, classifier.save_pretrained)
    write_cards(models)


def export_dit(folder: Path, models: Path, size: dict[str, int] = SIZE) -> None:
    """Write `pocket-dit`: the averaged weights of the newest checkpoint as float16, and its autoencoder."""
    newest = checkpoints(folder, "dit")[-1]
    names = dict(enumerate(CLASSES[read_meta(newest)["facts"]["set"]["name"]]))
    transformer, frozen = new_dit(len(names), **size), Path(folder) / "frozen"
    trained = {"autoencoder": json.loads((frozen / "meta.json").read_text())["autoencoder"]}
    trained["dit"] = load_averaged(transformer, folder, "dit")
    if trained["dit"]["facts"]["vae"] != hash_file(frozen / "vae" / "diffusion_pytorch_model.safetensors"):
        raise ValueError(f"export: {newest.name} was trained on another autoencoder than {frozen / 'vae'}")
    vae = AutoencoderKL.from_pretrained(frozen / "vae")
    pipeline = DiTPipeline(transformer.half(), vae, new_scheduler(), names)
    pipeline.register_to_config(id2label=names)  # the class reads it, but does not save it by itself
    write_model(Path(models) / "pocket-dit", trained, pipeline.save_pretrained)


def restore(models: Path, folder: Path, only_frozen: bool = False) -> None:
    """Turn the folders that `export` wrote into checkpoints again (`zsclib.pretraining.export.take_up`).

    Args:
        models: holds `pocket-sd` and `pocket-clip`.
        folder: where the checkpoints go.
        only_frozen: leave out image tower and U-Net, so that a U-Net is trained anew on what was frozen.

    Raises: FileExistsError when there are checkpoints in `folder` already.
    """
    sd, clip = Path(models) / "pocket-sd", Path(models) / "pocket-clip"
    take_up(sd, clip, folder, IMAGE_PHASES, UNET_PHASES, only_frozen)
