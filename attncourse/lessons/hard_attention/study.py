"""The recorded study of the chapter: two hundred readers per way of training, and the straight-through readers that stay stuck.

Run as `python -m attncourse.lessons.hard_attention.study`; it takes some minutes of one core.
"""

import argparse
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from attncourse.models.study import write_study

from .needle import NeedleReaders, draw_needles, steps_to, train_needle, weight_on_needle

NAME = "hard_attention_needle"
COMMAND = "python -m attncourse.lessons.hard_attention.study"
MODELS, EVERY = 40, 10
WAYS = {
    "soft": dict(reading="soft"),
    "straight-through": dict(reading="straight_through"),
    "score function, baseline": dict(reading="score_function", baseline=True),
    "score function": dict(reading="score_function"),
}


@dataclass(frozen=True)
class Ending:
    """An ending is what became of a reader: its last accuracy, when it had 0.95, its weight on the needle for each symbol."""

    accuracy: float
    steps: int | None
    by_symbol: list[float]


def endings(readers: NeedleReaders, curve: torch.Tensor) -> list[Ending]:
    """Return what became of each of these readers."""
    needles = draw_needles(2000, length=24, generator=torch.Generator().manual_seed(5))
    columns = curve[-1].tolist(), steps_to(curve, every=EVERY), weight_on_needle(readers, needles).tolist()
    return [Ending(*row) for row in zip(*columns, strict=True)]


def measure(*, runs: int, steps: int) -> dict:
    """Return what was found of so many runs of 40 readers each, for every way to train."""
    work = [(name, seed) for name in WAYS for seed in range(1, runs + 1)]
    found = {name: [] for name in WAYS}
    for name, seed in tqdm(work, desc="runs of 40 readers"):
        found[name] += endings(*train_needle(**WAYS[name], models=MODELS, steps=steps, seed=seed, every=EVERY))
    return {
        name: {
            "accuracy": [round(end.accuracy, 3) for end in ends],
            "steps to 0.95": [end.steps for end in ends],
            "weight on the needle, of readers below 0.95": [
                [round(weight, 3) for weight in end.by_symbol] for end in ends if end.accuracy < 0.95
            ],
        }
        for name, ends in found.items()
    }


def main() -> None:
    """Run the study and write it."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of 40 readers per way (default: 5)")
    parser.add_argument("--steps", type=int, default=800, help="training steps (default: 800)")
    options = parser.parse_args()
    began = time.perf_counter()
    results = measure(runs=options.runs, steps=options.steps)
    print("written:", write_study(NAME, results, seconds=time.perf_counter() - began, command=COMMAND))


if __name__ == "__main__":
    main()
