"""The recorded study of the chapter: a layer of each family trained on recall, several seeds each.

Run as `python -m attncourse.lessons.which_attention.study`; it takes two minutes of one core.
"""

from tqdm import tqdm

from attncourse.models.study import record_over_seeds

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


if __name__ == "__main__":
    record_over_seeds(NAME, measure, command=COMMAND, about=__doc__, seeds=5)
