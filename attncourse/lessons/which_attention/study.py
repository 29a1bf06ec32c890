"""The recorded study of the chapter: a layer of each family trained on recall, several seeds each.

Run as `python -m attncourse.lessons.which_attention.study`; it takes two minutes of one core.
"""

import argparse
import time

from tqdm import tqdm

from attncourse.models.study import write_study

from .families import family_layers
from .recall import D_MODEL, HEADS, NEAR, PAIRS, QUESTIONS, STEPS, train_family

NAME = "which_attention_families"
COMMAND = "python -m attncourse.lessons.which_attention.study"
STEP = "ms per training step"


def measure(*, seeds: int, steps: int = STEPS) -> dict[str, dict[str, list[float]]]:
    """Return for each family the shares of right answers and the milliseconds of a training step, a number per seed."""
    names = [*family_layers(D_MODEL, HEADS, near=NEAR, longest=2 * PAIRS + 1)]
    found = {name: {column: [] for column in (*QUESTIONS, STEP)} for name in names}
    for seed, name in tqdm([(seed, name) for seed in range(seeds) for name in names]):
        shares, milliseconds = train_family(name, seed=seed, steps=steps)
        for column, value in {**shares, STEP: milliseconds}.items():
            found[name][column].append(round(value, 3))
    return found


def main() -> None:
    """Run the study and write it."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    options = parser.parse_args()
    began = time.perf_counter()
    results = measure(seeds=options.seeds)
    command = f"{COMMAND} --seeds {options.seeds}"
    print("written:", write_study(NAME, results, seconds=time.perf_counter() - began, command=command))


if __name__ == "__main__":
    main()
