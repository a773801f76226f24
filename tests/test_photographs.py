"""Real photographs: nothing to learn from is tested on, and the pool and the sets are what the splits say."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from zsclib import cli
from zsclib.datasets import load
from zsclib.generator_pool import ABSENT, OWN_IN_POOL, learnt_from
from zsclib.images.files import encode_png
from zsclib.images.parquet import class_names
from zsclib.paths import WHERE_PHOTOGRAPHS_ARE
from zsclib.pocket import photograph_sets, photographs
from zsclib.pocket.photograph_captions import MIX, Mix, Photograph, caption, fill, load_words
from zsclib.pocket.photograph_sets import words_of, write_sets
from zsclib.pocket.photographs import image_hash
from zsclib.pools.captioned import open_pool
from zsclib.prompts import ARTICLE, FOLDER, load_prompts, prompts_of
from zsclib.prompts import fill as filled
from zsclib.seeds import rng
from zsclib.study.runner import own_files

SPLITS = Path(__file__).resolve().parents[1] / "data" / "photographs" / "splits.parquet"


@pytest.fixture(scope="module")
def splits() -> pd.DataFrame:
    return pd.read_parquet(SPLITS)


def test_an_image_is_in_one_split(splits):
    assert not splits.duplicated(["set", "hash"]).any()
    assert set(splits["split"]) == {"train", "validation", "test", "dropped"}
    assert splits["hash"].map(len).eq(8).all()


def test_no_tested_image_may_be_learned_from(splits):
    tested = set(splits["hash"][splits["split"].isin(["test", "validation"])])
    learned = set(splits["hash"][splits["split"] == "train"])
    assert len(tested) > 30_000 and len(learned) > 6_000
    assert not tested & learned, "also across sets"


def test_every_set_has_images_to_choose_by_and_to_test_on(splits):
    counts = splits.groupby(["set", "split"], observed=True).size().unstack(fill_value=0)
    assert set(counts.index) == {"cifar10", "tiny-imagenet-32", "pacs-64", "rsscn7-64", "caltech101-64"}
    assert (counts[["validation", "test"]] >= 300).all(axis=None)
    outside = counts.loc[["rsscn7-64", "caltech101-64"]]
    assert (outside["dropped"] == 0).all(), "nothing of them is in the pre-training data to begin with"
    assert (outside["train"] > 0).all()


# --- the pool and the sets, on made-up files in the same layout -----------------------------------

FREE = {"cifar10/train.parquet": 6, "tiny-imagenet-32/train.parquet": 3}  # images of each class
EVERY = {"cifar10/test.parquet": 1, "tiny-imagenet-32/valid.parquet": 1, "caltech101-64/train.parquet": 1}
EVERY |= {f"caltech101-64/{name}.parquet": 1 for name in ("valid", "test")}
EVERY |= {"pacs-64/all.parquet": 6, "rsscn7-64/train.parquet": 3, "rsscn7-64/test.parquet": 2}
PACS = ("photo", "art_painting", "cartoon", "sketch")


class Made(NamedTuple):
    """Made-up files, their layout, and the split of every image: (set, hash) → split, "free" for what is not listed."""

    data: Path
    about: Path
    splits: dict[tuple[str, bytes], str]
    domains: dict[bytes, str]

    def layout(self) -> photographs.Layout:
        return photographs.load_layout(self.about)

    def write(self, out: Path, mix: Mix = MIX) -> pd.DataFrame:
        """Write the pool and return its rows, in their order."""
        photographs.write_pool(self.data, out, mix, self.layout())
        return pq.read_table(out).to_pandas()


def one(*key: int | str) -> bytes:
    return encode_png(rng(0, "made up", *key).integers(0, 256, (4, 4, 3), dtype=np.uint8))


def write_images(
    path: Path, images: list[bytes], labels: list[int], names: list[str], **columns: list
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    table = pa.table({"image": files, "label": labels, **columns})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def change(path: Path, edit) -> None:
    """Write a file anew, with its images, labels and class names edited."""
    table = pq.read_table(path)
    images, labels = [image["bytes"] for image in table["image"].to_pylist()], table["label"].to_pylist()
    write_images(path, *edit(images, labels, class_names(table.schema, "label")))


def split_of(file: str, number: int, domain: str) -> str:
    """Return the split of an image of its class: as the real ones are cut, by its number."""
    if file in FREE:
        return (
            {0: "validation", 1: "dropped"}.get(number, "free")
            if "cifar" in file
            else ("validation", *["free"] * 2)[number]
        )
    if "pacs" in file:
        return ("test", "validation", "dropped" if domain != "sketch" else "train", *["train"] * 3)[number]
    if file == "rsscn7-64/train.parquet":
        return ("validation", "train", "train")[number]
    return {"train": "train", "valid": "test" if "tiny" in file else "validation", "test": "test"}[
        Path(file).stem
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Made:
    root = tmp_path_factory.mktemp("photographs")
    real, words = yaml.safe_load((photographs.FOLDER / "sets.yml").read_text()), load_words()
    splits, domains = {}, {}
    assert set(real["files"]) == {*FREE, *EVERY}
    for file, about in real["files"].items():
        names, images, labels, where = list(words.classes[about["set"]]), [], [], []
        for domain in PACS if "pacs" in file else ("photo",):
            for label in range(len(names)):
                for number in range((FREE | EVERY)[file]):
                    data = one(file, domain, label, number)
                    images, labels, where = [*images, data], [*labels, label], [*where, domain]
                    splits[about["set"], image_hash(data)] = split_of(file, number, domain)
                    domains[image_hash(data)] = domain
        if file == "tiny-imagenet-32/train.parquet":  # as the real one: a free image twice, and a test image
            images += [images[2], one("tiny-imagenet-32/valid.parquet", "photo", 7, 0)]
            labels += [3, 9]
        write_images(
            root / "data" / file, images, labels, names, domain=where + ["photo"] * (len(images) - len(where))
        )
        about["images"] = len(images)
    listed = [(name, domains[key], key, split) for (name, key), split in splits.items() if split != "free"]
    (root / "about").mkdir()
    pd.DataFrame(listed, columns=["set", "domain", "hash", "split"]).to_parquet(root / "about/splits.parquet")
    (root / "about/sets.yml").write_text(yaml.safe_dump(real, sort_keys=False))
    shutil.copy(photographs.FOLDER / "captions.yml", root / "about")
    return Made(root / "data", root / "about", splits, domains)


@pytest.fixture
def made(original, tmp_path) -> Made:
    """The same in a folder that may be changed."""
    for name in ("data", "about"):
        shutil.copytree(getattr(original, name), tmp_path / name)
    return original._replace(data=tmp_path / "data", about=tmp_path / "about")


def test_the_pool_is_what_may_be_learnt_from_and_nothing_else(original, tmp_path):
    pool = original.write(tmp_path / "pool.parquet")
    free = {key for key, split in original.splits.items() if split == "free"}
    free |= {
        (name, key)
        for (name, key), split in original.splits.items()
        if name == "pacs-64" and split == "train" and original.domains[key] != "sketch"
    }
    assert (
        set(zip(pool["set"], pool["hash"], strict=True)) == free and len(pool) == len(free) == 40 + 400 + 63
    )
    assert list(pool["image"].map(image_hash)) == list(pool["hash"]), "the stored bytes"
    assert set(pool["domain"]) == {"photo", "art_painting", "cartoon"}
    assert all(
        original.domains[key] == domain for key, domain in zip(pool["hash"], pool["domain"], strict=True)
    )
    others = {key for (name, key), split in original.splits.items() if (name, key) not in free}
    assert not others & set(pool["hash"]), "no test, validation, dropped or shot of any set"


def test_the_pool_opens_as_any_captioned_pool(original, tmp_path):
    rows = original.write(tmp_path / "pool.parquet")
    pool = open_pool(f"parquet:{tmp_path / 'pool.parquet'}")
    assert pool.captions == tuple(rows["caption"]) and pool.read([3], size=8)[0].shape == (8, 8, 3)
    cartoons = open_pool(f"parquet:{tmp_path / 'pool.parquet'}?domain=cartoon&caption_kind=right,vague")
    assert 0 < len(cartoons) == ((rows["domain"] == "cartoon") & (rows["caption_kind"] != "wrong")).sum()
    assert pq.ParquetFile(tmp_path / "pool.parquet").metadata.row_group(0).num_rows <= 1000


def test_the_report_counts_every_image_once(original, tmp_path):
    report = photographs.write_pool(original.data, tmp_path / "pool.parquet", MIX, original.layout())
    tiny, pacs = report.loc["tiny-imagenet-32/train.parquet"], report.loc["pacs-64/all.parquet"]
    assert (tiny["images"], tiny["pool"], tiny["validation"], tiny["repeated"]) == (602, 400, 200, 2)
    assert (pacs["pool"], pacs["shots"], pacs["test"], pacs["dropped"]) == (63, 28, 28, 21)
    assert report.loc["cifar10/train.parquet", "dropped"] == 10
    assert (report[["right", "vague", "wrong"]].sum(axis=1) == report["pool"]).all()


def test_the_pool_is_the_same_bytes_on_every_call_and_in_any_order_of_rows(made, tmp_path):
    made.write(tmp_path / "a.parquet")
    for file in made.layout().pool:
        turn_round(made.data / file)
    made.write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    made.write(tmp_path / "c.parquet", Mix(seed=1))
    assert (tmp_path / "a.parquet").read_bytes() != (tmp_path / "c.parquet").read_bytes()


def turn_round(path: Path) -> None:
    """Put the rows of a file in the opposite order; of an image under two labels the lower one counts."""
    table = pq.read_table(path)
    pq.write_table(table.take(np.arange(len(table))[::-1]), path)


def test_the_last_rows_are_a_sample_of_all_sets(original, tmp_path):
    pool = original.write(tmp_path / "a.parquet")
    whole, last = (rows["set"].value_counts(normalize=True) for rows in (pool, pool[-150:]))
    assert (whole - last).abs().max() < 0.1, "four standard deviations"
    other = original.write(tmp_path / "b.parquet", Mix(seed=1))
    assert list(other["hash"]) != list(pool["hash"]) and set(other["hash"]) == set(pool["hash"])


def test_a_pool_is_whole_or_as_it_was(made, tmp_path, monkeypatch):
    path = tmp_path / "out" / "pool.parquet"
    made.write(path)
    before = path.read_bytes()

    def fail(*arguments, **options):
        Path(arguments[1]).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="no space left"):
        made.write(path, Mix(seed=1))
    assert path.read_bytes() == before and os.listdir(path.parent) == ["pool.parquet"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ("cifar10/train.parquet", "tiny-imagenet-32/train.parquet", "pacs-64/all.parquet")
)
def test_a_missing_file_is_named_and_nothing_is_written(made, tmp_path, file):
    (made.data / file).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"data/{file}: there is no such file; the pool needs cifar10/train.*pacs"
    ):
        made.write(tmp_path / "pool.parquet")
    assert not (tmp_path / "pool.parquet").exists()


def again(data: bytes) -> bytes:
    """The same pixels, encoded otherwise."""
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "png", compress_level=0)
    return out.getvalue()


OTHERS = {  # which images, which labels, which class names; and what the error says
    "encoded again": (
        lambda images, labels, names: ([again(image) for image in images], labels, names),
        "of the 20 images listed as validation, dropped 0 are in it",
    ),
    "one listed less": (
        lambda images, labels, names: ([one("new"), *images[1:]], labels, names),
        "of the 20 images .* 19 are in it",
    ),
    "one more": (
        lambda images, labels, names: ([*images, one("new")], [*labels, 0], names),
        "20 are in it.*it has 61 images, not 60",
    ),
    "other classes": (
        lambda images, labels, names: (images, labels, names[::-1]),
        "10 classes of cifar10 .* airplane, automobile.*got truck",
    ),
    "no class names": (lambda images, labels, names: (images, labels, []), "got none"),
}


@pytest.mark.parametrize("version", OTHERS)
def test_another_version_is_refused_with_a_count(made, tmp_path, version):
    edit, message = OTHERS[version]
    change(made.data / "cifar10/train.parquet", edit)
    with pytest.raises(ValueError, match=f"(?s)cifar10/train.parquet: .*{message}"):
        made.write(tmp_path / "pool.parquet")
    assert not (tmp_path / "pool.parquet").exists()


def test_an_image_that_should_be_listed_and_is_not(made, tmp_path):
    splits = pd.read_parquet(made.about / "splits.parquet")
    last = splits.index[splits["set"] == "pacs-64"][-1]
    splits.drop(index=last).to_parquet(made.about / "splits.parquet")
    with pytest.raises(
        ValueError, match="pacs-64/all.parquet.* 167 are in it.* 1 of its images should be listed"
    ):
        made.write(tmp_path / "pool.parquet")


@pytest.mark.parametrize(("name", "split"), [("cifar10", "free"), ("pacs-64", "train")])
@pytest.mark.parametrize("other", ["test", "validation", "dropped", "train"])
def test_an_image_that_another_set_lists_is_refused(made, tmp_path, name, split, other):
    own = next(
        key
        for (of, key), its in made.splits.items()
        if (of, its) == (name, split) and made.domains[key] == "photo"
    )
    splits = pd.read_parquet(made.about / "splits.parquet")
    splits.loc[len(splits)] = ("caltech101-64", "photo", own, other)
    splits.to_parquet(made.about / "splits.parquet")
    with pytest.raises(
        ValueError, match=f"1 images of {name} .*{own.hex()} as {other} of caltech101-64; list them as"
    ):
        made.write(tmp_path / "pool.parquet")
    assert not (tmp_path / "pool.parquet").exists()


def test_a_damaged_file_is_named(made, tmp_path):
    (made.data / "cifar10/train.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match="cifar10/train.parquet: not usable as a Parquet file"):
        made.write(tmp_path / "pool.parquet")


# --- captions -------------------------------------------------------------------------------------

WORDS = load_words()
CAPTIONED = ("cifar10", "tiny-imagenet-32", "pacs-64")
LONGEST = 9  # words of a caption: well within the 32 tokens that the text tower reads
RIGHT = Mix(vague=0, wrong=0)


def photographs_of(
    n: int, name: str = "cifar10", domain: str = "photo", label: str = "automobile"
) -> list[Photograph]:
    return [Photograph(name, domain, label, rng(0, "hash", i).bytes(8)) for i in range(n)]


def kinds(mix: Mix, n: int = 1500) -> dict[str, float]:
    return (
        pd.Series([caption(one, WORDS, mix)[1] for one in photographs_of(n)])
        .value_counts(normalize=True)
        .to_dict()
    )


def test_the_shares_of_captions_are_those_of_the_mix():
    shares = kinds(Mix(vague=0.2, wrong=0.1))
    for kind, share in {"right": 0.7, "vague": 0.2, "wrong": 0.1}.items():
        assert shares[kind] == pytest.approx(share, abs=4 * (share * (1 - share) / 1500) ** 0.5)
    assert kinds(RIGHT) == {"right": 1} and kinds(Mix(vague=1, wrong=0)) == {"vague": 1}
    assert kinds(Mix(vague=0, wrong=1)) == {"wrong": 1}


def test_a_caption_depends_on_the_seed_the_set_and_the_hash_alone(original, tmp_path):
    pool = original.write(tmp_path / "pool.parquet").set_index("hash")
    for name, label in (("cifar10", "automobile"), ("pacs-64", "dog")):
        row = pool[(pool["set"] == name) & (pool["class"] == label)].iloc[0]
        image = Photograph(name, row["domain"], label, row.name)
        assert caption(image, WORDS, MIX) == (row["caption"], row["caption_kind"])
    image = photographs_of(1)[0]
    assert len({caption(image, WORDS, Mix(seed=seed)) for seed in range(20)}) > 5
    assert len({caption(one, WORDS, MIX) for one in photographs_of(20)}) > 5


def test_what_stays_right_stays_as_it_is_when_a_share_changes():
    pairs = [(caption(one, WORDS, RIGHT), caption(one, WORDS, MIX)) for one in photographs_of(300)]
    assert all(right == mixed for right, mixed in pairs if mixed[1] == "right")
    assert any(mixed[1] != "right" for _, mixed in pairs)


def names_in(text: str, classes) -> set[str]:
    """Return the classes that a caption names."""
    return {
        own
        for own, one in classes.items()
        for name in one.names
        if re.search(rf"(?<![\w-]){re.escape(ARTICLE.sub('', name))}(?![\w-])", text)
    }


def test_right_captions_name_the_class_wrong_ones_another_and_vague_ones_none():
    classes = WORDS.classes["cifar10"]
    for label in classes:
        images = photographs_of(60, label=label)
        assert all(names_in(caption(one, WORDS, RIGHT)[0], classes) == {label} for one in images)
        wrong = [names_in(caption(one, WORDS, Mix(vague=0, wrong=1))[0], classes) for one in images]
        assert all(len(named) == 1 and label not in named for named in wrong)
        assert len(set.union(*wrong)) > 4, "any other class"
        vague = [caption(one, WORDS, Mix(vague=1, wrong=0))[0] for one in images]
        assert not any(names_in(text, classes) for text in vague)
    nameless = [caption(one, WORDS, Mix(vague=1, nameless=1, wrong=0))[0] for one in photographs_of(60)]
    assert {text.split()[-1] for text in nameless} <= {"photo", "photograph", "picture", "snapshot", "image"}
    superclass = [caption(one, WORDS, Mix(vague=1, nameless=0, wrong=0))[0] for one in photographs_of(60)]
    assert all("vehicle" in text for text in superclass)


def test_the_domain_is_said_in_its_own_words():
    texts = {
        domain: " ".join(
            caption(one, WORDS, RIGHT)[0] for one in photographs_of(80, "pacs-64", domain, "dog")
        )
        for domain in ("photo", "art_painting", "cartoon")
    }
    for domain, word in {"photo": "photo", "art_painting": "painting", "cartoon": "cartoon"}.items():
        assert [other for other, text in texts.items() if word in text] == [domain]


def every_caption() -> set[str]:
    """Return every caption that there can be."""
    texts = {
        fill(template, medium)
        for template in WORDS.nameless
        for words in WORDS.media.values()
        for medium in words
    }
    for name in CAPTIONED:
        media = [
            word
            for domain, words in WORDS.media.items()
            if domain == "photo" or name == "pacs-64"
            for word in words
        ]
        phrases = {
            phrase for one in WORDS.classes[name].values() for phrase in (*one.names, *WORDS.kinds[one.kind])
        }
        texts |= {fill(t, m, phrase) for t in WORDS.templates for m in media for phrase in phrases}
    return texts


def test_captions_are_short_and_whole_and_their_articles_right():
    texts = every_caption()
    assert max(len(text.split()) for text in texts) == LONGEST
    assert not [text for text in texts if re.search(r"[{}]|  |^ | $", text)]
    silent = ("hour",)  # an h that is not heard
    voiced = ("European", "uniform", "unicycle", "one")  # a vowel that sounds like a consonant
    for text in texts:
        for article, word in re.findall(r"\b(a|an) (\S+)", text):
            vowel = word.startswith(silent) or (word[0] in "aeiouAEIOU" and not word.startswith(voiced))
            assert article == ("an" if vowel else "a"), text
        assert not re.search(r"\b(a|an|the) (a|an|the)\b", text), text


def test_no_latin_name_is_in_a_caption():
    keys = [own for own in WORDS.classes["tiny-imagenet-32"] if re.search(r", [A-Z][a-z]+ [a-z]+$", own)]
    latin = {own.rpartition(", ")[2].lower() for own in keys}
    assert "rana catesbeiana" in latin and len(latin) > 20
    texts = {name.lower() for one in WORDS.classes["tiny-imagenet-32"].values() for name in one.names}
    assert not [name for name in texts if any(binomial in name for binomial in latin)]


def test_first_names_tell_classes_apart():
    for classes in WORDS.classes.values():
        bare = [one.bare for one in classes.values()]
        assert len(set(bare)) == len(bare)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "deer: {animal: [a deer]}",
            "deer: {animal: [a horse]}",
            "two classes of cifar10 are called 'a horse'",
        ),
        ("deer: {animal: [a deer]}", "deer: {ruminant: [a deer]}", r"kinds without words: \['ruminant'\]"),
    ],
)
def test_words_that_do_not_fit_together_are_refused(tmp_path, old, new, message):
    text = (photographs.FOLDER / "captions.yml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tmp_path / "captions.yml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_words(tmp_path / "captions.yml")


@pytest.mark.parametrize(
    "shares", [{"vague": -0.1}, {"wrong": 1.1}, {"vague": 0.6, "wrong": 0.6}, {"nameless": 2}]
)
def test_shares_are_shares(shares):
    with pytest.raises(ValueError, match="Mix: shares must lie in 0 to 1"):
        Mix(**shares)


# --- labelled sets --------------------------------------------------------------------------------


def load_set(folder: Path, split: str):
    images = load(f"parquet:{folder}", split)
    table = pq.read_table(folder / f"{split}.parquet").to_pandas()
    return images, [image_hash(image["bytes"]) for image in table["image"]], table


def test_sets_are_cut_by_the_splits_and_open_as_data_sets(original, tmp_path):
    layout = original.layout()
    report = write_sets(original.data, tmp_path, None, layout)
    assert list(report.index) == list(layout.sets) and set(layout.sets) == set(os.listdir(tmp_path))
    for name, about in layout.sets.items():
        known = WORDS.classes[about["of"]]
        classes = [known[label] for label in about.get("classes", list(known)[:: about.get("every", 1)])]
        for split, part in {"train": about.get("train"), "validation": "validation", "test": "test"}.items():
            if part is None:
                assert not (tmp_path / name / "train.parquet").exists()
                with pytest.raises(FileNotFoundError, match="'train' fits none"):
                    load(f"parquet:{tmp_path / name}", "train")
                continue
            images, hashes, table = load_set(tmp_path / name, split)
            assert images.classes == tuple(one.bare for one in classes), name
            assert (
                set(table["domain"]) == {about["domain"]}
                and len(set(hashes)) == len(hashes) == report.loc[name, split]
            )
            expected = {
                key
                for (of, key), its in original.splits.items()
                if (of, its) == (about["of"], part) and original.domains[key] == about["domain"]
            }
            whole = not {"every", "classes"} & about.keys()
            assert set(hashes) == expected if whole else set(hashes) < expected, (name, split)
            assert set(images.labels) == set(range(len(classes)))
    twenty, all_classes = (
        load(f"parquet:{tmp_path / name}") for name in ("tiny-imagenet-20", "tiny-imagenet")
    )
    assert twenty.classes == all_classes.classes[::10] and len(twenty) == 20


def test_an_image_of_the_subset_has_its_own_class(original, tmp_path):
    write_sets(original.data, tmp_path, ["tiny-imagenet", "tiny-imagenet-20"], original.layout())
    labels = {}
    for name in ("tiny-imagenet", "tiny-imagenet-20"):
        images, hashes, table = load_set(tmp_path / name, "train")
        labels[name] = {key: images.classes[label] for key, label in zip(hashes, table["label"], strict=True)}
    assert labels["tiny-imagenet-20"].items() <= labels["tiny-imagenet"].items()
    repeated = image_hash(one("tiny-imagenet-32/train.parquet", "photo", 0, 2))
    assert labels["tiny-imagenet"][repeated] == "Egyptian cat", "once, and not as the fourth class too"


def test_a_set_of_named_classes_has_these_in_their_order(made, tmp_path):
    names, path = ["hedgehog", "accordion"], made.about / "sets.yml"
    content = yaml.safe_load(path.read_text())
    content["sets"]["caltech101-rare"]["classes"] = names
    path.write_text(yaml.safe_dump(content))
    write_sets(made.data, tmp_path, ["caltech101-rare"], made.layout())
    images, hashes, table = load_set(tmp_path / "caltech101-rare", "test")
    assert images.classes == tuple(names) and len(images) == 2
    known = list(WORDS.classes["caltech101-64"])
    for label, key in zip(table["label"], hashes, strict=True):
        assert key == image_hash(one("caltech101-64/test.parquet", "photo", known.index(names[label]), 0))
    content["sets"]["caltech101-rare"]["classes"] = ["hedgehogs"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="caltech101-rare has no class 'hedgehogs' .did you mean 'hedgehog'"):
        write_sets(made.data, tmp_path, ["caltech101-rare"], made.layout())


def test_claims_know_which_sets_the_pool_has_and_which_it_lacks():
    sets = photographs.load_layout().sets
    with_shots = {f"photographs:{name}": about["in_pool"] for name, about in sets.items() if "train" in about}
    assert set(OWN_IN_POOL) == {name for name, in_pool in with_shots.items() if in_pool}
    assert {name for name in ABSENT if name.startswith("photographs:")} <= with_shots.keys() - {*OWN_IN_POOL}


def test_the_pool_names_none_of_the_rare_classes_and_all_of_the_known_ones():
    layout = photographs.load_layout()
    pooled = {layout.files[file]["set"] for file in layout.pool}
    words = {ARTICLE.sub("", text) for name in pooled for one in WORDS.classes[name].values() for text in one.names}
    rare = layout.sets["caltech101-rare"]["classes"]
    assert not [name for name in rare if any(re.search(rf"\b{name}\b", text) for text in words)]
    known = [ARTICLE.sub("", name) for name in load_prompts("photographs:caltech101-known").classes]
    assert len(known) == 9 and set(known) <= words


def test_whether_a_sets_own_training_images_are_in_the_pool_is_as_its_file_says(original, tmp_path):
    layout, pool = original.layout(), original.write(tmp_path / "pool.parquet")
    for name, about in layout.sets.items():
        own = {
            key
            for (of, key), split in original.splits.items()
            if of == about["of"] and split in ("free", "train") and original.domains[key] == about["domain"]
        }
        assert own <= set(pool["hash"]) if about["in_pool"] else not own & set(pool["hash"]), name
    text = (photographs.FOLDER / "README.md").read_text(encoding="utf-8")
    for name, about in layout.sets.items():
        row = re.search(rf"^\| `{name}` .*\| (yes|no)[^|]* \|$", text, re.M)
        assert row[1] == ("yes" if about["in_pool"] else "no"), name


def test_prompts_beside_a_set_ask_for_its_classes(original, tmp_path):
    write_sets(original.data, tmp_path, ["pacs-sketch", "cifar10", "rsscn7"], original.layout())
    for name, first in {
        "pacs-sketch": "a sketch of a dog",
        "cifar10": "a photo of an airplane",
        "rsscn7": "a satellite photo of grass",
    }.items():
        prompts = load_prompts(tmp_path / name / "prompts.yml")
        classes = load(f"parquet:{tmp_path / name}").classes
        assert len(prompts.classes) == len(classes) and filled(prompts.template, prompts.classes)[0] == first


def test_a_set_has_words_of_its_own_where_it_says_so(original, tmp_path):
    write_sets(original.data, tmp_path, ["pacs-sketch", "cifar10"], original.layout())
    sketch, cifar10 = (load_prompts(tmp_path / name / "prompts.yml") for name in ("pacs-sketch", "cifar10"))
    assert sketch.templates[:2] == ("a sketch of {}", "a drawing of {}") and cifar10.templates[0] == "a photo of {}"
    assert len(set(cifar10.templates)) == len(cifar10.templates) and cifar10.bare == "{}"
    assert sketch.base == cifar10.base == "an image of {}" and "cartoon" in cifar10.domains


def test_the_prompts_that_ship_are_those_beside_the_sets():
    layout = photographs.load_layout()
    shipped = {path.stem: path.read_text(encoding="utf-8") for path in (FOLDER / "photographs").glob("*.yml")}
    assert shipped == {name: words_of(name, layout) for name in layout.sets}, "write them anew by words_of"
    assert load_prompts("photographs:caltech101").classes[3] == "an accordion"
    with pytest.raises(FileNotFoundError, match="there is no .*photographs/nothing.yml"):
        load_prompts("photographs:nothing")


def test_photographs_are_known_by_name_once_their_folder_is_named(original, tmp_path, monkeypatch):
    photographs.write_pool(original.data, tmp_path / "pool.parquet", MIX, original.layout())
    write_sets(original.data, tmp_path / "sets", ["rsscn7"], original.layout())
    monkeypatch.setenv(WHERE_PHOTOGRAPHS_ARE, str(tmp_path))
    by_name, by_path = (load(name, n=7, size=4) for name in ("photographs:rsscn7", f"parquet:{tmp_path}/sets/rsscn7"))
    assert np.array_equal(by_name.images, by_path.images) and by_name.classes == by_path.classes
    assert prompts_of("photographs:rsscn7", by_name.classes)[1] == "a satellite photo of a field"
    pool = learnt_from("photographs")
    assert pool.captions == open_pool(f"parquet:{tmp_path}/pool.parquet").captions and pool.name == "photographs"
    with pytest.raises(FileNotFoundError, match=r"sets/cifar10: they do not ship .*cifar10 is not there"):
        load("photographs:cifar10")
    named = {"datasets": ["digits", "photographs:rsscn7"], "pool": "photographs"}
    files = [name for name, *_ in own_files(named, tmp_path)]
    assert files == ["prompts.yml", "test.parquet", "train.parquet", "validation.parquet", "pool.parquet"]
    monkeypatch.delenv(WHERE_PHOTOGRAPHS_ARE)
    assert own_files(named, tmp_path) == []
    for reach in (lambda: load("photographs:rsscn7"), lambda: learnt_from("photographs")):
        with pytest.raises(FileNotFoundError, match="where they are is not said; .*--photographs PATH"):
            reach()


def test_commands_are_told_where_photographs_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(WHERE_PHOTOGRAPHS_ARE, "elsewhere")
    assert cli.main(["study", "no-such-chapter", "--photographs", str(tmp_path)]) == 2
    assert os.environ[WHERE_PHOTOGRAPHS_ARE] == str(tmp_path.resolve()) and "no-such-chapter" in capsys.readouterr().err


def test_a_set_needs_its_own_files_only_and_an_unknown_one_is_named(made, tmp_path):
    for folder in ("cifar10", "tiny-imagenet-32", "caltech101-64", "rsscn7-64"):
        shutil.rmtree(made.data / folder)
    assert list(write_sets(made.data, tmp_path / "sets", ["pacs-sketch"], made.layout()).index) == [
        "pacs-sketch"
    ]
    with pytest.raises(
        FileNotFoundError, match=r"rsscn7-64/train.parquet: there is no such file.*--sets NAME"
    ):
        write_sets(made.data, tmp_path / "sets", ["rsscn7"], made.layout())
    with pytest.raises(ValueError, match=r"no set 'pacs-skech' \(did you mean 'pacs-sketch'"):
        write_sets(made.data, tmp_path / "sets", ["pacs-skech"], made.layout())


# --- what models make of them ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Tiny random models that read long prompts, in the layout of `zsc pretrain`."""
    from tests import tiny

    root = tmp_path_factory.mktemp("models")
    with tiny.long_prompts():
        tiny.stable_diffusion_1(root / "sd")
        tiny.clip(root / "clip")
    (root / "sd" / "training.json").write_text(json.dumps({"unet": {}}))
    return root


