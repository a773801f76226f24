"""One class for which the generator is personalised, watched on held-out images: how much tuning is enough?

    history, tuned = tune_one_class(setting, data, 0, ["conditioning"], execution)
    history                                                 # way, samples, loss, held_out
    tuned["conditioning"]                                   # generated images of that class
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from zsclib.images.files import resize
from zsclib.images.image_set import ImageSet
from zsclib.models.finetune import learn_conditioning, textual_inversion
from zsclib.models.personalised import learnt_name, with_learnt_word
from zsclib.own_sets import prompts_for
from zsclib.papers.retrieval.generated_arms import tuning_of
from zsclib.papers.retrieval.training_sets import Data, Setting, open_models, shown
from zsclib.prompts import fill
from zsclib.sampling import generate
from zsclib.seeds import seed_of
from zsclib.workers import Execution

WAYS = ("conditioning", "textual inversion")


def tune_one_class(
    setting: Setting,
    data: Data,
    label: int,
    ways: Sequence[str],
    execution: Execution,
    *,
    n: int = 8,
    checks: int = 8,
) -> tuple[pd.DataFrame, dict[str, ImageSet]]:
    """Learn one class as the arms of these ways do (M7, M8), with its held-out images looking on.

    Args:
        setting, data, execution: as of every arm. label: the class.
        ways: some of `WAYS`. n: images to generate with what was learnt.
        checks: of the held-out loss on the way, beside the one at the start.

    Returns:
        A row per check: way, samples, loss (mean since the last row), held_out loss; and the images by way.

    Raises:
        ValueError: an unknown way.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise ValueError(f"tune_one_class: there is no way {unknown[0]!r} for one class; there are {', '.join(WAYS)}")
    generator, name, tables, images = open_models(setting)[0], data.real.classes[label], [], {}
    prompts = prompts_for(data.target, data.real.classes, setting.own)
    word, sentence = prompts.classes[label], fill(prompts.template, prompts.classes)[label]
    real, held_out = (_only(part, label, generator.image_size) for part in (data.real, data.held_out))
    for way in ways:
        tuning = tuning_of(setting, data, way, learners=len(data.real.classes))
        tuning = replace(tuning, check_every=max(1, tuning.samples // checks))
        how = {"held_out": held_out, "execution": execution}
        if way == "conditioning":
            tuned, asked_by = learn_conditioning(generator, real, [sentence], tuning, **how), learnt_name(name)
        else:
            tuned = textual_inversion(generator, real, [word], tuning, templates=prompts.templates, **how)
            asked_by = fill(prompts.template, [with_learnt_word(word, name)])[0]
        tables.append(tuned.history.assign(way=way)[["way", "samples", "loss", "held_out"]])
        seeds = [seed_of(data.seed, "sample", way, name, i) for i in range(n)]
        plan = pd.DataFrame({"label": 0, "prompt": asked_by, "guidance": setting.guidance, "seed": seeds})
        generated = generate(tuned, plan, (name,), steps=setting.sampling_steps, execution=execution)
        images[way] = replace(generated, images=shown(setting, generated.images))
    return pd.concat(tables, ignore_index=True), images


def _only(images: ImageSet, label: int, side: int) -> ImageSet:
    own = resize(images.images[images.labels == label], side)
    return ImageSet(own, np.zeros(len(own), np.int64), (images.classes[label],))
