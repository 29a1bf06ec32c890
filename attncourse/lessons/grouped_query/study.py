"""The recorded study of the chapter: every design trained over ten seeds, and multi-head models converted in each way.

Run as `python -m attncourse.lessons.grouped_query.study`; it takes some minutes of one core.
"""

import torch
from tqdm import tqdm

from attncourse.models.decoder import DecoderLM
from attncourse.models.study import record_over_seeds

from .sharing import DESIGNS, STEPS, held_out_loss, train_on_text, trained
from .uptraining import WAYS, with_grouped_heads

NAME = "grouped_query_sharing"
COMMAND = "python -m attncourse.lessons.grouped_query.study"
UPTRAINING = (0, 9, 36)  # steps: none, a twentieth and a fifth of the first training
SHARED = 2  # heads that a multi-head model is converted to


def converted(model: DecoderLM, way: str, *, steps: int, seed: int) -> float:
    """Return the held-out loss of a multi-head model that was converted and trained on; "not converted" trains on alone."""
    if way == "not converted":
        model = with_grouped_heads(model, DESIGNS["h 8, g 8"].kv_heads)
    else:
        model = with_grouped_heads(model, SHARED, by=way, rng=torch.Generator().manual_seed(seed))
    if steps:
        train_on_text(model, steps=steps, learning_rate=1e-3, seed=100 + seed)
    return held_out_loss(model)


def measure(*, seeds: int, steps: int = STEPS) -> dict:
    """Return held-out losses, a number per seed: of each design, and by uptraining steps of each way to convert."""
    losses = {name: [] for name in DESIGNS}
    after = {str(more): {way: [] for way in WAYS} for more in UPTRAINING}
    for seed, name in tqdm([(seed, name) for seed in range(seeds) for name in DESIGNS]):
        model = trained(DESIGNS[name], seed=seed, steps=steps)
        losses[name].append(round(held_out_loss(model), 4))
        if name == "h 8, g 8":
            for more in UPTRAINING:
                for way in WAYS:
                    after[str(more)][way].append(round(converted(model, way, steps=more, seed=seed), 4))
    return {"losses": losses, "converted": after}


if __name__ == "__main__":
    record_over_seeds(NAME, measure, command=COMMAND, about=__doc__, seeds=10)
