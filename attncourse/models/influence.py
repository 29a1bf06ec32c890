"""How strongly each source token reaches each output character of a sequence-to-sequence model."""

import torch
from jaxtyping import Float
from torch import Tensor

from .dates import Batch
from .seq2seq import Seq2Seq


def influence(model: Seq2Seq, batch: Batch) -> Float[Tensor, "b t s"]:
    """Length of d (logit of the right character i) / d (embedding of source token j); 0 for padding on either side.

    The logit, not the probability: where a model is sure, its softmax is flat and would hide what it relies on.
    """
    written = batch.target[:, 1:]
    b, t = written.shape
    # A source's tokens reach all its characters, so each character gets a copy of the source: one backward serves all.
    copies = torch.arange(b, device=written.device).repeat_interleave(t)
    steps = torch.arange(t, device=written.device).repeat(b)
    embedded = model.encoder.embed(batch.source[copies]).detach().requires_grad_()
    logits = model.from_embedded(embedded, batch.lengths[copies], batch.target[copies, :-1])
    chosen = logits[torch.arange(b * t, device=written.device), steps, written.flatten()]
    (grad,) = torch.autograd.grad(chosen.sum(), embedded)
    exists = torch.arange(batch.source.shape[1], device=written.device) < batch.lengths[:, None]
    return grad.norm(dim=-1).view(b, t, -1) * (written != 0)[..., None] * exists[:, None]
