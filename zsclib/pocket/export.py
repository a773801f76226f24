"""From checkpoints to the folders that `diffusers` and `transformers` open: averaged weights, safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL, DiTPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from zsclib.hashing import hash_file
from zsclib.paths import atomic
from zsclib.pocket.attributes import new_classifier
from zsclib.pocket.card import thinned, write_cards
from zsclib.pretraining.checkpoint import checkpoints, read_meta, write_checkpoint
from zsclib.pretraining.clip import IMAGE_PHASES, new_processor
from zsclib.pretraining.dit import SIZE, new_dit
from zsclib.pretraining.loop import load_averaged, load_phases
from zsclib.pretraining.unet import CHANNELS, UNET_PHASES, new_scheduler, new_unet, write_facts
from zsclib.world.targets import CLASSES


def export(
    folder: Path,
    models: Path,
    channels: tuple[int, ...] = CHANNELS,
    size: dict[str, int] = SIZE,
    unet_phases: tuple[str, ...] = UNET_PHASES,
) -> None:
    """Write `pocket-clip`, and `pocket-sd`, `pocket-dit` and `pocket-judge` once they were trained, with their cards.

    Args:
        folder: the checkpoints; what the U-Net was trained on (`frozen/`) is taken from there.
        models: where the model folders go; a folder of the same name is replaced as a whole.
        channels: of the U-Net.
        size: of the DiT.
        unet_phases: names of the U-Net's successive trainings; the last that was run is exported.

    Raises: FileNotFoundError when nothing was frozen yet, ValueError when it changed under the DiT.
    """
    folder, models = Path(folder), Path(models)
    frozen = folder / "frozen"
    if not frozen.exists():
        raise FileNotFoundError(
            f"export: no {frozen}; train autoencoder and clip, then run the stage `freeze`"
        )
    metas = json.loads((frozen / "meta.json").read_text())
    for name, meta in metas.items():
        newest = checkpoints(folder, name)
        if newest and int(newest[-1].stem.rsplit("-", 1)[1]) != meta["step"]:
            print(f"export: {name} was frozen at step {meta['step']}; {newest[-1].name} is not exported")
    tokenizer = CLIPTokenizer.from_pretrained(frozen / "tokenizer")

    def metas_of(*names: str) -> dict[str, dict]:
        return {name: metas[name] for name in names if name in metas}

    clip = CLIPModel.from_pretrained(frozen / "clip")
    trained = metas_of("clip", *IMAGE_PHASES) | load_phases(clip, folder, *IMAGE_PHASES)

    def save_clip(target: Path) -> None:
        clip.save_pretrained(target)
        new_processor(tokenizer).save_pretrained(target)
        new_processor(tokenizer).image_processor.save_pretrained(target)
        _copy_vocabulary(frozen / "tokenizer", target)

    write_model(models / "pocket-clip", trained, save_clip)

    if any(checkpoints(folder, phase) for phase in unet_phases):
        vae = AutoencoderKL.from_pretrained(frozen / "vae")
        text = CLIPTextModel.from_pretrained(frozen / "text_encoder")
        unet = new_unet(channels, text.config.hidden_size)
        trained = metas_of("autoencoder", *unet_phases) | load_phases(unet, folder, *unet_phases)
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=new_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

        def save_pipeline(target: Path) -> None:
            pipeline.save_pretrained(target)
            _copy_vocabulary(frozen / "tokenizer", target / "tokenizer")

        write_model(models / "pocket-sd", trained, save_pipeline)

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


def write_model(target: Path, trained: dict[str, dict], save: Callable[[Path], object]) -> None:
    """Write a model folder and put it in place as a whole, without traces of the machine.

    Args:
        target: the folder; one that is there is replaced.
        trained: part → meta of its checkpoint (`load_averaged`), which become training.json.
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


def restore(models: Path, folder: Path, only_frozen: bool = False) -> None:
    """Turn exported folders into checkpoints, so that a training that begins from their weights can be run on them.

    The opposite of `export`, for what later trainings build on: what was frozen, the image tower and the U-Net. The
    optimiser's state was not exported: a training that has ended cannot be prolonged, only followed by another.

    Args:
        models: holds `pocket-sd` and `pocket-clip`.
        folder: where the checkpoints go.
        only_frozen: leave out image tower and U-Net, so that a U-Net is trained anew on what was frozen.

    Raises: FileExistsError when there are checkpoints in `folder` already.
    """
    frozen = Path(folder) / "frozen"
    if frozen.exists() or any(Path(folder).glob("*.safetensors")):
        raise FileExistsError(f"restore: {folder} holds checkpoints; give a folder without any")
    sd, clip = Path(models) / "pocket-sd", CLIPModel.from_pretrained(Path(models) / "pocket-clip")
    unet = UNet2DConditionModel.from_pretrained(sd / "unet")
    metas = {}
    for model, name, phases in ((clip, "pocket-clip", IMAGE_PHASES), (unet, "pocket-sd", UNET_PHASES)):
        training = json.loads((Path(models) / name / "training.json").read_text())
        metas |= {name: meta for name, meta in training.items() if not only_frozen or name not in phases}
        if only_frozen:
            continue
        part = [phase for phase in phases if phase in training][-1]
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"ema.{k}": v.clone() for k, v in model.named_parameters()}
        write_checkpoint(
            Path(folder) / f"{part}-{training[part]['step']:07d}.safetensors", tensors, training[part]
        )
    with atomic(frozen) as temporary:
        for part in ("vae", "text_encoder", "tokenizer"):
            shutil.copytree(sd / part, temporary / part)
        clip.save_pretrained(temporary / "clip")
        write_facts(temporary, metas)


def _copy_vocabulary(tokenizer: Path, target: Path) -> None:
    for name in ("vocab.json", "merges.txt"):  # the files of Stable Diffusion 1.x, which other tools read
        shutil.copyfile(tokenizer / name, target / name)
