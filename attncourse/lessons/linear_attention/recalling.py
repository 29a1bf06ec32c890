"""Memories of one head between pairs and an answer, trained alike: how many pairs each holds, and what it does with old values."""

from collections.abc import Callable

import torch
from torch import nn

from attncourse.linear_attention import DeltaRule, LinearAttention
from attncourse.models.recall import Recaller, draw_recall, recall_accuracy, recall_loss
from attncourse.models.training import train
from attncourse.multi_head import MultiHeadAttention

WIDTH, PAIRS = 16, [4, 8, 16, 32, 64]
KEYS, FEW_KEYS = 64, 8

# A layer of one head, by the width of its queries, keys and values.
MEMORIES: dict[str, Callable[[int], nn.Module]] = {
    "softmax": lambda width: MultiHeadAttention(64, 1, head_dim=width, v_head_dim=width, bias=True),
    "linear, identity": lambda width: LinearAttention(
        64, head_dim=width, v_head_dim=width, feature_map="identity", normalize=False
    ),
    "linear, elu + 1": lambda width: LinearAttention(64, head_dim=width, v_head_dim=width),
    "delta rule": lambda width: DeltaRule(64, head_dim=width, v_head_dim=width),
}


def train_memory(
    name: str, *, rewrite: bool = False, width: int = WIDTH, seed: int = 0, steps: int = 320
) -> list[float]:
    """Return the share of right answers of one memory at each number of `PAIRS`, after training on all of them alike.

    Args:
        name: a key of `MEMORIES`.
        rewrite: whether there are 8 keys that come again with other values, the last of which counts; 64 keys that
            differ otherwise.
        width: of the head.
        seed: of the model's start and of what it is trained on.
        steps: of training, each on 64 sequences.
    """
    n_keys = FEW_KEYS if rewrite else KEYS

    def draw(rng, pairs=None, count=64):
        pairs = pairs or PAIRS[int(torch.randint(len(PAIRS), (), generator=rng))]
        return draw_recall(count, n_pairs=pairs, n_keys=n_keys, n_values=16, repeat=rewrite, rng=rng)

    torch.manual_seed(seed)
    model = Recaller(MEMORIES[name](width), n_keys=n_keys, n_values=16, d_model=64)
    train(model, recall_loss(draw), steps=steps, seed=seed, progress=False)
    test = torch.Generator().manual_seed(1)
    return [recall_accuracy(model, draw(test, pairs, 1000)) for pairs in PAIRS]
