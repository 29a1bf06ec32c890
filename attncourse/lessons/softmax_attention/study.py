"""The chapter's two recorded studies: the colour reader with and without scale, and three ways to tell positions.

python -m attncourse.lessons.softmax_attention.study scale positions
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence

from tqdm import tqdm

from attncourse.lessons.softmax_attention.positions_race import POSITIONS, held_out_loss
from attncourse.lessons.softmax_attention.sentences import share_right, train_reader
from attncourse.models.study import write_study
from attncourse.models.training import one_thread

WIDTHS, READER_SEEDS = (16, 64, 256, 1024), range(8)
SEEDS_OF_STEPS = {200: range(5), 800: range(3)}


def study_scale() -> dict:
    """Return the share of nouns that are right, by width of the head, scaled or plain, a value per seed."""
    found: dict[str, dict[str, list[float]]] = {"scaled": {}, "plain": {}}
    for name, dk in _shown([(name, dk) for dk in WIDTHS for name in found]):
        readers = (train_reader(seed=seed, head_dim=dk, scaled=name == "scaled") for seed in READER_SEEDS)
        found[name][str(dk)] = [round(share_right(reader), 4) for reader in readers]
    return {"seeds": [*READER_SEEDS], "right": found}


def study_positions() -> dict:
    """Return the loss on held-out text by number of steps and kind of positions, a value per seed."""
    found: dict[str, dict[str, list[float]]] = {str(steps): {} for steps in SEEDS_OF_STEPS}
    for steps, positions in _shown([(steps, positions) for steps in SEEDS_OF_STEPS for positions in POSITIONS]):
        losses = [held_out_loss(positions, seed=seed, steps=steps) for seed in SEEDS_OF_STEPS[steps]]
        found[str(steps)][positions] = [round(loss, 4) for loss in losses]
    return {"loss": found}


STUDIES: dict[str, Callable[[], dict]] = {"scale": study_scale, "positions": study_positions}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the studies that are named, and write each where the chapter reads it."""
    parser = argparse.ArgumentParser(
        prog="python -m attncourse.lessons.softmax_attention.study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("studies", nargs="+", choices=[*STUDIES], help="which to run; each takes some minutes")
    for name in parser.parse_args(arguments).studies:
        begun = time.perf_counter()
        with one_thread():
            results = STUDIES[name]()
        path = write_study(
            f"softmax_attention_{name}", results,
            seconds=time.perf_counter() - begun, command=f"{parser.prog} {name}",
        )  # fmt: skip
        print(path)


def _shown(cases: Sequence[tuple]) -> Iterable[tuple]:
    """Return the cases under a bar that shows how far the study is."""
    return tqdm(cases, unit="case")


if __name__ == "__main__":
    main()
