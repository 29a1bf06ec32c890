"""Train every model of the chapter on linear attention from five seeds, and record what they recall and how far they read.

    python -m attncourse.lessons.linear_attention.study

It takes some minutes of one core, shows how far it is, and writes book/measurements/studies/linear_attention_seeds.json.
"""

import argparse
import time

from tqdm import tqdm

from attncourse.models.study import write_study
from attncourse.models.training import one_thread

from .recalling import MEMORIES, train_memory
from .streaming import READERS, held_out_stream, loss_read_afresh, read_far, train_reader

NAME = "linear_attention_seeds"
COMMAND = "python -m attncourse.lessons.linear_attention.study"
SEEDS = range(1, 6)  # the chapter itself trains seed 0
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


def main() -> None:
    """Measure all seeds and write the study."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    begun = time.perf_counter()
    with one_thread():
        results = {str(seed): measure(seed) for seed in tqdm(SEEDS, desc="seeds")}
    print("written:", write_study(NAME, results, seconds=time.perf_counter() - begun, command=COMMAND))


if __name__ == "__main__":
    main()
