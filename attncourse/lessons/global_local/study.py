"""The recorded study of the chapter: both tasks, every reader, several seeds.

Run as `python -m attncourse.lessons.global_local.study`; it takes some minutes of one core.
"""

import argparse
import time

from tqdm import tqdm

from attncourse.models.study import write_study

from .readers import LOOKUP_READERS, TOPIC_READERS, topics_right, train_lookup, train_topic, values_right

NAME = "global_local_readers"
COMMAND = "python -m attncourse.lessons.global_local.study"
PAIRS = (1, 2, 4, 8)


def measure(*, seeds: int) -> dict:
    """Return the share that each reader has right, a number per seed: topics, and values by how many pairs were told."""
    topics = {name: [] for name in TOPIC_READERS}
    for name, seed in tqdm([(name, seed) for name in topics for seed in range(seeds)], desc="topics"):
        topics[name].append(round(topics_right(train_topic(TOPIC_READERS[name], seed=seed)), 3))
    values = {name: {str(pairs): [] for pairs in PAIRS} for name in LOOKUP_READERS}
    work = [(name, pairs, seed) for name in values for pairs in PAIRS for seed in range(seeds)]
    for name, pairs, seed in tqdm(work, desc="values"):
        model = train_lookup(LOOKUP_READERS[name], pairs=pairs, seed=seed)
        values[name][str(pairs)].append(round(values_right(model, pairs=pairs), 3))
    return {"topics": topics, "values": values}


def main() -> None:
    """Run the study and write it."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    options = parser.parse_args()
    began = time.perf_counter()
    results = measure(seeds=options.seeds)
    command = f"{COMMAND} --seeds {options.seeds}"
    print("written:", write_study(NAME, results, seconds=time.perf_counter() - began, command=command))


if __name__ == "__main__":
    main()