def test_models_are_measured_on_every_image_and_what_is_measured_stays(original, models, tmp_path, monkeypatch):
    from zsclib.pocket import photograph_quality as quality
    from zsclib.recipe import Recipe

    write_sets(original.data, tmp_path / "sets", ["cifar10", "rsscn7"], original.layout())
    monkeypatch.setenv(WHERE_PHOTOGRAPHS_ARE, str(tmp_path))
    monkeypatch.setattr(quality, "TIMESTEPS", 2)
    monkeypatch.setattr(quality, "STEPS", 2)
    path, few = tmp_path / "quality.json", Recipe(steps=2, batch=4, checkpoints=1)
    rows = quality.measure(models, 7, sets=["cifar10", "rsscn7"], path=path, reader=few)
    assert set(rows["rsscn7"]) == {"reconstruction", "CLIP", "CLIP, ensemble", "diffusion classifier"}
    assert set(rows["cifar10"]) - set(rows["rsscn7"]) == {"real, read", "generated, read"}
    assert {len(values) for own in rows.values() for values in own.values()} == {7}
    outcomes = [values for own in rows.values() for what, values in own.items() if what != "reconstruction"]
    assert {value for values in outcomes for value in values} <= {0, 1}
    images = quality.images_of("rsscn7", "test", 7, 16)
    assert images.classes[0] == "grass" and len(quality.images_of("rsscn7", "test", 10**6, 16)) > 7

    monkeypatch.setattr(quality, "classify", lambda *_, **__: pytest.fail("measured again"))
    assert quality.measure(models, 7, sets=["cifar10", "rsscn7"], path=path, reader=few) == rows
    (models / "checkpoints").mkdir(exist_ok=True)
    shutil.copy(models / "sd/unet/diffusion_pytorch_model.safetensors", models / "checkpoints")
    assert quality.measure(models, 7, sets=["cifar10", "rsscn7"], path=path, reader=few) == rows, "no model of these"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="quality.json: measured with other n; keep it elsewhere, or remove it"):
        quality.measure(models, 6, sets=["rsscn7"], path=path, reader=few)
    assert path.read_bytes() == before


