"""Solutions of the unit `softmax_attention`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# softmax_attention.cost


def cost_formula(b, h, t, s, d):
    return 2 * b * h * t * s * d, 2 * b * h * t * s


def cost_counted(b, h, t, s, d):
    pairs = torch.Size([b, h, t, s]).numel()
    return pairs * d + pairs * d, pairs * torch.finfo(torch.float16).bits // 8


def cost_one_product(b, h, t, s, d):
    return b * h * t * s * d, 2 * b * h * t * s


def cost_one_head(b, h, t, s, d):
    return 2 * b * t * s * d, 2 * b * h * t * s


def cost_linear(b, h, t, s, d):
    return 2 * b * h * (t + s) * d, 2 * b * h * t * s


def cost_numbers(b, h, t, s, d):
    return 2 * b * h * t * s * d, b * h * t * s


def cost_shared_weights(b, h, t, s, d):
    return 2 * b * h * t * s * d, 2 * b * t * s


def cost_float32(b, h, t, s, d):
    return 2 * b * h * t * s * d, 4 * b * h * t * s


# softmax_attention.attend


def attend_formula(q, k, v):
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v


def attend_loop(q, k, v):
    rows = []
    for x in q:
        scores = torch.stack([x @ y for y in k]) * q.shape[-1] ** -0.5
        grown = torch.exp(scores - scores.max())
        rows.append((grown[:, None] * v).sum(dim=0) / grown.sum())
    return torch.stack(rows)


def attend_unscaled(q, k, v):
    return torch.softmax(q @ k.T, dim=-1) @ v


def attend_divided_by_dk(q, k, v):
    return torch.softmax(q @ k.T / q.shape[-1], dim=-1) @ v


def attend_wrong_axis(q, k, v):
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=0) @ v


def attend_no_softmax(q, k, v):
    scores = torch.sigmoid(q @ k.T / q.shape[-1] ** 0.5)
    return scores @ v


def attend_unstable(q, k, v):
    grown = torch.exp(q @ k.T / q.shape[-1] ** 0.5)
    return grown / grown.sum(dim=-1, keepdim=True) @ v


def attend_scaled_by_s(q, k, v):
    return torch.softmax(q @ k.T / (q.shape[-1] + len(k)) ** 0.5, dim=-1) @ v


def attend_detached(q, k, v):
    return torch.softmax(q @ k.detach().T / q.shape[-1] ** 0.5, dim=-1) @ v


def attend_transposed(q, k, v):
    return attend_formula(q, k, v).T


# softmax_attention.causal


def causal_by_positions(q, k, v):
    t, s = len(q), len(k)
    future = torch.arange(s) > torch.arange(s - t, s)[:, None]
    scores = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def causal_by_prefix(q, k, v):
    t, s = len(q), len(k)
    rows = [attend_formula(q[i : i + 1], k[: s - t + i + 1], v[: s - t + i + 1]) for i in range(t)]
    return torch.cat(rows)


def _causal(q, k, v, diagonal):
    future = torch.ones(len(q), len(k)).triu(diagonal).bool()
    scores = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def causal_not_at_all(q, k, v):
    return attend_formula(q, k, v)


def causal_from_the_start(q, k, v):
    return _causal(q, k, v, 1)


def causal_blind_to_itself(q, k, v):
    t, s = len(q), len(k)
    future = torch.arange(s) >= torch.arange(s - t, s)[:, None]
    future[:, 0] = False
    scores = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def causal_one_too_many(q, k, v):
    return _causal(q, k, v, len(k) - len(q) + 2)


def causal_after_softmax(q, k, v):
    t, s = len(q), len(k)
    past = torch.arange(s) <= torch.arange(s - t, s)[:, None]
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) * past @ v


def causal_unscaled(q, k, v):
    t, s = len(q), len(k)
    future = torch.arange(s) > torch.arange(s - t, s)[:, None]
    return torch.softmax((q @ k.T).masked_fill(future, -torch.inf), dim=-1) @ v


# softmax_attention.repair


def repair_by_rows(scores, visible):
    empty = ~visible.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~visible, -torch.inf).masked_fill(empty, 0.0)
    return torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)


def repair_by_hand(scores, visible):
    lowest = scores.detach().masked_fill(~visible, -1e300).amax(dim=-1, keepdim=True).clamp_min(-1e200)
    grown = torch.exp((scores - lowest).masked_fill(~visible, -torch.inf))
    total = grown.sum(dim=-1, keepdim=True)
    return grown / torch.where(total > 0, total, torch.ones_like(total))


def repair_not_at_all(scores, visible):
    return torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)


def repair_large_negative(scores, visible):
    return torch.softmax(scores.masked_fill(~visible, -1e9), dim=-1)


def repair_after(scores, visible):
    return torch.softmax(scores, dim=-1) * visible


def repair_no_mask(scores, visible):
    return torch.softmax(scores, dim=-1)


def repair_nan_to_num(scores, visible):
    return torch.nan_to_num(torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1))


def repair_nan_to_num_of_a_sum(scores, visible):
    """The forward is right; the sum, unlike masked_fill, hands the row's NaN back to the scores."""
    added = torch.zeros_like(scores).masked_fill(~visible, -torch.inf)
    return torch.nan_to_num(torch.softmax(scores + added, dim=-1))


