"""Pocket models of one's own captioned images: one call trains them all, a stopped one goes on, and cards say how."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from zsclib import cli
from zsclib.models.clip import open_clip
from zsclib.models.generator import open_generator
from zsclib.paths import locked
from zsclib.pocket.__main__ import main
from zsclib.pools.captioned import CaptionedPool, open_pool, pool_in_memory
from zsclib.pretraining import own_pool, quality
from zsclib.pretraining.arrays import write_rows
from zsclib.pretraining.checkpoint import checkpoints
from zsclib.pretraining.clip import open_tokenizer
from zsclib.pretraining.export import write_half
from zsclib.pretraining.own_pool import pretrain, read_pairs
from zsclib.pretraining.sizes import POCKET, Amounts, Sizes
from zsclib.workers import Execution, Workers

SIZES = Sizes(
    image_side=16, autoencoder_channels=(8, 8), latent_channels=6, unet_channels=(16,), prompt_tokens=12, width=32,
    heads=2, text_layers=1, image_layers=1, patch=8,
)  # fmt: skip
AMOUNTS = Amounts(autoencoder=128, clip=512, unet=256)  # two batches each
LONG = " on a dark ground with some noise and nothing else at all"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """300 captioned images of three shapes, of which one is damaged and three have long captions."""
    root, draws = tmp_path_factory.mktemp("pool") / "squares", np.random.default_rng(0)
    root.mkdir()
    lines = ["file,caption"]
    for i in range(300):
        shape = ((16, 16), (20, 31), (12, 12))[i % 3]
        image = draws.integers(0, 90, (*shape, 3), dtype=np.uint8)
        image[4:12, 4:12] = np.eye(3, dtype=np.uint8)[i % 3] * 220
        Image.fromarray(image).save(root / f"{i:03d}.png")
        caption = f"a photo of a {('red', 'green', 'blue')[i % 3]} square, take {i % 7}{LONG * (i < 3)}"
        lines.append(f'{i:03d}.png,"{caption}"')
    (root / "005.png").write_bytes(b"no image")
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def pool(folder) -> CaptionedPool:
    return open_pool(f"folder:{folder}")


@pytest.fixture(scope="module")
def whole(pool, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert pretrain(pool, out, AMOUNTS, SIZES)
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    paths = sorted(path for name in ("sd", "clip") for path in (out / name).rglob("*.safetensors"))
    return {f"{path.relative_to(out)}:{k}": v for path in paths for k, v in load_file(path).items()}


def test_the_folders_open_and_have_the_sizes_that_were_asked_for(whole):
    generator, clip = open_generator(whole / "sd"), open_clip(whole / "clip")
    assert generator.latent_shape == (6, 8, 8) and generator.image_size == 16
    assert generator.tokenizer.model_max_length == clip.tokenizer.model_max_length == 12
    images = np.zeros((2, 40, 30, 3), np.uint8)
    assert clip.encode_images(images).shape == (2, 32)
    assert generator.encode_images(images[:, :16, :16]).shape == (2, 6, 8, 8)


def test_a_run_stopped_after_every_step_is_the_uninterrupted_run(pool, whole, tmp_path):
    calls = 1
    while not pretrain(pool, tmp_path, AMOUNTS, SIZES, minutes=0):
        calls += 1
        assert calls < 20
    assert calls > 3, "at least once in each training"
    ours, theirs = weights(tmp_path), weights(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_call_when_all_is_done_changes_nothing(pool, whole, monkeypatch, capsys):
    before, measured = weights(whole), (whole / "quality.json").read_bytes()
    monkeypatch.setattr(quality, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert pretrain(pool, whole, AMOUNTS, SIZES)
    assert "nothing to do" in capsys.readouterr().out
    assert all(torch.equal(value, before[name]) for name, value in weights(whole).items())
    assert (whole / "quality.json").read_bytes() == measured


def test_a_longer_unet_goes_on_and_is_measured_anew(pool, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    assert pretrain(pool, out, replace(AMOUNTS, unet=512), SIZES)
    assert json.loads((out / "sd" / "training.json").read_text())["unet"]["step"] == 4
    before, after = (json.loads((where / "quality.json").read_text()) for where in (whole, out))
    assert after["weights"] == quality.weights_of(out) != before["weights"] == quality.weights_of(whole)
    assert after["sd"]["psnr"] == before["sd"]["psnr"], "the autoencoder has stayed"


def test_models_are_gone_on_from_in_another_folder(pool, whole, tmp_path):
    on, stopped = tmp_path / "on", tmp_path / "stopped"
    assert pretrain(pool, on, AMOUNTS, SIZES, begin=whole)
    while not pretrain(pool, stopped, AMOUNTS, SIZES, begin=whole, minutes=0):
        pass
    ours, theirs, before = weights(on), weights(stopped), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    moved = {name for name in ours if not torch.equal(ours[name], before[name])}
    assert moved and all("/unet/" in name for name in moved), "autoencoder and CLIP have stayed"
    trained = json.loads((on / "sd" / "training.json").read_text())
    assert list(trained) == ["autoencoder", "unet", "unet-2"] and trained["unet-2"]["step"] == 2
    assert trained["unet-2"]["facts"]["begin"]["part"] == "unet"
    card = (on / "sd" / "README.md").read_text()
    assert "| unet | 256 | 2 |" in card and "| unet-2 | 256 | 2 |" in card and "Not measured" not in card
    assert pretrain(pool, tmp_path / "third", AMOUNTS, SIZES, begin=on)
    assert list(json.loads((tmp_path / "third" / "sd" / "training.json").read_text()))[-1] == "unet-3"
    with pytest.raises(ValueError, match="on.checkpoints holds a U-Net that began from other models"):
        pretrain(pool, on, AMOUNTS, SIZES)
    for other in (whole, tmp_path / "third"):
        with pytest.raises(ValueError, match="holds models that did not begin from"):
            pretrain(pool, other, AMOUNTS, SIZES, begin=stopped if other == whole else whole)
    with pytest.raises(ValueError, match="its models have other sizes, image_side 16, not 32, .* say the same ones"):
        pretrain(pool, tmp_path / "new", AMOUNTS, POCKET, begin=whole)
    with pytest.raises(FileNotFoundError, match="no models to begin from, sd/training.json is missing"):
        pretrain(pool, tmp_path / "new", AMOUNTS, SIZES, begin=tmp_path)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]


def test_a_shorter_training_than_there_was_is_done(pool, whole, monkeypatch):
    monkeypatch.setattr(quality, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert pretrain(pool, whole, replace(AMOUNTS, unet=128), SIZES)


def test_a_unet_on_its_way_takes_no_finished_one_s_place(pool, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = weights(out)
    assert not pretrain(pool, out, replace(AMOUNTS, unet=1024), SIZES, minutes=0)
    assert all(torch.equal(value, before[name]) for name, value in weights(out).items())
    assert "Not measured" not in (out / "sd" / "README.md").read_text()
    new = tmp_path / "new"
    while not (new / "sd").exists():
        assert not pretrain(pool, new, AMOUNTS, SIZES, minutes=0)
    assert "Not measured yet" in (new / "sd" / "README.md").read_text(), "where there is none, it may be looked at"


def test_models_do_not_depend_on_the_order_of_the_pool_nor_on_who_decodes(pool, whole, tmp_path):
    other = pool.take(np.random.default_rng(1).permutation(len(pool)))
    with Workers(2) as workers:
        pairs = read_pairs(other, tmp_path, 16, Execution(workers=workers))
    same = read_pairs(pool, tmp_path / "same", 16)
    assert np.array_equal(pairs.images, same.images) and pairs.captions == same.captions
    assert pretrain(other, tmp_path / "out", AMOUNTS, SIZES)
    ours, theirs = weights(tmp_path / "out"), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_copies_of_an_image_are_on_one_side_and_more_images_move_none_to_the_other(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (500, 16, 16, 3), dtype=np.uint8)
    twice = np.concatenate([images, images])
    pairs = read_pairs(pool_in_memory("twice", twice, [f"take {i}" for i in range(1000)]), tmp_path, 16)
    held = {image.tobytes() for image in pairs.images[-pairs.held_out :]}
    assert len(held) == pairs.held_out // 2 == 25 and pairs.facts["repeated"] == 500
    assert not held & {image.tobytes() for image in pairs.images[: -pairs.held_out]}
    fewer = read_pairs(pool_in_memory("fewer", images[:480], [f"take {i}" for i in range(480)]), tmp_path, 16)
    all_ = read_pairs(pool_in_memory("all", images, [f"take {i}" for i in range(500)]), tmp_path, 16)
    before, after = ({image.tobytes() for image in p.images[-p.held_out :]} for p in (fewer, all_))
    assert len(before - after) <= 2, "but for those that new ones push out"


def test_a_pool_of_copies_is_refused(tmp_path):
    alike = pool_in_memory("alike", np.zeros((400, 16, 16, 3), np.uint8), [f"take {i}" for i in range(400)])
    with pytest.raises(ValueError, match="too many images of alike are copies of one, so that none can be held out"):
        pretrain(alike, tmp_path, AMOUNTS, SIZES)


def test_only_one_process_trains_in_a_folder(pool, tmp_path):
    with locked(tmp_path / ".lock"), pytest.raises(RuntimeError, match="process [0-9]+ is training models there"):
        pretrain(pool, tmp_path, AMOUNTS, SIZES)


def test_a_tokenizer_of_other_captions_or_another_length_is_learnt_anew(tmp_path):
    captions = ["a red square", "a green square"]
    first = open_tokenizer(tmp_path, captions, 12)
    assert open_tokenizer(tmp_path, captions[::-1], 12).get_vocab() == first.get_vocab()
    assert open_tokenizer(tmp_path, captions, 20).model_max_length == 20
    other = open_tokenizer(tmp_path, ["a purple walrus", "a yellow walrus"], 20)
    assert "walrus</w>" in other.get_vocab() and "walrus</w>" not in first.get_vocab()


def test_captions_that_are_read_alike_or_are_blank_cost_no_measurement(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    images = np.zeros((40, 16, 16, 3), np.uint8)
    captions = ["a cat", "A cat", " a  cat ", "", "  ", "a dog", "a bird", "A Dog"] * 5
    measured = quality.measure(tmp_path / "out", images, captions)
    assert measured["sd"]["psnr"]["n"] == 40 and measured["sd"]["own caption"]["n"] == 30
    assert "from 2 others" in measured["clip"]["own caption"]["about"]
    assert set(quality.measure(tmp_path / "out", images, [""] * 40)["sd"]) == {"psnr"}


def test_a_copy_in_half_the_space_opens_and_is_gone_on_from_in_full(pool, whole, tmp_path):
    write_half(whole, tmp_path / "half")
    ours, theirs = weights(tmp_path / "half"), weights(whole)
    floats = {name for name, value in theirs.items() if value.is_floating_point()}
    assert all(torch.equal(ours[name], theirs[name].half()) for name in floats) and len(floats) > 50
    assert all(ours[name].dtype == torch.float16 and theirs[name].dtype == torch.float32 for name in floats)
    generator, clip = open_generator(tmp_path / "half" / "sd"), open_clip(tmp_path / "half" / "clip")
    assert generator.unet.dtype == clip.model.dtype == torch.float32
    assert "Not measured" not in (tmp_path / "half" / "sd" / "README.md").read_text()
    assert quality.measured_weights(tmp_path / "half") == quality.weights_of(tmp_path / "half")
    assert pretrain(pool, tmp_path / "on", AMOUNTS, SIZES, begin=tmp_path / "half")
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "on").values() if value.is_floating_point())
    main(["halve", "--models", str(whole), "--out", str(tmp_path / "again")])
    again = weights(tmp_path / "again")
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    with pytest.raises(SystemExit):
        main(["halve", "--models", str(whole)])
    with pytest.raises(FileNotFoundError, match="nothing/sd: there is no such model"):
        write_half(tmp_path / "nothing", tmp_path / "half")
    assert (tmp_path / "half" / "sd").is_dir()


def test_few_captions_cost_no_training(whole, tmp_path):
    """Two classes have two captions where both are always called alike: the choice is between these."""
    shutil.copytree(whole, tmp_path / "out")
    images = np.zeros((20, 16, 16, 3), np.uint8)
    measured = quality.measure(tmp_path / "out", images, ["a cat", "a dog"] * 10)
    assert "caption from 1 other, some of which may say the same" in measured["clip"]["own caption"]["about"]
    assert set(quality.measure(tmp_path / "out", images, ["a cat"] * 20)["sd"]) == {"psnr"}


def test_cards_say_what_was_learnt_from_what_was_left_out_and_how_good_it_is(whole):
    for name, parts in {"sd": ("autoencoder", "unet"), "clip": ("clip",)}.items():
        text = (whole / name / "README.md").read_text()
        training = json.loads((whole / name / "training.json").read_text())
        assert tuple(training) == parts
        facts = training[parts[-1]]["facts"]["pool"]
        assert facts["n"] == 300 and facts["unreadable"] == 1 and facts["held_out"] in (14, 15)
        assert facts["captions cut"] == 3 and facts["enlarged"] == 100 - 1
        assert "squares" in text and str(whole) not in text and "Not measured" not in text
        assert "images of squares show" in text
        assert (whole / name / "loss.png").is_file()
        assert "license" not in text, "whose the images are, only their owner knows"
    measured = json.loads((whole / "quality.json").read_text())
    assert set(measured["sd"]) == {"psnr", "own caption", "generated"} and set(measured["clip"]) == {"own caption"}
    assert all(measured[name][key]["n"] in (14, 15) for name in ("sd", "clip") for key in measured[name])
    assert (whole / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_images_are_decoded_once_and_held_out_at_random(pool, tmp_path, monkeypatch):
    pairs = read_pairs(pool, tmp_path, 16)
    assert pairs.images.shape == (299, 16, 16, 3) and len(pairs.captions) == 299
    for row in range(299):  # each still beside its own caption
        colour = pairs.images[row].reshape(-1, 3).mean(0).argmax()
        assert ("red", "green", "blue")[colour] in pairs.captions[row]
    held = pairs.captions[-pairs.held_out :]
    assert len(set(held)) > 5, "not the last ones of the folder alone"
    monkeypatch.setattr(CaptionedPool, "read", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(read_pairs(pool, tmp_path, 16).images, pairs.images)


def test_a_pool_that_cannot_be_learnt_from_is_refused(tmp_path):
    images = np.zeros((400, 16, 16, 3), np.uint8)
    small = pool_in_memory("few", images[:200], [f"take {i}" for i in range(200)])
    with pytest.raises(ValueError, match="few has 200 captioned images, 190 readable ones .* a batch has 256"):
        pretrain(small, tmp_path, AMOUNTS, SIZES)
    alike = pool_in_memory("alike", images, ["a thing"] * 400)
    with pytest.raises(ValueError, match="all 400 captions of alike are 'a thing'"):
        pretrain(alike, tmp_path, AMOUNTS, SIZES)
    with pytest.raises(ValueError, match="unet: 100 images are less than a batch of 128"):
        pretrain(alike, tmp_path, Amounts(unet=100), SIZES)
    assert not list(tmp_path.rglob("*.npy"))
    images = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    damaged = pool_in_memory("damaged", images, [f"take {i}" for i in range(400)])
    with pytest.MonkeyPatch.context() as patch:
        read = CaptionedPool.read
        patch.setattr(
            CaptionedPool, "read", lambda self, rows: [None if i % 2 else read(self, [i])[0] for i in rows]
        )
        with pytest.raises(ValueError, match="damaged has 400 captioned images, 190 readable ones to learn from"):
            pretrain(damaged, tmp_path, AMOUNTS, SIZES)
        patch.setattr(CaptionedPool, "read", lambda self, rows: [None for _ in rows])
        with pytest.raises(ValueError, match="none of the 400 images of broken is readable, first 'broken:0'"):
            pretrain(pool_in_memory("broken", images, damaged.captions), tmp_path, AMOUNTS, SIZES)
    assert len(list(tmp_path.rglob("*.npy"))) == 1, "the readable half"


def test_models_of_another_pool_or_of_other_sizes_are_not_gone_on_from(pool, whole):
    other = pool.take(range(290))
    with pytest.raises(ValueError, match="belongs to another run: pool differ"):
        pretrain(other, whole, AMOUNTS, SIZES)
    larger = Sizes(**vars(SIZES) | {"latent_channels": 8})
    with pytest.raises(ValueError, match="belongs to another run: sizes differ"):
        pretrain(pool, whole, AMOUNTS, larger)
    with pytest.raises(ValueError, match="belongs to another run: seed differ"):
        pretrain(pool, whole, AMOUNTS, SIZES, execution=Execution(seed=1))


def test_clip_may_be_trained_longer_until_a_unet_reads_it(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(own_pool.unet, "train_unet", lambda *_: pytest.skip("this far"))
    for amount in (512, 1024):
        with pytest.raises(pytest.skip.Exception):
            pretrain(pool, tmp_path, Amounts(autoencoder=128, clip=amount, unet=256), SIZES)
    facts = json.loads((tmp_path / "checkpoints" / "frozen" / "facts.json").read_text())
    assert facts["clip"] == 4
    (tmp_path / "checkpoints" / "unet-0000001.safetensors").touch()
    before = [path.name for path in checkpoints(tmp_path / "checkpoints", "clip")]
    with pytest.raises(ValueError, match="a CLIP of 2 and 4 steps; for clip of 1,536 images take another folder"):
        pretrain(pool, tmp_path, Amounts(autoencoder=128, clip=1536, unet=256), SIZES)
    assert [path.name for path in checkpoints(tmp_path / "checkpoints", "clip")] == before, "before any training"


def test_a_full_disk_costs_no_finished_part(folder, tmp_path):
    """A limit on the size of files stands in for the disk: images of 230 kB fit, a checkpoint does not."""
    code = f"""