def test_models_are_measured_where_one_says(original, models, tmp_path, monkeypatch):
    from zsclib.pocket import photograph_quality as quality
    from zsclib.recipe import Recipe

    write_sets(original.data, tmp_path / "sets", ["cifar10"], original.layout())
    monkeypatch.setenv(WHERE_PHOTOGRAPHS_ARE, str(tmp_path))
    for name in ("TIMESTEPS", "STEPS"):
        monkeypatch.setattr(quality, name, 2)
    places = []

    def noted(function):
        def call(*options, **named):
            places.extend(one for one in (*options, *named.values()) if one == "cpu:0")
            return function(*options, **named)

        return call

    for name in ("open_generator", "open_clip", "train"):
        monkeypatch.setattr(quality, name, noted(getattr(quality, name)))
    few = Recipe(steps=2, batch=4, checkpoints=1)
    rows = quality.measure(models, 4, sets=["cifar10"], reader=few, device="cpu:0")
    assert places == ["cpu:0"] * 3 and len(rows["cifar10"]["CLIP"]) == 4


def test_growth_asks_every_unet_that_a_training_has_left_once(original, models, tmp_path, monkeypatch):
    from zsclib.models.generator import open_generator
    from zsclib.pocket import photograph_quality as quality
    from zsclib.pocket.scaling import saved_weights
    from zsclib.pretraining.checkpoint import write_checkpoint
    from zsclib.recipe import Recipe

    write_sets(original.data, tmp_path / "sets", ["cifar10"], original.layout())
    monkeypatch.setenv(WHERE_PHOTOGRAPHS_ARE, str(tmp_path))
    monkeypatch.setattr(quality, "TIMESTEPS", 2)
    monkeypatch.setattr(quality, "STEPS", 2)
    weights = dict(open_generator(models / "sd").unet.named_parameters())
    write_checkpoint(tmp_path / "unet-ema-000000020.safetensors", weights, {"samples": 20})
    history = [{"samples": samples, "held_out": 1 / samples} for samples in (20, 40)]
    meta = {"step": 4, "plan": {"batch": 10}, "facts": {}, "history": history}
    moved = {f"ema.{name}": 1.1 * value for name, value in weights.items()}
    write_checkpoint(tmp_path / "unet-0000004.safetensors", moved, meta)
    few = Recipe(steps=2, batch=4, checkpoints=1)
    rows = quality.growth(tmp_path, models, tmp_path / "growth.json", 5, reader=few)
    assert [(row["samples"], row["held_out"]) for row in rows] == [(20, 1 / 20), (40, 1 / 40)]

    # on another machine, after two trainings of which only metas are here
    began = {"begin": {"part": "unet-2", "step": 3}}
    metas = {"unet": meta, "unet-2": meta | {"step": 3, "facts": {"begin": {"part": "unet", "step": 4}}}}
    later = tmp_path / "later"
    (later / "frozen").mkdir(parents=True)
    (later / "frozen" / "meta.json").write_text(json.dumps(metas))
    write_checkpoint(later / "unet-3-0000004.safetensors", moved, meta | {"facts": began})
    assert [samples for samples, *_ in saved_weights(later, ["unet", "unet-2", "unet-3"])] == [40 + 30 + 40]
    assert all(len(row["recognised"]) == len(row["generated"]) == 5 for row in rows)
    for path in tmp_path.glob("unet-*"):
        path.unlink()  # long ago
    assert quality.growth(tmp_path, models, tmp_path / "growth.json", 5, reader=few) == rows


