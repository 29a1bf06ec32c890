"""Training of the sequence-to-sequence models, and the measures that the chapters report."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from attncourse._shared.validate import require

from .dates import BEGIN, TARGET_VOCABULARY, Example, make_batch, read_target
from .training import one_thread, train


@one_thread()
def train_seq2seq(
    model: nn.Module,
    examples: list[Example],
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train by Adam on next-token cross-entropy with a cosine-decayed rate; return the loss of every step.

    Batches hold sources of similar length, so that little is padding.

    Args:
        progress: called with step and loss after each step.

    Raises:
        ValueError: fewer examples than a batch.
    """
    require(len(examples) >= batch_size, f"a batch of {batch_size} needs as many examples, got {len(examples)}")
    ordered = sorted(examples, key=lambda e: (len(e.source), len(e.target)))
    starts = range(0, len(ordered) - batch_size + 1, batch_size)
    batches = [make_batch(ordered[i : i + batch_size]) for i in starts]

    def draw_loss(model, rng):
        batch = batches[int(torch.randint(len(batches), (), generator=rng))]
        logits = model(batch.source, batch.lengths, batch.target[:, :-1])
        return cross_entropy(logits.flatten(0, 1), batch.target[:, 1:].flatten(), ignore_index=0)

    return train(model, draw_loss, steps=steps, learning_rate=learning_rate, seed=seed, on_step=progress)


@one_thread()
def transcribe(model: nn.Module, examples: list[Example]) -> list[str]:
    """Return what the model writes for each source, greedily."""
    batch = make_batch(examples)
    tokens, _ = model.decode_greedy(
        batch.source, batch.lengths, begin=TARGET_VOCABULARY.index(BEGIN), steps=batch.target.shape[1]
    )
    return [read_target(row) for row in tokens]


def exact_matches(model: nn.Module, examples: list[Example]) -> list[bool]:
    """Return whether each source is written without a single wrong character."""
    return [got == example.target for got, example in zip(transcribe(model, examples), examples, strict=True)]


def wilson_interval(right: int, count: int, *, deviations: float = 1.96) -> tuple[float, float]:
    """Return which shares are compatible with `right` of `count`: Wilson's interval (default: 95 percent).

    Unlike the share plus or minus its standard error it does not shrink to nothing at 0 and 1.

    Raises:
        ValueError: nothing was counted, or more right than counted.
    """
    require(
        0 <= right <= count and count >= 1, f"right must lie in 0..count and count be positive, got {right}, {count}"
    )
    share, z2 = right / count, deviations**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = deviations / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return middle - half, middle + half
