"""One marked token among noise, at a place that nobody knows beforehand: a task for which the pattern needs a path."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse.block_sparse import BlockPattern, strided
from attncourse.models.training import train

from .reader import sparse_reader

PLACES, STRIDE, VALUES = 49, 7, 8
CHANCE = 1 / VALUES


def lookup_pattern() -> BlockPattern:
    """Return the strided pattern of the task."""
    return strided(PLACES, stride=STRIDE, block=STRIDE)


def seen_places() -> Bool[Tensor, " places"]:
    """Return which places the last position sees, itself left out."""
    return lookup_pattern().dense_mask()[-1, :-1]


def hide(
    count: int, *, rng: torch.Generator
) -> tuple[Int[Tensor, "count n"], Int[Tensor, " count"], Int[Tensor, " count"]]:
    """Return sequences of noise with one marked token, the value that it carries, and its place."""
    tokens = torch.randint(VALUES, (count, PLACES), generator=rng)
    place, value = (torch.randint(high, (count,), generator=rng) for high in (PLACES - 1, VALUES))
    tokens[torch.arange(count), place] = VALUES + value
    tokens[:, -1] = 2 * VALUES  # the question
    return tokens, value, place


def _loss(model: nn.Module, rng: torch.Generator) -> Float[Tensor, ""]:
    tokens, value, _ = hide(32, rng=rng)
    return cross_entropy(model(tokens)[:, -1], value)


@torch.no_grad()
def _right_by_place(model: nn.Module) -> Float[Tensor, " places"]:
    tokens, value, place = hide(4000, rng=torch.Generator().manual_seed(1))
    right = (model(tokens)[:, -1].argmax(dim=-1) == value).float()
    return torch.stack([right[place == i].mean() for i in range(PLACES - 1)])


def accuracy_of_layers(n_layers: int, *, seed: int, steps: int = 200) -> Float[Tensor, " places"]:
    """Return how often a trained model of so many layers names the value, by the place of the marked token."""
    torch.manual_seed(seed)
    model = sparse_reader(2 * VALUES + 1, lookup_pattern(), d_model=32, n_heads=2, n_layers=n_layers)
    train(model, _loss, steps=steps, seed=seed, progress=False)
    return _right_by_place(model)


def by_group(accuracy: Float[Tensor, " places"]) -> dict[str, float]:
    """Return the mean accuracy at the places that the last position sees, and at those that it does not see."""
    seen = seen_places()
    return {"seen": accuracy[seen].mean().item(), "not seen": accuracy[~seen].mean().item()}
