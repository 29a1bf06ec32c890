"""The comparison's task: a layer of each family between pairs that go by and a question, asked in three ways after training."""

import time

import torch
from torch import nn

from attncourse.models.recall import Recall, Recaller, draw_recall, recall_loss
from attncourse.models.training import one_thread, train

from .families import family_layers

D_MODEL, HEADS, PAIRS, STEPS = 32, 4, 16, 250
NEAR = 5  # tokens that a window sees: the question and the last four pairs
N_KEYS, N_VALUES = 32, 8
QUESTIONS = ("near", "far", "more")


def draw_pairs(rng: torch.Generator, n_pairs: int = PAIRS, batch: int = 64) -> Recall:
    """Draw a batch of the task."""
    return draw_recall(batch, n_pairs=n_pairs, n_keys=N_KEYS, n_values=N_VALUES, rng=rng)


@torch.no_grad()
def answers(model: nn.Module) -> dict[str, float]:
    """Return the shares of right answers: the asked pair among the last four, before them, and among twice as many pairs."""
    rng = torch.Generator().manual_seed(1)
    pairs, more = draw_pairs(rng, batch=2000), draw_pairs(rng, 2 * PAIRS, batch=1000)
    right = (model(*pairs[:3]).argmax(dim=-1) == pairs.answers).float()
    place = (pairs.keys == pairs.asked[:, None]).float().argmax(dim=1)
    near = place >= PAIRS - (NEAR - 1)
    all_right = (model(*more[:3]).argmax(dim=-1) == more.answers).float()
    return {name: x.mean().item() for name, x in zip(QUESTIONS, (right[near], right[~near], all_right), strict=True)}


def train_family(name: str, *, seed: int, steps: int = STEPS) -> tuple[dict[str, float], float]:
    """Train one layer of a family, and return its shares of right answers and the milliseconds of a training step."""
    make = family_layers(D_MODEL, HEADS, near=NEAR, longest=2 * PAIRS + 1)[name]
    torch.manual_seed(seed)
    model = Recaller(make(), n_keys=N_KEYS, n_values=N_VALUES, d_model=D_MODEL)
    with one_thread():
        began = time.thread_time()
        train(model, recall_loss(draw_pairs), steps=steps, learning_rate=2e-2, progress=False, seed=seed)
        milliseconds = 1e3 * (time.thread_time() - began) / steps
    return answers(model), milliseconds
