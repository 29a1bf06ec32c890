"""Measure five seeds of every model of the chapter on multi-head attention, and record them.

    python -m attncourse.lessons.multi_head.study

It takes about ten minutes of one core, shows how far it is, and writes book/measurements/studies/multi_head_seeds.json.
"""

import argparse
import time

import torch
from tqdm import tqdm

from attncourse.models.study import write_study
from attncourse.models.training import one_thread

from . import differ, phrases, text_heads

SEEDS = range(1, 6)  # the chapter itself trains seed 0
PHRASE_MODELS = {
    "one layer": dict(n_layers=1),
    "two layers": dict(n_layers=2),
    "two layers, rotary": dict(n_layers=2, positions="rotary"),
}


def measure_differ(seed: int) -> dict[str, float]:
    """Return the share of right answers with each number of heads."""
    return {str(heads): differ.share_right(differ.train_differ(heads, seed=seed)) for heads in (1, 2, 4)}


def measure_text(seed: int) -> dict:
    """Return the loss of a language model, what its heads look at, and its loss with heads silenced."""
    model, rng = text_heads.train_text_model(seed=seed), torch.Generator().manual_seed(seed)
    shares, chance = text_heads.shares_by_kind(model, rng=rng)
    _, curves = text_heads.ablation_curves(model, rng=rng)
    return {
        "held out": text_heads.held_out_loss(model),
        "shares": {kind: share.tolist() for kind, share in shares.items()},
        "chance": chance,
        "ablation": curves,
    }


def measure_phrases(seed: int) -> dict:
    """Return what each model of repeated phrases names, and of the one with two layers also its heads."""
    models = {name: phrases.train_phrases(seed=seed, **kind) for name, kind in PHRASE_MODELS.items()}
    two = models["two layers"]
    return {
        "named": {name: phrases.share_continued(model) for name, model in models.items()},
        "shares": phrases.head_shares(two),
        "without": [phrases.share_continued(two, without=[(i, j)]) for i in range(2) for j in range(2)],
    }


def main() -> None:
    """Measure all seeds and write the study."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    begun = time.perf_counter()
    parts = {"differ": measure_differ, "text": measure_text, "phrases": measure_phrases}
    results: dict[str, list] = {name: [] for name in parts}
    with one_thread():
        for seed in tqdm(SEEDS, desc="seeds"):
            for name, measure in parts.items():
                results[name].append(measure(seed))
    command = "python -m attncourse.lessons.multi_head.study"
    path = write_study("multi_head_seeds", results, seconds=time.perf_counter() - begun, command=command)
    print(f"{path}: {len(SEEDS)} seeds")


if __name__ == "__main__":
    main()
