"""What explains an output: weights, weights followed through the layers, gradients, or leaving a token out.

Jain and Wallace 2019, https://arxiv.org/abs/1902.10186, found other weights with the same output; Wiegreffe and Pinter 2019,
https://arxiv.org/abs/1908.04626, asked when that matters; Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928, followed
weights through layers.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.validate import require
from attncourse.models.decoder import DecoderLM


def other_weights(weights: Float[Tensor, " s"], values: Float[Tensor, "s dv"]) -> Float[Tensor, " s"]:
    """Return weights with the same mixture of the values, on at most dv + 1 tokens,
    as far from the first as the way leads.

    Weights w and w + u give one output exactly if u adds up to 0 and mixes the values to 0. Along such a u a weight
    falls to 0 and its token drops out, while more than dv + 1 are left (Caratheodory's theorem). The way is taken on
    which the largest first weight falls fastest.

    Raises:
        ValueError: the weights are negative somewhere or do not sum to 1.
    """
    sums_to_one = abs(float(weights.sum()) - 1) < 1e-4 and bool((weights >= 0).all())
    require(sums_to_one, f"weights must be non-negative and sum to 1, got {weights.tolist()}")
    first = weights.double() / weights.double().sum()
    constraints = torch.cat([values.double(), values.new_ones(len(values), 1).double()], dim=1)
    other, kept = first.clone(), first > 0
    while True:
        places = kept.nonzero()[:, 0]
        unseen = _null_space(constraints[places].T)
        if unseen.shape[1] == 0:
            return other.to(weights.dtype)
        away = -first[places] * (first[places] == first[places].max())
        step = unseen @ (unseen.T @ away)
        if step.norm() < 1e-9 or not (step < 0).any():  # that weight is settled: any other way
            step = unseen[:, 0] * (-1 if (unseen[:, 0] > 0).all() else 1)
        falling = step < 0
        lengths = torch.where(falling, other[places] / -step, torch.inf)
        out = lengths.argmin()
        other[places] += lengths[out] * step
        other[places[out]], kept[places[out]] = 0.0, False


def _null_space(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "n free"]:
    """Return an orthonormal basis of what the matrix sends to 0."""
    _, singular, rows = torch.linalg.svd(matrix, full_matrices=True)
    rank = int((singular > 1e-10 * singular.max().clamp_min(1.0)).sum())
    return rows[rank:].T


def rollout(weights: Float[Tensor, "layers b h t t"]) -> Float[Tensor, "b t t"]:
    """Return how much of each input token each output token holds, if residual paths and heads carry equal shares.

    Abnar and Zuidema 2020, section 3: heads are averaged, half of each layer's output is its input, layers multiply.
    """
    t = weights.shape[-1]
    followed = torch.eye(t, dtype=weights.dtype, device=weights.device).expand(weights.shape[1], t, t)
    for layer in weights.mean(dim=2):
        followed = (0.5 * layer + 0.5 * torch.eye(t, dtype=layer.dtype, device=layer.device)) @ followed
    return followed


def gradient_attribution(model: DecoderLM, tokens: Int[Tensor, "b t"], **masking) -> Float[Tensor, "b t"]:
    """Return how strongly each token's embedding moves the logit that the model prefers at the end:
    the gradient's length.
    """
    embedded = model.embed(tokens).detach().requires_grad_()
    logits = model.to_vocabulary(model.stack(embedded, **masking))[:, -1]
    (gradient,) = torch.autograd.grad(logits.max(dim=-1).values.sum(), embedded)
    return gradient.norm(dim=-1)


@torch.no_grad()
def blanking(
    model: DecoderLM, tokens: Int[Tensor, "b t"], *, blanks: Int[Tensor, " n"], **masking
) -> Float[Tensor, "b t"]:
    """Return by how much the preferred answer's log-probability at the end falls,
    at the mean of `blanks` in each token's place.
    """
    b, t = tokens.shape
    whole = torch.log_softmax(model(tokens, **masking)[:, -1], dim=-1)
    answer = whole.argmax(dim=-1)
    falls = []
    for blank in blanks.tolist():
        each = tokens[:, None].repeat(1, t, 1)
        each[:, torch.arange(t), torch.arange(t)] = blank
        blanked = torch.log_softmax(model(each.flatten(0, 1), **masking)[:, -1], dim=-1).view(b, t, -1)
        falls.append(
            whole.gather(1, answer[:, None]) - blanked.gather(2, answer[:, None, None].expand(b, t, 1))[..., 0]
        )
    return torch.stack(falls).mean(dim=0)
