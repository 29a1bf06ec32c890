"""The study of fewer bits: several writers, each read through every codec, as `python -m attncourse.lessons.kv_cache.study`."""

import argparse
import time

from tqdm import tqdm

from attncourse.models.study import write_study

from .codecs import STORED, measure_codecs
from .models import trained_writer

NAME = "kv_cache_codecs"
COMMAND = "python -m attncourse.lessons.kv_cache.study"
MEASURES = ("error", "change of the loss")


def study(seeds: int) -> dict:
    """Return each measure of each codec, a number per seed."""
    found = {what: {name: [] for name in STORED} for what in MEASURES}
    for seed in tqdm(range(seeds)):
        measured = measure_codecs(trained_writer(seed=seed).double())
        for what in MEASURES:
            for name in STORED:
                found[what][name].append(round(measured[name][what], 6))
    return found


def main() -> None:
    """Measure and write the study."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Train writers and record what fewer bits cost them.")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    asked = parser.parse_args()
    start = time.perf_counter()
    results = study(asked.seeds)
    print(write_study(NAME, results, seconds=time.perf_counter() - start, command=f"{COMMAND} --seeds {asked.seeds}"))


if __name__ == "__main__":
    main()