import resource, sys
from zsclib.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(["pretrain", {str(folder)!r}, "--out", {str(tmp_path)!r}, "--autoencoder", "128", "--image-side", "16",
               "--autoencoder-channels", "8", "8", "--unet-channels", "16", "--patch", "8"]))
"""

    def run(limit: int) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code, str(limit)], capture_output=True, text=True)

    first = run(100_000)
    assert first.returncode == 1 and "File too large" in first.stderr and "Traceback" not in first.stderr
    assert not list(tmp_path.rglob("images-*"))
    second = run(250_000)
    assert second.returncode == 1 and "File too large" in second.stderr and "Traceback" not in second.stderr
    assert "autoencoder-0000002.safetensors: not written" in second.stderr
    assert len(list(tmp_path.rglob("images-*"))) == 2, "decoded, and kept"
    assert not checkpoints(tmp_path / "checkpoints", "autoencoder") and not list(tmp_path.rglob(".*.*"))


def test_rows_are_written_as_numpy_reads_them(tmp_path):
    parts = [np.full((n, 2, 3), n, np.float16) for n in (0, 2, 1)]
    write_rows(tmp_path / "rows.npy", parts)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), np.concatenate(parts))
    assert np.load(tmp_path / "rows.npy", mmap_mode="r").shape == (3, 2, 3)
    with pytest.raises(ValueError, match="no rows came"):
        write_rows(tmp_path / "none.npy", [])
    with pytest.raises(ValueError, match=r"float16 \(2, 3\) and float64 \(2, 3\)"):
        write_rows(tmp_path / "mixed.npy", [parts[1], np.ones((1, 2, 3))])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"image_side": 30}, "image_side: .* halve it 3 times, so it must be a multiple of 8, got 30"),
        ({"patch": 5}, "patch: 32 pixels do not divide into patches of 5"),
        ({"unet_channels": (40,)}, r"unet_channels: multiples of 16 are expected, got \[40\]"),
        ({"autoencoder_channels": ()}, r"autoencoder_channels: positive whole numbers are expected, got \(\)"),
        ({"heads": 3}, "heads: 128 channels do not divide into 3 heads"),
        ({"prompt_tokens": 2}, "prompt_tokens: start, end and a word are 3 at least, got 2"),
        ({"latent_channels": 0}, "latent_channels: positive whole numbers are expected, got 0"),
    ],
)
def test_sizes_that_fit_no_network_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        Sizes(**given)


def test_the_sizes_that_ship_are_those_of_the_shipped_folders():
    folders = Path(cli.ROOT) / "data" / "models"
    generator, clip = open_generator(folders / "pocket-sd"), open_clip(folders / "pocket-clip")
    assert generator.latent_shape == (POCKET.latent_channels, POCKET.latent_side, POCKET.latent_side)
    assert tuple(generator.unet.config.block_out_channels) == POCKET.unet_channels
    assert tuple(generator.vae.config.block_out_channels) == POCKET.autoencoder_channels
    vision, text = clip.model.config.vision_config, clip.model.config.text_config
    assert (vision.image_size, vision.patch_size) == (POCKET.image_side, POCKET.patch)
    assert (vision.num_hidden_layers, text.num_hidden_layers) == (POCKET.image_layers, POCKET.text_layers)
    assert text.hidden_size == vision.hidden_size == POCKET.width
    assert text.intermediate_size == vision.intermediate_size == 4 * POCKET.width


def test_an_image_chooses_among_its_own_caption_and_others():
    captions = [f"take {i % 12}" for i in range(40)]
    texts, own, offered = quality.candidates(captions, k=5)
    assert len(texts) == 12 and (offered.sum(1) == 5).all()
    assert [texts[i] for i in own] == captions and offered[np.arange(40), own].all()
    assert offered[1:13].any(0).all() and (offered[0] != offered[12]).any()


def test_the_command_trains_on_the_made_up_world_as_on_any_pool(tmp_path, capsys):
    size = {"autoencoder-channels": [8, 8, 8], "unet-channels": [16], "width": [32], "heads": [2], "text-layers": [1]}
    size |= {"image-layers": [1], "patch": [8], "autoencoder": [128], "clip": [512], "unet": [256], "images": [160]}
    flags = [word for name, values in size.items() for word in (f"--{name}", *map(str, values))]
    assert cli.main(["pretrain", "world", "--out", str(tmp_path / "out"), *flags]) == 0
    assert "world: 320 captioned images, 16 of them held out" in (said := capsys.readouterr().out)
    assert "each with its card" in said
    assert open_generator(tmp_path / "out" / "sd").latent_shape == (4, 8, 8)
    assert cli.main(["pretrain", "world", "--out", str(tmp_path / "out"), *flags, "--patch", "5"]) == 2
    assert "patch: 32 pixels do not divide" in capsys.readouterr().err
    assert cli.main(["pretrain", f"classes:{tmp_path}", "--out", str(tmp_path / "own"), "--images", "9"]) == 2
    assert "--images is for the pool 'world'" in capsys.readouterr().err


def test_the_larger_images_that_the_book_speaks_of_have_latents_of_the_usual_side():
    assert Sizes(image_side=64, autoencoder_channels=(16, 48, 96, 96)).latent_side == POCKET.latent_side