def repair_minus_1000(scores, visible):
    weights = torch.softmax(scores.masked_fill(~visible, -1e3), dim=-1)
    return weights.masked_fill(~visible.any(dim=-1, keepdim=True), 0.0)


def repair_wrong_rows(scores, visible):
    grown = torch.sigmoid(scores) * visible
    total = grown.sum(dim=-1, keepdim=True)
    return grown / torch.where(total > 0, total, torch.ones_like(total))


# softmax_attention.merge


def merge_logaddexp(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    safe = lse.masked_fill(lse == -torch.inf, 0.0)
    return torch.exp(lse_a - safe)[:, None] * out_a + torch.exp(lse_b - safe)[:, None] * out_b, lse


def merge_by_maximum(out_a, lse_a, out_b, lse_b):
    top = torch.maximum(lse_a, lse_b)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    a, b = torch.exp(lse_a - top), torch.exp(lse_b - top)
    total = a + b
    share = torch.where(total > 0, a / total.clamp_min(1e-300), torch.zeros_like(a))[:, None]
    return share * out_a + (1 - share) * out_b, top + torch.log(total)


def merge_mean(out_a, lse_a, out_b, lse_b):
    return (out_a + out_b) / 2, torch.logaddexp(lse_a, lse_b)


def merge_sum(out_a, lse_a, out_b, lse_b):
    return out_a + out_b, torch.logaddexp(lse_a, lse_b)


def merge_wrong_lse(out_a, lse_a, out_b, lse_b):
    return merge_logaddexp(out_a, lse_a, out_b, lse_b)[0], torch.maximum(lse_a, lse_b)


def merge_unstable(out_a, lse_a, out_b, lse_b):
    a, b = torch.exp(lse_a)[:, None], torch.exp(lse_b)[:, None]
    return (a * out_a + b * out_b) / (a + b), torch.logaddexp(lse_a, lse_b)


def merge_nan_when_empty(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    return torch.exp(lse_a - lse)[:, None] * out_a + torch.exp(lse_b - lse)[:, None] * out_b, lse


def merge_only_output(out_a, lse_a, out_b, lse_b):
    return merge_logaddexp(out_a, lse_a, out_b, lse_b)[0]


# softmax_attention.stream


def _piece(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    largest = scores.amax(dim=-1, keepdim=True)
    grown = torch.exp(scores - largest)
    return largest, grown.sum(dim=-1, keepdim=True), grown @ v


def stream_running(state, q, k, v):
    largest, total, mixture = _piece(q, k, v)
    if state is not None:
        old_largest, old_total, old_mixture = state
        new = torch.maximum(old_largest, largest)
        old, now = torch.exp(old_largest - new), torch.exp(largest - new)
        total, mixture, largest = old_total * old + total * now, old_mixture * old + mixture * now, new
    return mixture / total, (largest, total, mixture)


def stream_by_lse(state, q, k, v):
    largest, total, mixture = _piece(q, k, v)
    out, lse = mixture / total, largest + total.log()
    if state is not None:
        old_out, old_lse = state
        new = torch.logaddexp(old_lse, lse)
        out, lse = out * (lse - new).exp() + old_out * (old_lse - new).exp(), new
    return out, [out, lse]


def stream_keeps_keys(state, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v, (k, v)


def stream_forgets(state, q, k, v):
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v, None


def stream_only_output(state, q, k, v):
    return stream_running(None, q, k, v)[0]


def stream_without_maximum(state, q, k, v):
    grown = torch.exp(q @ k.T / q.shape[-1] ** 0.5)
    total, mixture = grown.sum(dim=-1, keepdim=True), grown @ v
    if state is not None:
        total, mixture = state[0] + total, state[1] + mixture
    return mixture / total, (total, mixture)


def stream_ready_made(state, q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v), None


# softmax_attention.tiles


def tiles_of_queries(q, k, v, tile=64):
    return torch.cat([torch.softmax(x @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v for x in q.split(tile)])


def tiles_of_keys(q, k, v):
    outs = []
    for queries in q.split(256):
        state = None
        for keys, values in zip(k.split(256), v.split(256), strict=True):
            out, state = stream_running(state, queries, keys, values)
        outs.append(out)
    return torch.cat(outs)


def tiles_none(q, k, v):
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v


def tiles_drops_the_rest(q, k, v):
    return tiles_of_queries(q[: len(q) // 64 * 64], k, v) if len(q) >= 64 else tiles_of_queries(q, k, v)


def tiles_local(q, k, v):
    out = torch.zeros(len(q), v.shape[-1], dtype=v.dtype)
    for i in range(0, len(q), 64):
        keys = slice(i, i + 64) if i < len(k) else slice(0, 64)
        out[i : i + 64] = tiles_none(q[i : i + 64], k[keys], v[keys])
    return out


def tiles_mean_of_keys(q, k, v):
    parts = [tiles_none(q, keys, values) for keys, values in zip(k.split(64), v.split(64), strict=True)]
    return torch.stack(parts).mean(dim=0)


def tiles_ready_made(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


BANK = {
    "softmax_attention.cost": Bank(
        right=[cost_formula, cost_counted],
        wrong=[
            Wrong(cost_one_product, says="one of the two products"),
            Wrong(cost_one_head, says="one head's work"),
            Wrong(cost_linear, says="the number of multiplications is wrong"),
            Wrong(cost_numbers, says="not bytes"),
            Wrong(cost_shared_weights, says="has weights of its own"),
            Wrong(cost_float32, says="the bytes of the weights in float16 are wrong"),
        ],
    ),
    "softmax_attention.attend": Bank(
        right=[attend_formula, attend_loop],
        wrong=[
            Wrong(attend_unscaled, says="scores are not scaled"),
            Wrong(attend_divided_by_dk, says="not by its square root"),
            Wrong(attend_wrong_axis, says="softmax runs over the wrong axis"),
            Wrong(attend_no_softmax, says="not normalised over the keys"),
            Wrong(attend_unstable, says="scores of about a million"),
            Wrong(attend_scaled_by_s, says="the output differs from the formula"),
            Wrong(attend_detached, says="the gradient with respect to k"),
            Wrong(attend_transposed, says="the output has shape"),
        ],
    ),
    "softmax_attention.causal": Bank(
        right=[causal_by_positions, causal_by_prefix],
        wrong=[
            Wrong(
                causal_not_at_all,
                says="with 9 queries at the end of 9 positions, position 0 saw position 8, its future",
            ),
            Wrong(
                causal_from_the_start,
                says="with 5 queries at the end of 9 positions, position 4 did not see position 1",
            ),
            Wrong(causal_blind_to_itself, says="position 1 did not see position 1"),
            Wrong(causal_one_too_many, says="position 0 saw position 1, its future"),
            Wrong(causal_after_softmax, says="not normalised over the keys"),
            Wrong(causal_unscaled, says="the output is not attention to the past"),
        ],
    ),
    "softmax_attention.repair": Bank(
        right=[repair_by_rows, repair_by_hand, repair_nan_to_num],
        wrong=[
            Wrong(repair_not_at_all, says="is NaN; a row that sees nothing gives zeros"),
            Wrong(repair_large_negative, says="row 2 sees nothing"),
            Wrong(repair_after, says="not normalised over the keys"),
            Wrong(repair_no_mask, says="though the key is not visible"),
            Wrong(repair_nan_to_num_of_a_sum, says="its gradient flows"),
            Wrong(repair_minus_1000, says="subtracting one number from all scores"),
            Wrong(repair_wrong_rows, says="not the softmax of what they see"),
        ],
    ),
    "softmax_attention.merge": Bank(
        right=[merge_logaddexp, merge_by_maximum],
        wrong=[
            Wrong(merge_mean, says="the halves are averaged"),
            Wrong(merge_sum, says="not that of attention over all keys"),
            Wrong(merge_wrong_lse, says="its log-sum-exp is not"),
            Wrong(merge_unstable, says="log-sum-exps of about 2000 overflow"),
            Wrong(merge_nan_when_empty, says="merging two halves without keys"),
            Wrong(merge_only_output, says="return two tensors"),
        ],
    ),
    "softmax_attention.stream": Bank(
        right=[stream_running, stream_by_lse],
        wrong=[
            Wrong(stream_keeps_keys, says="the state grows with what was read"),
            Wrong(stream_forgets, says="attention read in pieces of 4, 7 differs"),
            Wrong(stream_only_output, says="return two things"),
            Wrong(stream_without_maximum, says="holds NaN"),
            Wrong(stream_ready_made, says="read_piece uses scaled_dot_product_attention"),
        ],
        stateful=True,
    ),
    "softmax_attention.tiles": Bank(
        right=[tiles_of_queries, tiles_of_keys],
        wrong=[
            Wrong(tiles_none, says="is too large to form"),
            Wrong(tiles_drops_the_rest, says="the output has shape"),
            Wrong(tiles_local, says="with 131 queries and 257 keys"),
            Wrong(tiles_mean_of_keys, says="with 131 queries and 257 keys the output differs"),
            Wrong(tiles_ready_made, says="attend_in_tiles uses scaled_dot_product_attention"),
        ],
    ),
}
