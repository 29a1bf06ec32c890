"""Train every model of the chapter on linear attention from five seeds, and record what they recall and how far they read.

    python -m attncourse.lessons.linear_attention.study
    python -m attncourse.lessons.linear_attention.study --longer

The second trains the memories for recall five times as long, from three seeds. Each takes some minutes of one core,
shows how far it is, and writes a file of book/measurements/studies/.
"""

import argparse
import time

from tqdm import tqdm

from attncourse.models.study import write_study
from attncourse.models.training import one_thread

from .recalling import MEMORIES, train_memory
from .streaming import READERS, held_out_stream, loss_read_afresh, read_far, train_reader

NAME, LONGER = "linear_attention_seeds", "linear_attention_longer"
COMMAND = "python -m attncourse.lessons.linear_attention.study"
SEEDS = range(1, 6)  # the chapter itself trains seed 0
LONG_SEEDS, LONG_STEPS = range(1, 4), 1600
REWRITING = ("linear, identity", "delta rule")


def rounded(values: list[float]) -> list[float]:
    """Return numbers as the study keeps them."""
    return [round(value, 4) for value in values]


def measure(seed: int) -> dict:
    """Return what the models of one seed do: recall, recall of what was rewritten, loss by position, and read afresh."""
    stream = held_out_stream()
    readers = {name: train_reader(name, seed=seed) for name in READERS}
    return {
        "recall": {name: rounded(train_memory(name, seed=seed)) for name in MEMORIES},
        "rewritten": {name: rounded(train_memory(name, rewrite=True, seed=seed)) for name in REWRITING},
        "loss": {name: rounded(losses) for name, losses in read_far(readers, stream).items()},
        "afresh": {name: round(loss_read_afresh(reader, stream), 4) for name, reader in readers.items()},
    }


def measure_longer(seed: int) -> dict:
    """Return what the memories of one seed recall after long training; softmax has nothing left to learn."""
    names = [name for name in MEMORIES if name != "softmax"]
    return {name: rounded(train_memory(name, seed=seed, steps=LONG_STEPS)) for name in names}


def main() -> None:
    """Measure all seeds and write the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--longer", action="store_true", help="train the memories for recall five times as long")
    longer, begun = parser.parse_args().longer, time.perf_counter()
    name, measured, seeds = (LONGER, measure_longer, LONG_SEEDS) if longer else (NAME, measure, SEEDS)
    with one_thread():
        results = {str(seed): measured(seed) for seed in tqdm(seeds, desc="seeds")}
    command = COMMAND + (" --longer" if longer else "")
    print("written:", write_study(name, results, seconds=time.perf_counter() - begun, command=command))


if __name__ == "__main__":
    main()
