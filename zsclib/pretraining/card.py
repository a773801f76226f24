"""Model cards: what a pocket model is, what it was trained on, what it cost, and how well it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# a card shows the first of these that its training measured
VALIDATION = ("what", "psnr", "top1_of_256", "top1", "held_out")


@dataclass(frozen=True, kw_only=True)
class About:
    """What a card says beside numbers.

    Attributes:
        title, what: a line, and a paragraph. code: opens the model. library: that it is opened with.
        limits: what it cannot. measured_by: the command that measures it.
        license: under which it may be passed on; "": the card names none.
    """

    title: str
    what: str
    code: str
    library: str
    limits: str
    measured_by: str
    license: str = ""


def thinned(history: list[dict], most: int = 300) -> list[dict]:
    """Return at most `most` rows: the mean loss of neighbouring rows, and the last of their other values."""
    rows = []
    for part in np.array_split(np.arange(len(history)), min(most, len(history)) or 1):
        row: dict = {}
        for index in part:
            row |= history[index]
        if len(part):
            rows.append(row | {"loss": float(np.mean([history[index]["loss"] for index in part]))})
    return rows


def write_card(folder: Path, about: About, quality: Mapping[str, dict]) -> None:
    """Write README.md and loss.png into a model folder, from its training.json and what was measured (`card`)."""
    training = json.loads((folder / "training.json").read_text())
    _plot_losses(training, folder / "loss.png")
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    (folder / "README.md").write_text(card(about, training, quality, size))


def card(about: About, training: dict[str, dict], quality: Mapping[str, dict], megabytes: float) -> str:
    """Return the text of a model card; `quality` maps a measure to {value, low?, high?, n, about}."""
    terms = [f"license: {about.license}"] if about.license else []
    noted = any(meta.get("memory") for meta in training.values())  # not so in trainings of long ago
    lines = [
        *("---", *terms, f"library_name: {about.library}", "---", ""),
        *(f"# {about.title}", "", about.what, ""),
        *("```python", about.code.rstrip(), "```", "", f"Weights: {megabytes:.1f} MB, safetensors.", ""),
        *("## Training", ""),
        f"| part | samples | steps | batch | hours | on |{' memory |' * noted} final loss | held out |",
        f"|---|---|---|---|---|---|{'---|' * noted}---|---|",
    ]
    for part, meta in training.items():
        last, plan = meta["history"][-1], meta["plan"]
        samples = meta["step"] * plan["batch"]
        measured = {k: v for row in meta["history"] for k, v in row.items()}  # the newest of each
        held_out = next((f"{key} {measured[key]:.4g}" for key in VALIDATION if key in measured), "–")
        lines.append(
            f"| {part} | {samples:,} | {meta['step']:,} | {plan['batch']} | {meta['seconds'] / 3600:.1f} "
            f"| {meta['device']} |{f' {gigabytes(meta)} |' * noted} {last['loss']:.4g} | {held_out} |"
        )
    lines += ["", "AdamW, averaged weights (EMA). Settings and loss history: `training.json`.", ""]
    lines += ["![Loss against samples](loss.png)", ""]
    for part, meta in training.items():
        for source, what in (("pool", "Pool"), ("set", "Labelled set")):
            if facts := meta["facts"].get(source):
                lines += [f"{what} of the {part}: `{json.dumps(facts, ensure_ascii=False)}`", ""]
    lines += ["## Measured quality", ""]
    if not quality:
        lines += [f"Not measured yet: `{about.measured_by}`.", ""]
    else:
        lines += ["| measure | value | 95 % interval | n |", "|---|---|---|---|"]
        for row in quality.values():
            interval = f"{row['low']:.3g} to {row['high']:.3g}" if "low" in row else "–"
            lines.append(f"| {row['about']} | {row['value']:.4g} | {interval} | {row['n']:,} |")
        lines.append("")
    return "\n".join([*lines, "## Limits", "", about.limits, ""])


def gigabytes(meta: Mapping[str, object]) -> str:
    """Return the most memory that a training had at once; "–" where that was not noted."""
    return f"{meta['memory'] / 2**30:.1f} GB" if meta.get("memory") else "–"


def _plot_losses(training: dict[str, dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(training), 2.6), dpi=100, layout="constrained")
    for ax, (part, meta) in zip(
        np.atleast_1d(figure.subplots(1, len(training))), training.items(), strict=True
    ):
        samples = [row["samples"] for row in meta["history"]]
        ax.loglog(samples, [row["loss"] for row in meta["history"]], lw=1.2)
        ax.set(title=part, xlabel="samples", ylabel="training loss")
        ax.grid(alpha=0.3)
    figure.savefig(path, metadata={"Software": None})
