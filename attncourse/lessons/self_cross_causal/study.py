"""The study of the model that cheats: both decoders over several seeds, as `python -m attncourse.lessons.self_cross_causal.study`."""

from tqdm import tqdm

from attncourse.models.study import record_over_seeds
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


if __name__ == "__main__":
    record_over_seeds(NAME, study, command=COMMAND, about=__doc__, seeds=5)
