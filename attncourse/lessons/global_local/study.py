"""The recorded study of the chapter: both tasks, every reader, several seeds.

Run as `python -m attncourse.lessons.global_local.study`; it takes some minutes of one core.
"""

from tqdm import tqdm

from attncourse.models.study import record_over_seeds

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


if __name__ == "__main__":
    record_over_seeds(NAME, measure, command=COMMAND, about=__doc__, seeds=3)
