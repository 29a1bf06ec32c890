"""Hard attention: each query reads one value instead of a mixture, and three ways to a gradient nevertheless.

The choice is a sample from softmax's weights (Xu et al. 2015, https://arxiv.org/abs/1502.03044, section 4.1), drawn by
the Gumbel-max trick: the largest of score plus Gumbel noise. Gradients: the score function with a baseline (Williams
1992; Xu et al. 2015), the straight-through Gumbel-softmax (Jang et al. 2016, https://arxiv.org/abs/1611.01144; Maddison
et al. 2016, https://arxiv.org/abs/1611.00712), and the exact one by enumeration. Randomness comes in as a tensor of
noise, so every function here is deterministic.
"""

from collections.abc import Callable

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.masks import blank_padding, masked_softmax
from attncourse._shared.precision import wide
from attncourse._shared.validate import check_qkv, require
from attncourse.softmax_attention import attention_scores, attention_weights, mix_values

from .selection import HardRead, check_noise, check_temperature, take_rows


def hard_attention_loop(
    q: Float[Tensor, "t dk"],
    k: Float[Tensor, "s dk"],
    v: Float[Tensor, "s dv"],
    noise: Float[Tensor, "t s"],
    *,
    causal: bool = False,
) -> tuple[Float[Tensor, "t dv"], Int[Tensor, " t"], Float[Tensor, " t"]]:
    """Read key by key, in one head and one sequence: value, index and log-probability of the largest score plus noise.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
    """
    (t, dk), (s, dv) = q.shape, v.shape
    out, log_prob = torch.zeros(t, dv, dtype=v.dtype, device=v.device), torch.zeros(t, dtype=q.dtype, device=q.device)
    index = torch.full((t,), -1, device=q.device)
    for i in range(t):
        best, scores = -torch.inf, []
        for j in range(s - t + i + 1 if causal else s):
            scores.append(q[i] @ k[j] * dk**-0.5)
            if scores[j] + noise[i, j] > best:
                best, index[i], out[i] = scores[j] + noise[i, j], j, v[j]
        if index[i] >= 0:
            log_prob[i] = torch.stack(scores).log_softmax(dim=0)[index[i]]
    return out, index, log_prob


def gumbel_noise(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
    """Return -log(E) for exponential E, on the generator's device:
    noise under which the largest score is a softmax sample.

    It is drawn in float64. In float32 one E in 2^24 is 0, and infinite noise on a hidden score of -inf makes NaN.

    Args:
        shape: of the noise.
        generator: what draws.
        dtype: of the result.
    """
    waiting = torch.empty(shape, dtype=torch.float64, device=generator.device).exponential_(generator=generator)
    return waiting.clamp_min_(torch.finfo(torch.float64).tiny).log_().neg_().to(dtype)


def _below_the_top(scores: Float[Tensor, "b h t s"]) -> Float[Tensor, "b h t s"]:
    """Return scores less their row's largest, which no softmax sees: next to a mask of -1e9 noise would round away."""
    top = scores.detach().amax(dim=-1, keepdim=True)
    return scores - top.masked_fill(top == -torch.inf, 0.0)


def select(scores: Float[Tensor, "b h t s"], noise: Float[Tensor, "b h t s"] | None = None) -> Int[Tensor, "b h t"]:
    """Return the index of the largest score plus noise (of the largest score, without noise);
    -1 where every score is -inf.
    """
    if scores.shape[-1] == 0:
        return torch.full(scores.shape[:-1], -1, device=scores.device)
    index = (scores if noise is None else _below_the_top(scores) + noise).argmax(dim=-1)
    return index.masked_fill((scores == -torch.inf).all(dim=-1), -1)


def log_probability(scores: Float[Tensor, "b h t s"], index: Int[Tensor, "b h t"]) -> Float[Tensor, "b h t"]:
    """Return log softmax(scores) at the index, in float32 or better; 0, with gradient 0, for -1."""
    scores = wide(scores)
    if scores.shape[-1] == 0:
        return scores.sum(dim=-1)
    nothing = index < 0
    logits = scores.masked_fill(nothing[..., None], 0.0).log_softmax(dim=-1)
    return logits.gather(-1, index.clamp_min(0)[..., None])[..., 0].masked_fill(nothing, 0.0)


def hard_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    noise: Float[Tensor, "b h t s"] | None = None,
    **masking,
) -> HardRead:
    """Let each query read one value alone: that of the key whose score plus noise is largest.

    With Gumbel noise, key j is read with the probability softmax(scores)_j (Maddison et al. 2014,
    https://arxiv.org/abs/1411.0030); without noise, the best key is. No gradient reaches q and k through `out`; through
    `log_prob` one does. A row with no visible key gives zeros, index -1 and log-probability 0.

    Args:
        noise: (b, h, t, s), as from `gumbel_noise`.
        masking: causal, window, key_lengths, mask, scale, softcap, as in `attention_scores`.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; noise of another shape.
    """
    check_qkv(q, k, v)
    scores = attention_scores(q, k, **masking)
    check_noise(noise, scores)
    index = select(scores, noise)
    return HardRead(take_rows(v, index), index, log_probability(scores, index))


