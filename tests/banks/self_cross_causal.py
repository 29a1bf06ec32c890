"""Solutions of the unit `self_cross_causal`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# self_cross_causal.pairs


def pairs_formula(t, s, lengths):
    return s * s, t * s, t * s - t * (t - 1) // 2, sum(n * (n + 1) // 2 for n in lengths)


def pairs_counted(t, s, lengths):
    causal = torch.ones(t, s).tril(s - t)
    packed = torch.block_diag(*(torch.ones(n, n).tril() for n in lengths))
    return [torch.ones(s, s).sum(), torch.ones(t, s).sum(), causal.sum(), packed.sum()]


def pairs_not_itself(t, s, lengths):
    return s * (s - 1), *pairs_formula(t, s, lengths)[1:]


def pairs_half(t, s, lengths):
    return s * (s + 1) // 2, *pairs_formula(t, s, lengths)[1:]


def pairs_concatenated(t, s, lengths):
    return s * s, (t + s) ** 2, *pairs_formula(t, s, lengths)[2:]


def pairs_cross_of_queries(t, s, lengths):
    return s * s, t * t, *pairs_formula(t, s, lengths)[2:]


def pairs_triangle(t, s, lengths):
    return s * s, t * s, t * (t + 1) // 2, pairs_formula(t, s, lengths)[3]


def pairs_causal_blind(t, s, lengths):
    return s * s, t * s, t * s - t * (t + 1) // 2, pairs_formula(t, s, lengths)[3]


def pairs_causal_all(t, s, lengths):
    return s * s, t * s, t * s, pairs_formula(t, s, lengths)[3]


def pairs_across(t, s, lengths):
    return *pairs_formula(t, s, lengths)[:3], sum(lengths) * (sum(lengths) + 1) // 2


def pairs_squares(t, s, lengths):
    return *pairs_formula(t, s, lengths)[:3], sum(n * n for n in lengths)


# self_cross_causal.cross


def cross_blanked(x, memory, lengths, w_q, w_k, w_v):
    exists = torch.arange(memory.shape[1]) < lengths[:, None]
    memory = memory.masked_fill(~exists[..., None], 0.0)
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~exists[:, None], -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def cross_by_rows(x, memory, lengths, w_q, w_k, w_v):
    rows = []
    for row, n in enumerate(lengths.tolist()):
        kept = memory[row, :n]
        scores = (x[row] @ w_q) @ (kept @ w_k).T * w_q.shape[1] ** -0.5
        weights = torch.softmax(scores, dim=-1)
        rows.append(weights @ (kept @ w_v))
    return torch.stack(rows)


def cross_fused(x, memory, lengths, w_q, w_k, w_v):
    exists = torch.arange(memory.shape[1]) < lengths[:, None]
    memory = torch.where(exists[..., None], memory, 0.0)
    return torch.nn.functional.scaled_dot_product_attention(
        x @ w_q, memory @ w_k, memory @ w_v, attn_mask=exists[:, None].expand(-1, x.shape[1], -1)
    )


def _cross(x, memory, w_q, w_k, w_v, visible, *, scale=None, dim=-1):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = (q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)).masked_fill(~visible, -torch.inf)
    return torch.softmax(scores, dim=dim) @ v


def _exists(memory, lengths):
    return (torch.arange(memory.shape[1]) < lengths[:, None])[:, None]


def cross_no_padding(x, memory, lengths, w_q, w_k, w_v):
    return _cross(x, memory, w_q, w_k, w_v, torch.ones(1, dtype=torch.bool))


def cross_shortest(x, memory, lengths, w_q, w_k, w_v):
    return _cross(x, memory, w_q, w_k, w_v, _exists(memory, lengths.min().expand(len(x))))


def cross_causal(x, memory, lengths, w_q, w_k, w_v):
    past = torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool).tril()
    blanked = memory.masked_fill(~_exists(memory, lengths).mT, 0.0)
    return _cross(x, blanked, w_q, w_k, w_v, _exists(memory, lengths) & past)


def cross_zero_scores(x, memory, lengths, w_q, w_k, w_v):
    """Zeroed memory without a mask: a score of 0 is not a weight of 0."""
    memory = memory.masked_fill(~_exists(memory, lengths).mT, 0.0)
    scores = (x @ w_q) @ (memory @ w_k).mT * w_q.shape[1] ** -0.5
    return torch.softmax(scores, dim=-1) @ (memory @ w_v)


def cross_unscaled(x, memory, lengths, w_q, w_k, w_v):
    return _cross(x, memory, w_q, w_k, w_v, _exists(memory, lengths), scale=1.0)


def cross_scaled_by_width(x, memory, lengths, w_q, w_k, w_v):
    return _cross(x, memory, w_q, w_k, w_v, _exists(memory, lengths), scale=x.shape[-1] ** -0.5)


def cross_no_softmax(x, memory, lengths, w_q, w_k, w_v):
    scores = torch.sigmoid((x @ w_q) @ (memory @ w_k).mT * w_q.shape[1] ** -0.5)
    return scores * _exists(memory, lengths) @ (memory @ w_v)


def cross_nan(x, memory, lengths, w_q, w_k, w_v):
    return _cross(x, memory, w_q, w_k, w_v, _exists(memory, lengths))


def cross_nan_gradient(x, memory, lengths, w_q, w_k, w_v):
    """The values are blanked; NaN keys hide behind -inf, until a gradient of 0 meets them."""
    visible = _exists(memory, lengths)
    scores = (x @ w_q) @ (memory @ w_k).mT * w_q.shape[1] ** -0.5
    weights = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)
    return weights @ (memory.masked_fill(~visible.mT, 0.0) @ w_v)


def cross_all_of_one_length(x, memory, lengths, w_q, w_k, w_v):
    return cross_blanked(x, memory, lengths, w_q, w_k, w_v)[:, : int(lengths.min())]


def cross_by_hand(x, memory, lengths, w_q, w_k, w_v):
    """Blanked by where; exp relative to the largest score of the keys that exist."""
    exists = torch.arange(memory.shape[1]) < lengths[:, None]
    memory = torch.where(exists[..., None], memory, torch.zeros_like(memory))
    scores = torch.einsum("btd,dk,mk,bsm->bts", x, w_q, w_k, memory) / w_q.shape[1] ** 0.5
    scores = torch.where(exists[:, None], scores, -torch.inf)
    grown = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    return grown @ (memory @ w_v) / grown.sum(dim=-1, keepdim=True)


def _weighed(x, memory, lengths, w_q, w_k, w_v, weigh):
    visible = _exists(memory, lengths)
    memory = memory.masked_fill(~visible.mT, 0.0)
    return weigh((x @ w_q) @ (memory @ w_k).mT * w_q.shape[1] ** -0.5, visible) @ (memory @ w_v)


def cross_normalised_again(x, memory, lengths, w_q, w_k, w_v):
    def weigh(scores, visible):
        weights = torch.softmax(scores, dim=-1) * visible
        return weights / weights.sum(dim=-1, keepdim=True)

    return _weighed(x, memory, lengths, w_q, w_k, w_v, weigh)


def cross_naive(x, memory, lengths, w_q, w_k, w_v):
    def weigh(scores, visible):
        grown = torch.exp(scores) * visible
        return grown / grown.sum(dim=-1, keepdim=True)

    return _weighed(x, memory, lengths, w_q, w_k, w_v, weigh)


def cross_small_fill(x, memory, lengths, w_q, w_k, w_v):
    def weigh(scores, visible):
        return torch.softmax(scores.masked_fill(~visible, -1e9), dim=-1)

    return _weighed(x, memory, lengths, w_q, w_k, w_v, weigh)


def cross_changes_memory(x, memory, lengths, w_q, w_k, w_v):
    memory[~(torch.arange(memory.shape[1]) < lengths[:, None])] = 0.0
    return cross_blanked(x, memory, lengths, w_q, w_k, w_v)


def cross_memory_detached(x, memory, lengths, w_q, w_k, w_v):
    return cross_blanked(x, memory.detach(), lengths, w_q, w_k, w_v)


# self_cross_causal.leaks


def leaks_any(before, after):
    s, t, _ = after.shape
    moved = (after != before).any(dim=-1).T
    return moved & (torch.arange(s) > torch.arange(s - t, s)[:, None])


def leaks_loop(before, after):
    s, t, _ = after.shape
    found = torch.zeros(t, s, dtype=torch.bool)
    for j in range(s):
        for i in range(t):
            found[i, j] = j > s - t + i and not torch.equal(before[i], after[j, i])
    return found


def _leaks(before, after, moved, *, own=False, start=False):
    s, t, _ = after.shape
    positions = torch.arange(t) + (0 if start else s - t)
    return moved.T & (torch.arange(s) > positions[:, None] - int(own))


def leaks_own(before, after):
    return _leaks(before, after, (after != before).any(dim=-1), own=True)


def leaks_everything_moved(before, after):
    return (after != before).any(dim=-1).T


def leaks_from_the_start(before, after):
    return _leaks(before, after, (after != before).any(dim=-1), start=True)


def leaks_signed_sum(before, after):
    return _leaks(before, after, (after - before).sum(dim=-1).abs() > 1e-15)


def leaks_allclose(before, after):
    return _leaks(before, after, ~torch.isclose(after, before).all(dim=-1))


def leaks_greater(before, after):
    return _leaks(before, after, (after - before).abs().amax(dim=-1) > 0)


def leaks_next_only(before, after):
    s, t, _ = after.shape
    return leaks_any(before, after) & (torch.arange(s) == torch.arange(s - t, s)[:, None] + 1)


def leaks_grown(before, after):
    moved = ((after > before) | after.isnan()).any(dim=-1).T
    s, t, _ = after.shape
    return moved & (torch.arange(s) > torch.arange(s - t, s)[:, None])


def leaks_first_feature(before, after):
    return _leaks(before, after, after[..., 0] != before[..., 0])


def leaks_transposed(before, after):
    return leaks_any(before, after).T


def leaks_whole_future(before, after):
    s, t, _ = after.shape
    return torch.arange(s) > torch.arange(s - t, s)[:, None]


# self_cross_causal.packed


def packed_equal(documents):
    n = documents.shape[1]
    same = documents[:, :, None] == documents[:, None, :]
    return same & (documents > 0)[:, :, None] & torch.ones(n, n, dtype=torch.bool).tril()


def packed_blocks(documents):
    masks = []
    for row in documents:
        numbers, counts = torch.unique_consecutive(row, return_counts=True)
        blocks = [torch.ones(c, c).tril() * bool(n) for n, c in zip(numbers, counts.tolist(), strict=True)]
        masks.append(torch.block_diag(*blocks).bool())
    return torch.stack(masks)


def packed_not_causal(documents):
    return (documents[:, :, None] == documents[:, None, :]) & (documents > 0)[:, :, None]


def packed_causal_only(documents):
    b, n = documents.shape
    exists = documents > 0
    return torch.ones(b, n, n, dtype=torch.bool).tril() & exists[:, :, None] & exists[:, None, :]


def packed_padding_sees_padding(documents):
    n = documents.shape[1]
    return (documents[:, :, None] == documents[:, None, :]) & torch.ones(n, n, dtype=torch.bool).tril()


def packed_blind_to_itself(documents):
    n = documents.shape[1]
    return packed_equal(documents) & torch.ones(n, n, dtype=torch.bool).tril(-1)


def packed_previous_only(documents):
    n = documents.shape[1]
    band = torch.ones(n, n, dtype=torch.bool).triu(-1)
    return packed_equal(documents) & band


def packed_additive(documents):
    return torch.zeros(packed_equal(documents).shape).masked_fill(~packed_equal(documents), -torch.inf)


def packed_first_row(documents):
    return packed_equal(documents[:1])[0]


# self_cross_causal.shift


def shift_view(tokens, length):
    rows = (len(tokens) - 1) // length
    used = rows * length
    return tokens[:used].view(rows, length), tokens[1 : used + 1].view(rows, length)


def shift_unfold(tokens, length):
    rows = tokens.unfold(0, length + 1, length)
    return [rows[:, :-1], rows[:, 1:]]


def shift_as_given(tokens, length):
    rows = len(tokens) // length
    cut = tokens[: rows * length].view(rows, length)
    return cut, cut


def shift_around_the_stream(tokens, length):
    used = len(tokens) // length * length
    return tokens[:used].view(-1, length), tokens.roll(-1)[:used].view(-1, length)


def shift_roll(tokens, length):
    inputs, _ = shift_view(tokens, length)
    return inputs, inputs.roll(-1, dims=1)


def shift_backwards(tokens, length):
    inputs, _ = shift_view(tokens, length)
    return inputs, tokens.roll(1)[: inputs.numel()].view(inputs.shape)


def shift_by_two(tokens, length):
    inputs, _ = shift_view(tokens, length)
    return inputs, tokens.roll(-2)[: inputs.numel()].view(inputs.shape)


def shift_no_row_of_one(tokens, length):
    return shift_view(tokens, length) if len(tokens) > 2 * length else (tokens[:0].view(0, length),) * 2


def shift_inside_the_row(tokens, length):
    cut, _ = shift_view(tokens, length)
    return cut[:, :-1], cut[:, 1:]


def shift_overlapping(tokens, length):
    rows = tokens.unfold(0, length + 1, length)[:, :]
    starts = torch.arange(len(rows)) * (length - 1)
    rows = tokens[starts[:, None] + torch.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]


def shift_drops_a_row(tokens, length):
    inputs, targets = shift_view(tokens, length)
    return inputs[:-1], targets[:-1]


BANK = {
    "self_cross_causal.pairs": Bank(
        right=[pairs_formula, pairs_counted],
        wrong=[
            Wrong(pairs_not_itself, says="a token sees itself too"),
            Wrong(pairs_half, says="the number of pairs among"),
            Wrong(pairs_concatenated, says="neither reads itself"),
            Wrong(pairs_cross_of_queries, says="the number of pairs between"),
            Wrong(pairs_triangle, says="a triangle over the"),
            Wrong(pairs_causal_all, says="up to each query's own position is wrong"),
            Wrong(pairs_causal_blind, says="own positions are not counted"),
            Wrong(pairs_across, says="pairs across documents"),
            Wrong(pairs_squares, says="pairs with the future"),
        ],
    ),
    "self_cross_causal.cross": Bank(
        right=[cross_blanked, cross_by_rows, cross_by_hand],
        wrong=[
            Wrong(cross_no_padding, says="query 0 reads place"),
            Wrong(cross_shortest, says="query 0 does not read place 2"),
            Wrong(cross_causal, says="query 0 does not read place 1"),
            Wrong(cross_zero_scores, says="padding took a share"),
            Wrong(cross_no_softmax, says="not normalised over the keys"),
            Wrong(cross_unscaled, says="not divided by the square root"),
            Wrong(cross_scaled_by_width, says="not the weighted mixture of the values"),
            Wrong(cross_nan, says="padding that holds nan comes through"),
            Wrong(cross_nan_gradient, says="padding that holds NaN: the gradient with respect to"),
            Wrong(cross_fused, says="uses scaled_dot_product_attention"),
            Wrong(cross_normalised_again, says="scores of about -800"),
            Wrong(cross_naive, says="scores of about 800"),
            Wrong(cross_small_fill, says="scores of about -2,000,000,000"),
            Wrong(cross_changes_memory, says="changes its argument memory in place"),
            Wrong(cross_memory_detached, says="the gradient with respect to memory is wrong"),
            Wrong(cross_all_of_one_length, says="the output has shape"),
        ],
    ),
    "self_cross_causal.leaks": Bank(
        right=[leaks_any, leaks_loop],
        wrong=[
            Wrong(leaks_own, says="which is its own: it may see that"),
            Wrong(leaks_everything_moved, says="in its past"),
            Wrong(leaks_from_the_start, says="rows do not count from 0"),
            Wrong(leaks_signed_sum, says="sum to 0 over the features"),
            Wrong(leaks_allclose, says="by 1e-13 in one feature"),
            Wrong(leaks_greater, says="to NaN"),
            Wrong(leaks_next_only, says="replaced: a leak that is not reported"),
            Wrong(leaks_grown, says="in one feature that became smaller"),
            Wrong(leaks_transposed, says="rows and columns are swapped"),
            Wrong(leaks_whole_future, says="did not move when that token was replaced"),
        ],
    ),
    "self_cross_causal.packed": Bank(
        right=[packed_equal, packed_blocks],
        wrong=[
            Wrong(packed_not_causal, says="its future"),
            Wrong(packed_causal_only, says="of another document"),
            Wrong(packed_padding_sees_padding, says="one of them is padding"),
            Wrong(packed_blind_to_itself, says="does not see itself"),
            Wrong(packed_previous_only, says="earlier in its document"),
            Wrong(packed_additive, says="True says visible"),
            Wrong(packed_first_row, says="batch, query, key"),
        ],
    ),
    "self_cross_causal.shift": Bank(
        right=[shift_view, shift_unfold],
        wrong=[
            Wrong(shift_as_given, says="the model predicts its own input"),
            Wrong(shift_around_the_stream, says="the last one has no token left"),
            Wrong(shift_roll, says="the end wraps around"),
            Wrong(shift_backwards, says="the model predicts the past"),
            Wrong(shift_by_two, says="is not the token that follows"),
            Wrong(shift_inside_the_row, says="are not rows of"),
            Wrong(shift_overlapping, says="is not the stream's next token"),
            Wrong(shift_drops_a_row, says="is thrown away"),
        ],
    ),
}
