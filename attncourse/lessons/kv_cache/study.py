"""The study of fewer bits: several writers, each read through every codec, as `python -m attncourse.lessons.kv_cache.study`."""

from tqdm import tqdm

from attncourse.models.study import record_over_seeds

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


if __name__ == "__main__":
    record_over_seeds(NAME, study, command=COMMAND, about=__doc__, seeds=5)