# --- the command, and what is committed -----------------------------------------------------------


def test_the_command_writes_both_and_prints_counts(original, tmp_path, monkeypatch, capsys):
    from zsclib.pocket.__main__ import main  # with it come PyTorch and all that trains

    layout = original.layout()
    for module in (photographs, photograph_sets):
        monkeypatch.setattr(module, "load_layout", lambda: layout)
    command = ["photographs", "--data", str(original.data), "--out", str(tmp_path)]
    main([*command, "--sets", "pacs-sketch", "--vague", "0.5", "--caption-noise", "0"])
    text = capsys.readouterr().out
    assert re.search(r"cifar10/train.parquet +60 +40 +10 +0 +0 +10 +0 +\d+ +\d+ +0\n", text), text
    assert "503 images in" in text and "pacs-sketch" in text and "rsscn7" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool.parquet", "sets"]
    vague = (pq.read_table(tmp_path / "pool.parquet")["caption_kind"].to_pandas() == "vague").mean()
    assert vague == pytest.approx(0.5, abs=0.1)
    main([*command, "--sets"])
    assert "(0 images" not in capsys.readouterr().out and (tmp_path / "sets/pacs-sketch").is_dir()
    with pytest.raises(SystemExit):
        main(["photographs", "--data", str(original.data)])
    assert "--out PATH" in capsys.readouterr().err


def test_the_committed_layout_fits_the_committed_splits(splits):
    layout = photographs.load_layout()
    for file, about in layout.files.items():
        assert about["set"] in WORDS.classes and set(about["splits"]) <= {"free", *splits["split"]}
        due = splits[(splits["set"] == about["set"]) & splits["split"].isin(about["splits"])]
        unlisted = "free" in about["splits"]
        assert len(due) < about["images"] if unlisted else len(due) == about["images"], file
    assert {layout.files[file]["set"] for file in layout.pool} == set(CAPTIONED)
    pacs = splits[
        (splits["set"] == "pacs-64") & (splits["split"] == "train") & (splits["domain"] != "sketch")
    ]
    text = (photographs.FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{len(pacs):,}" in text and "145,501 images: 43,927, 96,789 and 4,785" in text
    assert len(splits[(splits["set"] == "cifar10") & (splits["split"] != "test")]) == 50_000 - 43_927
