"""Which item of a list a word or a character belongs to, and how much of a map falls on the right item."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse.models.dates import Example


def item_of(tokens: Sequence[str]) -> Int[Tensor, " n"]:
    """Return the number of the item that each token stands in, from 0; -1 for the semicolons between items."""
    marks = torch.tensor([token == ";" for token in tokens])
    return marks.cumsum(dim=0).masked_fill(marks, -1)


def item_boxes(example: Example) -> list[tuple[int, int, int, int]]:
    """Return (first row, rows, first column, columns) of each item: rows are its characters, columns its words."""
    rows, columns = item_of(example.target), item_of(example.source)
    boxes = []
    for item in range(int(columns.max()) + 1):
        row, column = (rows == item).nonzero()[:, 0], (columns == item).nonzero()[:, 0]
        boxes.append((int(row[0]), len(row), int(column[0]), len(column)))
    return boxes


def on_own_item(shares: Float[Tensor, "b t s"], examples: list[Example]) -> tuple[float, float]:
    """Return the mean share of a character's row that falls on the words of its own item, and what chance would give.

    Args:
        shares: a row per character and a column per word, each row summing to 1; padded behind either end.
        examples: the b examples. Characters that are semicolons do not count.
    """
    own, chance = [], []
    for rows, example in zip(shares, examples, strict=True):
        words = item_of(example.source)
        for row, item in zip(rows, item_of(example.target).tolist(), strict=False):
            if item >= 0:
                own.append(row[: len(words)][words == item].sum().item())
                chance.append((words == item).double().mean().item())
    return sum(own) / len(own), sum(chance) / len(chance)


def pointing_at_own_item(weights: Float[Tensor, "b t s"], examples: list[Example], written: list[str]) -> float:
    """Return for which share of the characters the largest weight is at a word of the character's own item.

    Args:
        weights: a row per character written and a column per word.
        examples: the b examples.
        written: what was written for each; only the right answers count.
    """
    right = [i for i, example in enumerate(examples) if written[i] == example.target]
    hits = []
    for i in right:
        words, items = item_of(examples[i].source), item_of(examples[i].target)
        places = weights[i, : len(items), : len(words)].argmax(dim=-1)
        hits.append((words[places] == items)[items >= 0].double())
    return torch.cat(hits).mean().item()
