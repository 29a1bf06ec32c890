"""The recorded study of the chapter: text models on short and long rows, a sink that grows, and recall by distance.

Run as `python -m attncourse.lessons.sliding_window.study`; it takes about seven minutes of one idle core.
"""

from collections.abc import Callable

from tqdm import tqdm

from attncourse.models.study import record_over_seeds

from .recall import STACKS, recall_accuracy, train_recall
from .text import LENGTH, LONG, STEPS, WINDOW, loss_by_place, losses_on_long_rows, sink_measures, train_text

NAME = "sliding_window_training"
COMMAND = "python -m attncourse.lessons.sliding_window.study"
FEWER = 3  # seeds of what takes longest
LONGER = 2  # times as many steps as the others


def on_text(model, *, window: int | None = None, cap: int | None = None) -> dict[str, float]:
    """Return the mean loss on rows as long as those of training, and on the part of long rows that lies beyond."""
    long = losses_on_long_rows(model, window=window, cap=cap)
    return {
        "short": loss_by_place(model, LENGTH, count=256, window=window).mean().item(),
        "beyond": long[LENGTH:].mean().item(),
    }


def text_of_seed(seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return what is measured of the text models of one seed: their losses, and what becomes of their first token."""
    full, window, fixed = (train_text(seed=seed, **kind) for kind in ({}, {"window": WINDOW}, {"first_token": True}))
    text = {
        "full": on_text(full),
        "full, distances capped": on_text(full, cap=LENGTH - 1),
        "window": on_text(window, window=WINDOW),
    }
    if seed < FEWER:
        text["full, trained on long rows"] = on_text(train_text(seed=seed, length=LONG))
    sinks = {
        "fixed first token": sink_measures(fixed, first_token=True),
        "any first token": sink_measures(full, first_token=False),
    }
    return {"text": text, "sinks": sinks}


def longer_of_seed(seed: int) -> dict[str, float]:
    """Return the losses of models that were trained on more steps, on rows as long as those of training."""
    return {
        name: loss_by_place(
            train_text(seed=seed, window=window, steps=LONGER * STEPS), LENGTH, count=256, window=window
        ).mean().item()
        for name, window in (("full", None), ("window", WINDOW))
    }  # fmt: skip


def text_study(seeds: int) -> dict:
    """Return what `text_of_seed` and `longer_of_seed` say, a number per seed in place of each number."""
    found = {"text": {}, "sinks": {}, "longer": {}}
    for seed in tqdm(range(seeds), desc="text"):
        for part, models in text_of_seed(seed).items():
            for name, values in models.items():
                for what, value in values.items():
                    found[part].setdefault(name, {}).setdefault(what, []).append(round(value, 4))
        for name, value in longer_of_seed(seed).items() if seed < FEWER else ():
            found["longer"].setdefault(name, []).append(round(value, 4))
    return found


def recall_study(seeds: int) -> dict:
    """Return the right answers of each stack by distance, a list per seed."""
    return {
        "recall": {
            name: [recall_accuracy(train_recall(name, seed=seed)) for seed in tqdm(range(seeds), desc=name)]
            for name in STACKS
        }
    }


PARTS: tuple[Callable[[int], dict], ...] = (text_study, recall_study)


def measure(seeds: int) -> dict:
    """Return what all parts of the study found, by part."""
    return {name: found for part in PARTS for name, found in part(seeds).items()}


if __name__ == "__main__":
    record_over_seeds(NAME, measure, command=COMMAND, about=__doc__, seeds=4)
