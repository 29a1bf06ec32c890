"""A row of noise holds one answer, and a question at its end asks for it: two layers must carry it there."""

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse.models.decoder import DecoderLM
from attncourse.models.training import one_thread, train
from attncourse.positions import RotaryEmbedding
from attncourse.sliding_window import SlidingWindowAttention

ANSWERS, NOISE, ROW = 8, 8, 32
QUESTION = ANSWERS + NOISE
STEPS = 240
# The window of each layer, and the sinks of all of them.
STACKS = {
    "everything": ((ROW, ROW), 0),
    "window 8": ((8, 8), 0),
    "window 8, 1 sink": ((8, 8), 1),
    "window 8, then everything": ((8, ROW), 0),
}


def recall_rows(
    rng: torch.Generator, count: int, *, place: int | None = None
) -> tuple[Int[Tensor, "count row"], Int[Tensor, " count"]]:
    """Return rows that end with a question, and the answer that stands in each: at this place, or at a random one."""
    rows = torch.randint(ANSWERS, ANSWERS + NOISE, (count, ROW), generator=rng)
    answers = torch.randint(ANSWERS, (count,), generator=rng)
    places = torch.randint(ROW - 1, (count,), generator=rng)
    if place is not None:
        places.fill_(place)
    rows[torch.arange(count), places] = answers
    rows[:, -1] = QUESTION
    return rows, answers


def train_recall(name: str, *, seed: int = 0, steps: int = STEPS) -> DecoderLM:
    """Return a model with the layers that `STACKS` has under this name, trained on rows with answers at random places."""
    windows, sinks = STACKS[name]
    torch.manual_seed(seed)
    each = iter(windows)

    def layer():
        return SlidingWindowAttention(
            32, 2, window=next(each), sinks=sinks, bias=True, rope=RotaryEmbedding(16), impl="torch"
        )

    model = DecoderLM(QUESTION + 1, d_model=32, n_layers=len(windows), context=ROW, attention=layer)

    def draw_loss(model, rng):
        rows, answers = recall_rows(rng, 64)
        return cross_entropy(model(rows)[:, -1], answers)

    with one_thread():
        train(model, draw_loss, steps=steps, learning_rate=5e-3, progress=False, seed=seed)
    return model


@torch.no_grad()
def recall_accuracy(model: nn.Module) -> list[float]:
    """Return the share of right answers at distances 1, 2, ..., ROW - 1 between question and answer."""
    rng, shares = torch.Generator().manual_seed(1), []
    with one_thread():
        for distance in range(1, ROW):
            rows, answers = recall_rows(rng, 200, place=ROW - 1 - distance)
            shares.append((model(rows)[:, -1].argmax(dim=-1) == answers).float().mean().item())
    return shares
