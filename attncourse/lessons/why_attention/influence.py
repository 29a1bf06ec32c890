"""How strongly each source word reaches each output character of a sequence-to-sequence model."""

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse.models.dates import Batch
from attncourse.models.seq2seq import Seq2Seq

# Copies of sources that go through the model together: a step of an attending decoder holds (copies, s, a) numbers.
COPIES = 256


def influence(model: Seq2Seq, batch: Batch) -> Float[Tensor, "b t s"]:
    """Return how far character i moves with word j: the length of the gradient of its logit by the word's embedding.

    The logit, not the probability: where a model is sure, its softmax is flat and would hide what it relies on.

    Args:
        model: a sequence-to-sequence model.
        batch: the b sources and their right answers, which the decoder is given as it writes. Padding on either side gets 0.
    """
    b, t = batch.target[:, 1:].shape
    # A source reaches every character, so each character gets a copy of it: one backward pass serves many.
    rows, steps = torch.arange(b * t).div(t, rounding_mode="floor"), torch.arange(b * t) % t
    norms = [_norms(model, batch, r, i) for r, i in zip(rows.split(COPIES), steps.split(COPIES), strict=True)]
    written = batch.target[:, 1:] != 0
    exists = torch.arange(batch.source.shape[1], device=batch.lengths.device) < batch.lengths[:, None]
    return torch.cat(norms).view(b, t, -1) * written[..., None] * exists[:, None]


def _norms(model, batch, rows, steps):
    """Return for each pair of a batch row and a step one row over the source."""
    embedded = model.encoder.embed(batch.source[rows]).detach().requires_grad_()
    target = batch.target[rows]
    logits = model.from_embedded(embedded, batch.lengths[rows], target[:, :-1])
    each = torch.arange(len(rows))
    chosen = logits[each, steps, target[each, steps + 1]]
    return torch.autograd.grad(chosen.sum(), embedded)[0].norm(dim=-1)
