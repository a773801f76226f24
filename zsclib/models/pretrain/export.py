"""From checkpoints to the folders that `diffusers` and `transformers` open: averaged weights, safetensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from zsclib.models.pretrain.card import thinned, write_cards
from zsclib.models.pretrain.checkpoint import checkpoints
from zsclib.models.pretrain.clip import new_processor
from zsclib.models.pretrain.loop import load_averaged
from zsclib.models.pretrain.unet import CHANNELS, new_scheduler, new_unet


def export(folder: Path, models: Path, channels: tuple[int, ...] = CHANNELS) -> None:
    """Write `pocket-clip`, and `pocket-sd` once there is a U-Net, with their cards.

    Args:
        folder: the checkpoints; what the U-Net was trained on (`frozen/`) is taken from there.
        models: where the model folders go; a folder of the same name is replaced as a whole.
        channels: of the U-Net.

    Raises: FileNotFoundError when nothing was frozen yet.
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

    draft, clip = _draft(models / "pocket-clip"), CLIPModel.from_pretrained(frozen / "clip")
    trained = {"clip": metas["clip"]}
    if checkpoints(folder, "clip-image"):
        trained["clip-image"] = load_averaged(clip, folder, "clip-image")
    clip.save_pretrained(draft)
    new_processor(tokenizer).save_pretrained(draft)
    new_processor(tokenizer).image_processor.save_pretrained(draft)
    _copy_words(frozen / "tokenizer", draft)
    _finish(draft, models / "pocket-clip", trained)

    if checkpoints(folder, "unet"):
        vae = AutoencoderKL.from_pretrained(frozen / "vae")
        text = CLIPTextModel.from_pretrained(frozen / "text_encoder")
        unet = new_unet(channels, text.config.hidden_size)
        metas["unet"] = load_averaged(unet, folder, "unet")
        draft = _draft(models / "pocket-sd")
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=new_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(draft)
        _copy_words(frozen / "tokenizer", draft / "tokenizer")
        _finish(draft, models / "pocket-sd", {name: metas[name] for name in ("autoencoder", "unet")})
    write_cards(models)


def _draft(target: Path) -> Path:
    draft = target.with_name(target.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def _copy_words(tokenizer: Path, target: Path) -> None:
    for name in ("vocab.json", "merges.txt"):  # the files of Stable Diffusion 1.x, which other tools read
        shutil.copyfile(tokenizer / name, target / name)


def _finish(draft: Path, target: Path, metas: dict[str, dict]) -> None:
    """Remove traces of the machine, add the history of the training, and put the draft in place."""
    for path in draft.rglob("*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2) + "\n")
    for path in draft.rglob("*.safetensors"):
        path.chmod(0o644)
    training = {name: meta | {"history": thinned(meta["history"])} for name, meta in metas.items()}
    (draft / "training.json").write_text(json.dumps(training, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