def sampled_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    generator: torch.Generator,
    **masking,
) -> HardRead:
    """Return what `hard_attention` does under Gumbel noise: the stochastic attention of Xu et al. 2015, section 4.1.

    Args:
        generator: draws the noise.
        masking: causal, window, key_lengths, mask, scale, softcap, as in `attention_scores`.
    """
    check_qkv(q, k, v)
    noise = gumbel_noise(*q.shape[:3], k.shape[2], generator=generator).to(q.device)
    return hard_attention(q, k, v, noise=noise, **masking)


def gumbel_softmax(
    scores: Float[Tensor, "b h t s"], noise: Float[Tensor, "b h t s"], *, temperature: float
) -> Float[Tensor, "b h t s"]:
    """Return softmax((scores + noise) / temperature): a sample made soft, one-hot as the temperature falls to 0.

    Jang et al. 2016, equation 2. Rows that see nothing give zeros.
    """
    check_temperature(temperature)
    if scores.shape[-1] == 0:
        return scores
    # Brought below 0 before it is divided: by a small temperature, what is above would become infinite.
    return masked_softmax(_below_the_top(_below_the_top(scores) + noise) / temperature)


def straight_through(soft: Float[Tensor, "b h t s"], index: Int[Tensor, "b h t"]) -> Float[Tensor, "b h t s"]:
    """Return one-hot weights whose gradient is that of the soft ones (Jang et al. 2016, section 2.2); zeros for -1.

    The soft part cancels before the hard one is added, so that the weights are 0 and 1 to the last bit.
    """
    hard = index[..., None] == torch.arange(soft.shape[-1], device=soft.device)
    return hard.to(soft.dtype) + (soft - soft.detach())


def relaxed_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    noise: Float[Tensor, "b h t s"],
    temperature: float,
    **masking,
) -> Float[Tensor, "b h t dv"]:
    """Return values mixed by the Gumbel-softmax: differentiable throughout, and no hard read at any temperature.

    Args:
        noise: (b, h, t, s), as from `gumbel_noise`.
        temperature: above 0.
        masking: causal, window, key_lengths, mask, scale, softcap, as in `attention_scores`.
    """
    check_qkv(q, k, v)
    scores = attention_scores(q, k, **masking)
    check_noise(noise, scores)
    weights = gumbel_softmax(scores, noise, temperature=temperature)
    return mix_values(weights, v, key_lengths=masking.get("key_lengths"))


def straight_through_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    noise: Float[Tensor, "b h t s"],
    temperature: float,
    **masking,
) -> HardRead:
    """Return what `hard_attention` does; backward, the gradient is that of `relaxed_attention` at what was read.

    Args:
        noise: (b, h, t, s), as from `gumbel_noise`.
        temperature: of the relaxed attention, above 0.
        masking: causal, window, key_lengths, mask, scale, softcap, as in `attention_scores`.
    """
    check_qkv(q, k, v)
    scores = attention_scores(q, k, **masking)
    check_noise(noise, scores)
    index = select(scores, noise)
    weights = straight_through(gumbel_softmax(scores, noise, temperature=temperature), index)
    out = mix_values(weights, v, key_lengths=masking.get("key_lengths"))
    return HardRead(out, index, log_probability(scores, index))


def score_function_loss(
    cost: Float[Tensor, "*n"], log_prob: Float[Tensor, "*n"], *, baseline: float | Tensor = 0.0
) -> Float[Tensor, ""]:
    """Return the mean cost, with a gradient that estimates that of the expected cost: REINFORCE.

    d E[cost] = E[d cost + (cost - baseline) d log_prob] (Williams 1992; Xu et al. 2015, equation 11, whose reward is
    -cost). The baseline may be any number that does not depend on the choice: it moves the variance, not the mean.

    Args:
        baseline: what a sample is expected to pay.
        cost: what each sample paid.
        log_prob: log-probability of all choices that led to that cost.
    """
    surrogate = (cost - baseline).detach() * log_prob
    return (cost + (surrogate - surrogate.detach())).mean()


def moving_baseline(baseline: float, cost: Float[Tensor, "*n"], *, decay: float = 0.9) -> float:
    """Return the next baseline: a running mean of past costs,
    blind to the choice it will judge (Xu et al. 2015, section 4.1).

    Args:
        baseline: the last one.
        cost: what the samples paid that the last one judged.
        decay: how much of the last one stays.
    """
    require(0 <= decay < 1, f"decay must lie in [0, 1), got {decay}")
    return decay * baseline + (1 - decay) * float(cost.mean())


def expected_cost(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    cost: Callable[[Tensor], Tensor],
    **masking,
) -> Float[Tensor, "b h t"]:
    """Return the mean of cost(what is read) over all choices, each counted by its probability:
    exact, and so is its gradient.

    The cost is computed for every value as if it were the one read, t s times: an oracle for small problems.

    Args:
        masking: causal, window, key_lengths, mask, scale, softcap, as in `attention_scores`.
        cost: from (b, h, t, s, dv) to (b, h, t, s).
    """
    check_qkv(q, k, v)
    weights = attention_weights(q, k, **masking)
    values = blank_padding(v, masking.get("key_lengths"))
    read = repeat(values, "b g s dv -> b (g r) t s dv", r=q.shape[1] // k.shape[1], t=q.shape[2])
    return (weights * cost(read)).sum(dim=-1)
