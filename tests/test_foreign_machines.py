"""Other people's machines and files: no wrong result, no needless stop, one line where something stands in the way."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from zsclib import cli, datasets
from zsclib.images.files import decode, encode_png
from zsclib.models import folders as model_folders
from zsclib.models.generator import open_generator
from zsclib.paths import ROOT, locked
from zsclib.study import kernel
from zsclib.study.notebooks import publishable, stderr_of
from zsclib.study.provenance import Neutral
from zsclib.study.runner import own_files

GREY = np.array([17 * i for i in range(16)])


def pgm(values: np.ndarray, most: int) -> bytes:
    """Return a 4 x 4 PGM file of 16-bit values."""
    return f"P5\n4 4\n{most}\n".encode() + values.astype(">u2").tobytes()


def classes(root: Path, names: tuple[str, ...] = ("cat", "dog"), each: int = 2) -> Path:
    for c, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (8, 8), (40 * c, 20 * i, 7)).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("most, step", [(65535, 4369), (4095, 273)])
def test_a_pgm_of_16_or_12_bits_reads_as_the_png_of_the_same_values(most, step):
    image = decode(pgm(np.arange(16) * step, most), "deep.pgm")
    assert image[..., 0].ravel().tolist() == GREY.tolist()
    assert (image == image[..., :1]).all()


def test_a_transparent_value_of_16_bit_grey_lies_on_white():
    buffer = io.BytesIO()
    deep = Image.fromarray((np.arange(16) * 4369).astype(np.uint16).reshape(4, 4))
    deep.save(buffer, "PNG", transparency=4369)
    image = decode(buffer.getvalue(), "clear.png")[..., 0].ravel()
    assert image[1] == 255 and np.delete(image, 1).tolist() == np.delete(GREY, 1).tolist()


def test_a_tiff_of_32_bits_has_no_range_and_stays_an_error():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.int32).reshape(4, 4)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="no defined range"):
        decode(buffer.getvalue(), "x.tif")


def test_an_avif_in_a_class_folder_is_an_image_like_any_other(tmp_path):
    folder = classes(tmp_path / "pets")
    Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "cat" / "x.avif")
    images = datasets.load(f"folder:{folder}")
    assert len(images) == 5 and "cat/x.avif" in set(images.manifest["source"])


@pytest.mark.parametrize("name", ["x.HEIC", "y.jxl", "movie.mp4"])
def test_files_that_cannot_be_opened_are_counted_and_refused(tmp_path, name):
    folder = classes(tmp_path / "pets")
    for other in ("a", "b"):
        (folder / "dog" / f"{other}{name}").write_bytes(b"no image")
    suffix = Path(name).suffix.lower()
    with pytest.raises(ValueError, match=rf"2 of 6 files .*2 × \{suffix}"):
        datasets.load(f"folder:{folder}")


def test_notes_beside_images_are_left_out_in_silence(tmp_path):
    folder = classes(tmp_path / "pets")
    for name in ("notes.txt", "labels.json", "Thumbs.db", ".DS_Store"):
        (folder / "cat" / name).write_bytes(b"x")
    assert len(datasets.load(f"folder:{folder}")) == 4


def test_relabelled_or_moved_images_are_other_files(tmp_path, monkeypatch):
    folder = classes(tmp_path / "pets")
    before = own_files({"dataset": f"folder:{folder}"}, tmp_path)
    assert len(before) == 4
    (folder / "cat").rename(folder / "lion")
    renamed = own_files({"dataset": f"folder:{folder}"}, tmp_path)
    assert renamed != before
    (folder / "lion" / "0.png").rename(folder / "dog" / "9.png")
    assert own_files({"dataset": f"folder:{folder}"}, tmp_path) not in (before, renamed)
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = own_files({"dataset": "folder:~/pets", "model": "~/pets"}, tmp_path / "clone")
    assert len(at_home) == 8, "a home folder is a folder, for models too"


def test_own_files_in_the_clones_data_count_unless_the_librarys_hash_reads_them(tmp_path):
    classes(tmp_path / "data" / "mine")
    classes(tmp_path / "data" / "models" / "pocket")
    assert len(own_files({"dataset": "folder:data/mine"}, tmp_path)) == 4
    assert own_files({"model": "data/models/pocket"}, tmp_path) == []


def parquet(path: Path, labels: list[int]) -> str:
    """Write a Parquet file of images with these labels; return its name as a data set."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (len(labels), 8, 8, 3), dtype=np.uint8)
    files = [{"bytes": encode_png(image), "path": None} for image in pixels]
    pq.write_table(pa.table({"image": files, "label": labels}), path)
    return f"parquet:{path}"


