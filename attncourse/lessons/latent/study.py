"""The recorded studies of the chapter: designs of equal cache trained from many seeds, and trained models converted.

Run as `python -m attncourse.lessons.latent.study`; each part takes some minutes of one core.
"""

import argparse
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from attncourse.models.decoder import DecoderLM
from attncourse.models.study import write_study
from attncourse.models.text import draw_windows
from attncourse.models.training import one_thread

from .conversion import directions, keys_and_values, left_out, with_latent_attention
from .designs import DESIGNS, LENGTH, build, grouped, held_out_loss, text, train_on_text

QUALITY, CONVERSION = "latent_quality", "latent_conversion"
COMMAND = "python -m attncourse.lessons.latent.study"
STEPS, QUALITY_SEEDS = 200, range(1, 9)  # the chapter itself trains seed 0
BASE_STEPS, CONVERSION_SEEDS, RANKS = 300, range(1, 6), (2, 4, 8, 12, 16, 32, 64)
FURTHER_STEPS, FURTHER_RANKS = 60, (2, 4, 8)


def loss_of_design(name: str, *, seed: int) -> float:
    """Return the held-out loss of a model of this design after training."""
    return held_out_loss(train_on_text(build(DESIGNS[name], seed=seed), steps=STEPS, seed=seed))


def base_model(*, seed: int, trained: bool = True) -> DecoderLM:
    """Return a multi-head model with learned positions, which can be converted; trained, or as it was before."""
    model = build(grouped(8, rotary=False), seed=seed, positions="learned")
    return train_on_text(model, steps=BASE_STEPS, seed=seed) if trained else model


def further(model: DecoderLM) -> float:
    """Train a model on for a few steps and return its held-out loss."""
    return held_out_loss(train_on_text(model, steps=FURTHER_STEPS, seed=99, learning_rate=2e-3))


def sample(*, held_out: bool) -> torch.Tensor:
    """Return 32 rows of the text: those to train on weight a conversion, those held out judge it."""
    rng = torch.Generator().manual_seed(6 + held_out)
    return draw_windows(text(held_out=held_out), count=32, length=LENGTH, rng=rng)


def losses_of_conversion(model: DecoderLM, *, ranks: tuple[int, ...] = RANKS) -> dict:
    """Return what a trained model loses when it is converted, by rank, alone and weighted by text.

    "left out" is the share of the squared length of held-out keys and values that is missing; "added" is in nats.
    """
    calibration, seen = sample(held_out=False), sample(held_out=True)
    start = held_out_loss(model)
    found: dict = {"start": start, "added": {}, "left out": {}}
    for name, tokens in (("matrices alone", None), ("weighted by text", calibration)):
        converted = {rank: with_latent_attention(model, rank, tokens=tokens) for rank in ranks}
        found["added"][name] = {str(rank): held_out_loss(x) - start for rank, x in converted.items()}
        found["left out"][name] = {str(rank): left_out(model, x, tokens=seen) for rank, x in converted.items()}
    return found


def measure_conversion(seed: int) -> dict:
    """Return what a model of this seed loses by conversion, what some steps of training win back, and its directions."""
    fresh, model = (base_model(seed=seed, trained=trained) for trained in (False, True))
    found = losses_of_conversion(model)
    for name, x in (("directions before training", fresh), ("directions", model)):
        found[name] = [directions(layer) for layer in keys_and_values(x, sample(held_out=True))]
    again = {rank: with_latent_attention(model, rank, tokens=sample(held_out=False)) for rank in FURTHER_RANKS}
    found["trained on"] = {str(rank): further(x) - found["start"] for rank, x in again.items()}
    found["trained on, not converted"] = further(model) - found["start"]
    return found


def _rounded(found):
    if isinstance(found, dict):
        return {name: _rounded(part) for name, part in found.items()}
    return found if isinstance(found, list) else round(found, 5)


def _record(name: str, measure: Callable[[], dict]) -> None:
    began = time.perf_counter()
    with one_thread():
        results = measure()
    print("written:", write_study(name, results, seconds=time.perf_counter() - began, command=COMMAND))


def main() -> None:
    """Run the studies that are asked for and write them."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("quality", "conversion"), help="one of the two (default: both)")
    only = parser.parse_args().only
    if only != "conversion":
        work = [(name, seed) for seed in QUALITY_SEEDS for name in DESIGNS]

        def quality() -> dict:
            found: dict[str, list] = {name: [] for name in DESIGNS}
            for name, seed in tqdm(work, desc="models"):
                found[name].append(_rounded(loss_of_design(name, seed=seed)))
            return found

        _record(QUALITY, quality)
    if only != "quality":

        def conversion() -> dict:
            seeds = tqdm(CONVERSION_SEEDS, desc="models to convert")
            return {str(seed): _rounded(measure_conversion(seed)) for seed in seeds}

        _record(CONVERSION, conversion)


if __name__ == "__main__":
    main()
