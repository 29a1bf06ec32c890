"""Solutions of the unit `additive`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# additive.score


def score_broadcast(q, k, w_q, w_k, w_score):
    return torch.tanh((q @ w_q.T)[:, None] + (k @ w_k.T)[None]) @ w_score


def score_loop(q, k, w_q, w_k, w_score):
    rows = [torch.stack([w_score @ torch.tanh(w_q @ x + w_k @ y) for y in k]) for x in q]
    return torch.stack(rows)


def score_without_tanh(q, k, w_q, w_k, w_score):
    return ((q @ w_q.T)[:, None] + (k @ w_k.T)[None]) @ w_score


def score_transposed(q, k, w_q, w_k, w_score):
    return score_broadcast(q, k, w_q, w_k, w_score).T


def score_inside(q, k, w_q, w_k, w_score):
    return torch.tanh(((q @ w_q.T)[:, None] + (k @ w_k.T)[None]) * w_score).sum(dim=-1)


def score_product(q, k, w_q, w_k, w_score):
    return torch.tanh((q @ w_q.T)[:, None] * (k @ w_k.T)[None]) @ w_score


def score_no_query_weight(q, k, w_q, w_k, w_score):
    width = w_q.shape[0]
    padded = torch.nn.functional.pad(q, (0, width))[:, :width]
    return torch.tanh(padded[:, None] + (k @ w_k.T)[None]) @ w_score


def score_detached(q, k, w_q, w_k, w_score):
    return torch.tanh((q @ w_q.T)[:, None].detach() + (k @ w_k.T)[None]) @ w_score


def score_key_detached(q, k, w_q, w_k, w_score):
    return score_broadcast(q, k.detach(), w_q, w_k.detach(), w_score)


def score_key_weight_detached(q, k, w_q, w_k, w_score):
    return score_broadcast(q, k, w_q, w_k.detach(), w_score)


def score_squeezed(q, k, w_q, w_k, w_score):
    return score_broadcast(q, k, w_q, w_k, w_score).squeeze()


def score_numpy(q, k, w_q, w_k, w_score):
    return score_broadcast(*(x.detach() for x in (q, k, w_q, w_k, w_score)))


# additive.context


def _masked(q, k, lengths, w_q, w_k, w_score):
    scores = torch.tanh((q @ w_q.T)[:, :, None] + (k @ w_k.T)[:, None]) @ w_score
    return scores, torch.arange(k.shape[1]) >= lengths[:, None, None]


def context_masked_fill(q, k, lengths, w_q, w_k, w_score):
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
    return weights @ k.masked_fill(hidden.mT, 0.0), weights


def context_blanked(q, k, lengths, w_q, w_k, w_score):
    k = torch.where((torch.arange(k.shape[1]) < lengths[:, None])[..., None], k, 0.0)
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = torch.softmax(torch.where(hidden, -torch.inf, scores), dim=-1)
    return torch.einsum("bts,bsd->btd", weights, k), weights


def context_padding_is_finite(q, k, lengths, w_q, w_k, w_score):
    """A weight of 0 times NaN is NaN."""
    _, weights = context_masked_fill(q, k, lengths, w_q, w_k, w_score)
    return weights @ k, weights


def context_adds_the_mask(q, k, lengths, w_q, w_k, w_score):
    """-inf is added, and NaN stays NaN."""
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = torch.softmax(scores + torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf), dim=-1)
    return weights.nan_to_num() @ k.masked_fill(hidden.mT, 0.0), weights


def _exact_padding(weights, k, hidden):
    return weights @ k.masked_fill(hidden.mT, 0.0), weights


def context_normalised_again(q, k, lengths, w_q, w_k, w_score):
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = torch.softmax(scores.nan_to_num(), dim=-1).masked_fill(hidden, 0.0)
    return _exact_padding(weights / weights.sum(dim=-1, keepdim=True), k, hidden)


def context_normalised_again_over_zeros(q, k, lengths, w_q, w_k, w_score):
    k = k.masked_fill(torch.arange(k.shape[1])[:, None] >= lengths[:, None, None], 0.0)
    return context_normalised_again(q, k, lengths, w_q, w_k, w_score)


def context_naive(q, k, lengths, w_q, w_k, w_score):
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    grown = torch.exp(scores).masked_fill(hidden, 0.0)
    return _exact_padding(grown / grown.sum(dim=-1, keepdim=True), k, hidden)


def context_small_fill(q, k, lengths, w_q, w_k, w_score):
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    return _exact_padding(torch.softmax(scores.masked_fill(hidden, -1e9), dim=-1), k, hidden)


def context_by_hand(q, k, lengths, w_q, w_k, w_score):
    outs, alignments = [], []
    for queries, keys, n in zip(q, k, lengths.tolist(), strict=True):
        scores = torch.tanh((queries @ w_q.T)[:, None] + (keys[:n] @ w_k.T)[None]) @ w_score
        weights = torch.softmax(scores, dim=-1)
        outs.append(weights @ keys[:n])
        alignments.append(torch.nn.functional.pad(weights, (0, len(keys) - n)))
    return torch.stack(outs), torch.stack(alignments)


def context_ignores_lengths(q, k, lengths, w_q, w_k, w_score):
    scores, _ = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = torch.softmax(scores, dim=-1)
    return weights @ k, weights


def context_zero_scores(q, k, lengths, w_q, w_k, w_score):
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = torch.softmax(scores.masked_fill(hidden, 0.0), dim=-1).masked_fill(hidden, 0.0)
    return weights @ k, weights


def context_wrong_axis(q, k, lengths, w_q, w_k, w_score):
    scores, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = torch.softmax(scores, dim=1).masked_fill(hidden, 0.0)
    return weights @ k, weights


def context_swapped_outputs(q, k, lengths, w_q, w_k, w_score):
    return context_masked_fill(q, k, lengths, w_q, w_k, w_score)[::-1]


def context_only(q, k, lengths, w_q, w_k, w_score):
    return context_masked_fill(q, k, lengths, w_q, w_k, w_score)[0]


def context_uniform(q, k, lengths, w_q, w_k, w_score):
    _, hidden = _masked(q, k, lengths, w_q, w_k, w_score)
    weights = (~hidden).expand(-1, q.shape[1], -1).double()
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights @ k, weights


def context_unweighted(q, k, lengths, w_q, w_k, w_score):
    _, weights = context_masked_fill(q, k, lengths, w_q, w_k, w_score)
    exists = (weights > 0).double()
    return exists @ k, weights


# additive.cost


def cost_formula(b, t, s, a, d):
    return b * a * ((t + s) * d + t * s), 4 * b * t * s * a


def cost_counted(b, t, s, a, d):
    projections = sum(a * d for _ in range(b * (t + s)))
    return projections + sum(a for _ in range(b * t * s)), 4 * torch.Size([b, t, s, a]).numel()


def cost_per_pair(b, t, s, a, d):
    return 2 * b * t * s * d * a + b * t * s * a, 4 * b * t * s * a


def cost_projections_only(b, t, s, a, d):
    return b * (t + s) * d * a, 4 * b * t * s * a


def cost_score_only(b, t, s, a, d):
    return b * t * s * a, 4 * b * t * s * a


def cost_numbers(b, t, s, a, d):
    return cost_formula(b, t, s, a, d)[0], b * t * s * a


def cost_score_bytes(b, t, s, a, d):
    return cost_formula(b, t, s, a, d)[0], 4 * b * t * s


def cost_doubles(b, t, s, a, d):
    return cost_formula(b, t, s, a, d)[0], 8 * b * t * s * a


# additive.repair


def repair_masked_fill(scores, lengths):
    hidden = torch.arange(scores.shape[-1]) >= lengths[:, None, None]
    weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
    return torch.nan_to_num(weights)


def repair_by_hand(scores, lengths):
    exists = (torch.arange(scores.shape[-1]) < lengths[:, None, None]).to(scores)
    largest = scores.where(exists > 0, -torch.inf).amax(dim=-1, keepdim=True).clamp_min(-1e300)
    grown = torch.exp((scores - largest).where(exists > 0, -torch.inf))
    total = grown.sum(dim=-1, keepdim=True)
    return grown / torch.where(total > 0, total, torch.ones_like(total))


def repair_by_rows(scores, lengths):
    out = torch.zeros_like(scores)
    for row, n in enumerate(lengths.tolist()):
        if n > 0:
            out[row, :, :n] = torch.softmax(scores[row, :, :n], dim=-1)
    return out


def repair_normalised_again(scores, lengths):
    """The largest score is that of all keys, padding among them."""
    exists = (torch.arange(scores.shape[-1]) < lengths[:, None, None]).to(scores)
    grown = torch.exp(scores - scores.amax(dim=-1, keepdim=True)) * exists
    total = grown.sum(dim=-1, keepdim=True)
    return grown / torch.where(total > 0, total, torch.ones_like(total))


def repair_small_fill(scores, lengths):
    exists = torch.arange(scores.shape[-1]) < lengths[:, None, None]
    return torch.softmax(scores.masked_fill(~exists, -1e9), dim=-1) * exists


def repair_not_at_all(scores, lengths):
    exists = torch.arange(scores.shape[-1]) < lengths[:, None, None]
    return torch.softmax(scores, dim=-1) * exists


def repair_no_mask(scores, lengths):
    return torch.softmax(scores, dim=-1)


def repair_unstable(scores, lengths):
    exists = torch.arange(scores.shape[-1]) < lengths[:, None, None]
    grown = torch.exp(scores) * exists
    total = grown.sum(dim=-1, keepdim=True)
    return grown / torch.where(total == 0, torch.ones_like(total), total)


def repair_nan(scores, lengths):
    hidden = torch.arange(scores.shape[-1]) >= lengths[:, None, None]
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)


def repair_large_negative(scores, lengths):
    hidden = torch.arange(scores.shape[-1]) >= lengths[:, None, None]
    return torch.softmax(scores.masked_fill(hidden, -1e9), dim=-1)


def repair_shared_mask(scores, lengths):
    exists = torch.arange(scores.shape[-1]) < lengths[:, None, None]
    grown = torch.sigmoid(scores) * exists
    total = grown.sum(dim=-1, keepdim=True)
    return grown / torch.where(total > 0, total, torch.ones_like(total))


BANK = {
    "additive.score": Bank(
        right=[score_broadcast, score_loop],
        wrong=[
            Wrong(score_without_tanh, says="where is the tanh"),
            Wrong(score_transposed, says="the matrix of scores has shape"),
            Wrong(score_inside, says="it belongs outside the tanh"),
            Wrong(score_product, says="scores differ from"),
            Wrong(score_no_query_weight, says="w_q is not applied to it"),
            Wrong(score_detached, says="the gradient with respect to q"),
            Wrong(score_key_detached, says="the gradient with respect to k"),
            Wrong(score_key_weight_detached, says="the gradient with respect to w_k"),
            Wrong(score_squeezed, says="the result has shape"),
            Wrong(score_numpy, says="no gradient flows back"),
        ],
    ),
    "additive.context": Bank(
        right=[context_masked_fill, context_by_hand, context_blanked],
        wrong=[
            Wrong(context_ignores_lengths, says="gets weight"),
            Wrong(context_zero_scores, says="not normalised over the keys"),
            Wrong(context_swapped_outputs, says="the alignment has shape"),
            Wrong(context_only, says="return two tensors"),
            Wrong(context_uniform, says="the alignment is not the softmax"),
            Wrong(context_padding_is_finite, says="padding that holds nan gives NaN in the context"),
            Wrong(context_adds_the_mask, says="padding that holds nan changes the context"),
            Wrong(context_normalised_again, says="scores of padding thousands above all others"),
            Wrong(context_normalised_again_over_zeros, says="thousands below those of zeros"),
            Wrong(context_naive, says="scores of about 800"),
            Wrong(context_small_fill, says="scores of about -2,000,000,000"),
            Wrong(context_unweighted, says="the context is not the memory weighted"),
        ],
    ),
    "additive.cost": Bank(
        right=[cost_formula, cost_counted],
        wrong=[
            Wrong(cost_per_pair, says="again for every pair"),
            Wrong(cost_projections_only, says="the product with w_score is missing"),
            Wrong(cost_score_only, says="the projections of queries and keys are missing"),
            Wrong(cost_numbers, says="not bytes"),
            Wrong(cost_score_bytes, says="the bytes of the scores"),
            Wrong(cost_doubles, says="the bytes of the hidden layer are wrong"),
        ],
    ),
    "additive.repair": Bank(
        right=[repair_masked_fill, repair_by_hand, repair_by_rows],
        wrong=[
            Wrong(repair_not_at_all, says="padding took its share"),
            Wrong(repair_no_mask, says="gets weight"),
            Wrong(repair_unstable, says="scores of about 800"),
            Wrong(repair_normalised_again, says="scores of padding thousands above all others"),
            Wrong(repair_small_fill, says="scores of about -2,000,000,000"),
            Wrong(repair_nan, says="gives NaN; its weights are zeros"),
            Wrong(repair_large_negative, says="gets weights; they are zeros"),
            Wrong(repair_shared_mask, says="not the softmax of theirs"),
        ],
    ),
}
