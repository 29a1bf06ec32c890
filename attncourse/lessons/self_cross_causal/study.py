"""The study of the model that cheats: both decoders over several seeds, as `python -m attncourse.lessons.self_cross_causal.study`."""

import argparse
import time

from tqdm import tqdm

from attncourse.models.study import write_study
from attncourse.models.text import read_text

from .cheating import (
    CAUSAL,
    MEASURES,
    build,
    held_out_rows,
    loss_by_frequency,
    measure,
    share_of_known_words,
    train_on_text,
)

NAME = "self_cross_causal_cheating"
COMMAND = "python -m attncourse.lessons.self_cross_causal.study"


def study(seeds: int) -> dict:
    """Return each measure of each decoder, a number per seed, and the two yardsticks that need no model."""
    found = {name: {what: [] for what in MEASURES} for name in CAUSAL}
    for seed, name in tqdm([(seed, name) for seed in range(seeds) for name in CAUSAL]):
        model = build(causal=CAUSAL[name], seed=seed)
        for what, value in measure(model, train_on_text(model, seed=seed)).items():
            found[name][what].append(round(value, 4))
    real = share_of_known_words(read_text(held_out=True).splitlines())
    yardsticks = {"by frequency": loss_by_frequency(held_out_rows(100)), "held-out text": real}
    return found | {name: round(value, 4) for name, value in yardsticks.items()}


def main() -> None:
    """Measure and write the study."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Train both decoders and record what they can do.")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    asked = parser.parse_args()
    start = time.perf_counter()
    results = study(asked.seeds)
    print(write_study(NAME, results, seconds=time.perf_counter() - start, command=f"{COMMAND} --seeds {asked.seeds}"))


if __name__ == "__main__":
    main()