def test_an_image_without_a_label_is_no_class_and_no_wrong_answer(tmp_path):
    images = datasets.load(parquet(tmp_path / "some.parquet", [0, -1, 1, -1, 1, 0]))
    assert sorted(images.labels.tolist()) == [0, 0, 1, 1]
    few = datasets.load(parquet(tmp_path / "some.parquet", [0, -1, 1, -1, 1, 0]), n=2)
    assert sorted(few.labels.tolist()) == [0, 1], "balanced over classes, of which no label is none"
    with pytest.raises(ValueError, match="2 more have no label"):
        datasets.load(parquet(tmp_path / "some.parquet", [0, -1, 1, -1, 1, 0]), n=5)
    own, _ = datasets.load_own(parquet(tmp_path / "some.parquet", [0, -1, 1, -1, 1, 0]), n=6)
    assert len(own) == 4
    with pytest.raises(ValueError, match="no image of .* has a label .of 6"):
        datasets.load(parquet(tmp_path / "none.parquet", [-1] * 6))


def test_names_for_numbered_folders_are_refused_where_the_orders_differ(tmp_path):
    numbers = tuple(str(i) for i in range(1, 12))
    folder = classes(tmp_path / "numbered", numbers, each=1)
    names = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    with pytest.raises(ValueError, match="order 1, 10, 11, 2"):
        datasets.load_own(f"folder:{folder}", names)
    padded = classes(tmp_path / "padded", tuple(f"{i:02d}" for i in range(1, 12)), each=1)
    assert datasets.load_own(f"folder:{padded}", names)[0].classes == tuple(names)


def halves(folder: Path) -> Path:
    """Turn a model folder into one saved with variant="fp16" only."""
    for path in folder.rglob("*.safetensors"):
        save_file({k: v.half() for k, v in load_file(path).items()}, path.with_suffix(".fp16.safetensors"))
        path.unlink()
    return folder


def test_a_model_saved_in_half_precision_only_is_opened(folders, tmp_path):
    copy = halves(Path(shutil.copytree(folders["stable_diffusion_1"], tmp_path / "half")))
    whole, half = open_generator(folders["stable_diffusion_1"]), open_generator(copy)
    a, b = next(whole.unet.parameters()), next(half.unet.parameters())
    assert b.dtype == a.dtype and (a - b).abs().max() < 1e-2


def test_a_hub_id_may_name_its_revision(monkeypatch):
    calls = []

    def snapshot(ident, **options):
        calls.append((ident, options["revision"]))
        raise OSError("not here")

    monkeypatch.setattr(model_folders.huggingface_hub, "snapshot_download", snapshot)
    for name in ("someone/model@refs/pr/3", "someone/model"):
        with pytest.raises(FileNotFoundError, match="not here"):
            model_folders.find_folder(name, "model_index.json")
    assert calls == [("someone/model", "refs/pr/3"), ("someone/model", None)]


def test_pickled_weights_name_the_way_to_a_conversion(folders, tmp_path):
    copy = Path(shutil.copytree(folders["stable_diffusion_1"], tmp_path / "pickled"))
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="refs/pr/N"):
        open_generator(copy)


def test_a_terminal_that_lacks_characters_shows_others():
    code = "from zsclib import cli; import sys; sys.exit(cli.main(['list']))"
    variables = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"diversity" in done.stdout


def test_what_the_system_refuses_is_one_line_and_exit_1(monkeypatch, capsys):
    def refuse(_):
        raise PermissionError(13, "Permission denied", "/clone/results/book")

    monkeypatch.setattr(cli, "_list", refuse)
    assert cli.main(["list"]) == 1
    error = capsys.readouterr().err.strip()
    assert error == "zsc: /clone/results/book: Permission denied"


def test_the_command_says_when_it_works_for_another_clone(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "zsclib").mkdir()
    (tmp_path / "zsclib" / "workers.py").touch()
    monkeypatch.setattr(cli, "_list", lambda _: None)
    monkeypatch.chdir(tmp_path / "notebooks")
    assert cli.main(["list"]) == 0
    assert f"working directory to {tmp_path}" in capsys.readouterr().err
    monkeypatch.chdir(ROOT)
    assert cli.main(["list"]) == 0 and capsys.readouterr().err == ""


def test_standard_error_does_not_reach_the_page():
    streams = [("stderr", "Matplotlib is building the font cache"), ("stdout", "93 %")]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in streams]
    cells = [nbformat.v4.new_code_cell("a"), nbformat.v4.new_code_cell("b", outputs=outputs)]
    node = nbformat.v4.new_notebook(cells=cells)
    assert stderr_of(node) == [(2, "Matplotlib is building the font cache")]
    page = publishable(node, Neutral())
    assert [output["name"] for output in page.cells[1].outputs] == ["stdout"]


def test_the_font_cache_is_there_before_a_kernel_starts(tmp_path):
    variables = kernel.environment(network=False) | {"MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    kernel.make_caches(variables)
    assert list((tmp_path / "matplotlib").glob("fontlist-*.json"))


def test_a_lock_names_its_owner_or_waits(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from zsclib.paths import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('in', flush=True); sys.stdin.read()"
    )
    path, pipes = tmp_path / "a" / ".lock", {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(BlockingIOError) as caught, locked(path):
            pass
        assert caught.value.filename == str(other.pid)
        waited = []

        def wait(owner: str) -> None:
            waited.append(owner)
            other.stdin.close()

        with locked(path, wait):
            assert waited == [str(other.pid)]
