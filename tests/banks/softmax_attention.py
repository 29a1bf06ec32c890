"""Solutions of the unit `softmax_attention`: right ones written differently, and mistakes."""

from typing import NamedTuple

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


def attend_clamped(q, k, v):
    grown = torch.exp((q @ k.T / q.shape[-1] ** 0.5).clamp(-700.0, 700.0))
    return grown / grown.sum(dim=-1, keepdim=True) @ v


def attend_squeezed(q, k, v):
    return attend_formula(q, k, v).squeeze()


def attend_mean_when_long(q, k, v):
    return attend_formula(q, k, v) if len(q) < 1000 else v.mean(dim=0).expand(len(q), -1)


def attend_query_detached(q, k, v):
    return attend_formula(q.detach(), k, v)


def attend_scaled_by_s(q, k, v):
    return torch.softmax(q @ k.T / (q.shape[-1] + len(k)) ** 0.5, dim=-1) @ v


def attend_detached(q, k, v):
    return torch.softmax(q @ k.detach().T / q.shape[-1] ** 0.5, dim=-1) @ v


def attend_transposed(q, k, v):
    return attend_formula(q, k, v).T


def attend_with_largest_first(q, k, v):
    """The largest score is found first, and kept out of the gradient: no derivative needs it."""
    scores = torch.einsum("td,sd->ts", q, k) * q.shape[-1] ** -0.5
    grown = torch.exp(scores - scores.detach().amax(dim=-1, keepdim=True))
    return torch.einsum("ts,sv->tv", grown, v) / grown.sum(dim=-1)[:, None]


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


def causal_normalised_again(q, k, v):
    t, s = len(q), len(k)
    past = torch.arange(s) <= torch.arange(s - t, s)[:, None]
    weights = torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) * past
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def causal_naive(q, k, v):
    t, s = len(q), len(k)
    grown = torch.exp(q @ k.T / q.shape[-1] ** 0.5).tril(s - t)
    return grown / grown.sum(dim=-1, keepdim=True) @ v


def causal_small_fill(q, k, v):
    t, s = len(q), len(k)
    future = torch.arange(s) > torch.arange(s - t, s)[:, None]
    return torch.softmax((q @ k.T / q.shape[-1] ** 0.5).masked_fill(future, -1e9), dim=-1) @ v


def causal_not_when_long(q, k, v):
    return causal_by_positions(q, k, v) if len(k) < 1000 else attend_formula(q, k, v)


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


def repair_normalised_again(scores, visible):
    weights = torch.softmax(scores, dim=-1) * visible
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.ones_like(total))


def repair_largest_of_all(scores, visible):
    """One largest score for the whole matrix: rows far below it vanish."""
    grown = (
        torch.exp(scores.masked_fill(~visible, -torch.inf) - scores[visible].amax()) if visible.any() else scores * 0
    )
    total = grown.sum(dim=-1, keepdim=True)
    return grown / torch.where(total > 0, total, torch.ones_like(total))


def repair_uniform_gradient(scores, visible):
    """The forward is right; the largest score is part of the gradient, and the sum is not."""
    lowest = scores.masked_fill(~visible, -1e300).amax(dim=-1, keepdim=True).clamp_min(-1e200)
    grown = torch.exp((scores - lowest).masked_fill(~visible, -torch.inf))
    total = grown.sum(dim=-1, keepdim=True).detach()
    return grown / torch.where(total > 0, total, torch.ones_like(total))


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


def merge_clamped(out_a, lse_a, out_b, lse_b):
    out, _ = merge_unstable(out_a, lse_a.clamp(-700, 700), out_b, lse_b.clamp(-700, 700))
    return out.masked_fill((torch.logaddexp(lse_a, lse_b) == -torch.inf)[:, None], 0.0), torch.logaddexp(lse_a, lse_b)


def merge_floor(out_a, lse_a, out_b, lse_b):
    top = torch.maximum(lse_a, lse_b).clamp_min(-1e300)
    a, b = torch.exp(lse_a - top)[:, None], torch.exp(lse_b - top)[:, None]
    total = a + b + 1e-300
    return (a * out_a + b * out_b) / total, top.clamp_min(-1e9) * (top > -1e300) + torch.log(total[:, 0])


def merge_lse_nan(out_a, lse_a, out_b, lse_b):
    top = torch.maximum(lse_a, lse_b)
    a, b = torch.exp(lse_a - top)[:, None], torch.exp(lse_b - top)[:, None]
    return torch.nan_to_num((a * out_a + b * out_b) / (a + b)), top + torch.log((a + b)[:, 0])


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


def _buffered(state, q, k, v, room):
    if state is None:
        state = q.new_zeros(room, k.shape[1]), q.new_zeros(room, v.shape[1]), torch.tensor(0)
    keys, values, used = state[0].clone(), state[1].clone(), int(state[2])
    stop = min(used + len(k), room)
    keys[used:stop], values[used:stop] = k[: stop - used], v[: stop - used]
    return attend_formula(q, keys[:stop], values[:stop]), (keys, values, torch.tensor(stop))


def stream_buffer_of_32(state, q, k, v):
    return _buffered(state, q, k, v, 32)


def stream_buffer_of_512(state, q, k, v):
    return _buffered(state, q, k, v, 512)


KEPT = {}


def stream_keeps_outside(state, q, k, v):
    """Keys and values stay in a global; the state is empty."""
    if state is None:
        KEPT.clear()
    KEPT["k"] = torch.cat([KEPT["k"], k]) if KEPT else k
    KEPT["v"] = torch.cat([KEPT["v"], v]) if "v" in KEPT else v
    return attend_formula(q, KEPT["k"], KEPT["v"]), torch.zeros(1)


def stream_from_zero(state, q, k, v):
    """The largest score so far starts at 0."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    if state is None:
        zeros = q.new_zeros(len(q), 1)
        state = zeros, zeros, q.new_zeros(len(q), v.shape[1])
    largest = torch.maximum(state[0], scores.amax(dim=-1, keepdim=True))
    grown, old = torch.exp(scores - largest), torch.exp(state[0] - largest)
    total, mixture = state[1] * old + grown.sum(dim=-1, keepdim=True), state[2] * old + grown @ v
    return mixture / total, (largest, total, mixture)


def stream_ready_made(state, q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v), None


class Running(NamedTuple):
    largest: torch.Tensor
    total: torch.Tensor
    mixture: torch.Tensor


def stream_named(state, q, k, v):
    """A state with names, from -inf on."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    if state is None:
        bottom = torch.full((len(q), 1), -torch.inf, dtype=q.dtype)
        state = Running(bottom, torch.zeros_like(bottom), q.new_zeros(len(q), v.shape[1]))
    largest = torch.maximum(state.largest, scores.amax(dim=-1, keepdim=True))
    grown, old = torch.exp(scores - largest), torch.exp(state.largest - largest)
    state = Running(largest, state.total * old + grown.sum(dim=-1, keepdim=True), state.mixture * old + grown @ v)
    return state.mixture / state.total, state


def stream_in_place(state, q, k, v):
    """A dict that is changed where it lies, with a count beside."""
    largest, total, mixture = _piece(q, k, v)
    if state is None:
        return mixture / total, {0: largest, 1: total, 2: mixture, 3: len(k)}
    new = torch.maximum(state[0], largest)
    old, now = torch.exp(state[0] - new), torch.exp(largest - new)
    state[0].copy_(new)
    state[1].mul_(old).add_(total * now)
    state[2].mul_(old).add_(mixture * now)
    state[3] += len(k)
    return state[2] / state[1], state


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


def tiles_of_a_thousand(q, k, v):
    return tiles_of_queries(q, k, v, tile=1000)


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


def tiles_values_when_long(q, k, v):
    """What only the memory of long inputs would let pass."""
    return tiles_of_queries(q, k, v) if len(q) < 2000 else v.mean(dim=0).expand(len(q), -1).contiguous()


def tiles_naive(q, k, v):
    outs = []
    for x in q.split(64):
        grown = torch.exp(x @ k.T / q.shape[-1] ** 0.5)
        outs.append(grown @ v / grown.sum(dim=-1, keepdim=True))
    return torch.cat(outs)


def tiles_forget_to_rescale(q, k, v):
    """Tiles of keys, where a larger maximum does not rescale what stands: right while the first tile holds the largest."""
    outs = []
    for x in q.split(256):
        largest = (x @ k[:256].T).amax(dim=-1, keepdim=True) / q.shape[-1] ** 0.5
        total, mixture = 0.0, 0.0
        for keys, values in zip(k.split(256), v.split(256), strict=True):
            scores = x @ keys.T / q.shape[-1] ** 0.5
            grown = torch.exp(scores - largest)
            total, mixture = total + grown.sum(dim=-1, keepdim=True), mixture + grown @ values
        outs.append(mixture / total)
    return torch.cat(outs)


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
        right=[attend_formula, attend_loop, attend_with_largest_first],
        wrong=[
            Wrong(attend_unscaled, says="scores are not scaled"),
            Wrong(attend_divided_by_dk, says="not by its square root"),
            Wrong(attend_wrong_axis, says="softmax runs over the wrong axis"),
            Wrong(attend_no_softmax, says="not normalised over the keys"),
            Wrong(attend_unstable, says="scores of about a million give NaN"),
            Wrong(attend_clamped, says="scores of about a million give a wrong result"),
            Wrong(attend_squeezed, says="the result has shape"),
            Wrong(attend_mean_when_long, says="with 1030 queries"),
            Wrong(attend_query_detached, says="the gradient with respect to q"),
            Wrong(attend_scaled_by_s, says="the output differs from the formula"),
            Wrong(attend_detached, says="the gradient with respect to k"),
            Wrong(attend_transposed, says="the output has shape"),
        ],
    ),
    "softmax_attention.causal": Bank(
        right=[causal_by_positions, causal_by_prefix],
        wrong=[
            Wrong(causal_not_at_all, says="its future"),
            Wrong(causal_from_the_start, says="which is not its future"),
            Wrong(causal_blind_to_itself, says="did not see itself"),
            Wrong(causal_one_too_many, says="position 0 saw position 1, its future"),
            Wrong(causal_after_softmax, says="not normalised over the keys"),
            Wrong(causal_unscaled, says="the output is not attention to the past"),
            Wrong(causal_normalised_again, says="the last one thousands above the rest"),
            Wrong(causal_naive, says="scores of about 800 give NaN"),
            Wrong(causal_small_fill, says="scores of about -2,000,000,000"),
            Wrong(causal_not_when_long, says="with 7 queries at the end of 1030"),
        ],
    ),
    "softmax_attention.repair": Bank(
        right=[repair_by_rows, repair_by_hand, repair_nan_to_num],
        wrong=[
            Wrong(repair_not_at_all, says="is NaN; a row that sees nothing gives zeros"),
            Wrong(repair_large_negative, says="sees nothing, and its weights are not zeros"),
            Wrong(repair_after, says="not normalised over the keys"),
            Wrong(repair_no_mask, says="though the key is not visible"),
            Wrong(repair_nan_to_num_of_a_sum, says="which flows back though it was hidden"),
            Wrong(repair_minus_1000, says="scores of about -2,000,000,000"),
            Wrong(repair_wrong_rows, says="not the softmax of what they see"),
            Wrong(repair_normalised_again, says="hidden scores thousands above the visible ones give"),
            Wrong(repair_largest_of_all, says="rows of scores that lie far from one another"),
            Wrong(repair_uniform_gradient, says="the gradient with respect to scores is wrong"),
        ],
    ),
    "softmax_attention.merge": Bank(
        right=[merge_logaddexp, merge_by_maximum],
        wrong=[
            Wrong(merge_mean, says="the halves are averaged"),
            Wrong(merge_sum, says="not that of attention over all keys"),
            Wrong(merge_wrong_lse, says="its log-sum-exp is not"),
            Wrong(merge_unstable, says="gives NaN"),
            Wrong(merge_nan_when_empty, says="merging two halves without keys (log-sum-exp -inf) gives NaN"),
            Wrong(merge_clamped, says="gives a wrong output"),
            Wrong(merge_floor, says="merging two halves without keys (log-sum-exp -inf) gives a wrong log-sum-exp"),
            Wrong(merge_lse_nan, says="merging two halves without keys (log-sum-exp -inf) gives a log-sum-exp of NaN"),
            Wrong(merge_only_output, says="return two tensors"),
        ],
    ),
    "softmax_attention.stream": Bank(
        right=[stream_running, stream_by_lse, stream_named, stream_in_place],
        wrong=[
            Wrong(stream_keeps_keys, says="the state grows with what was read"),
            Wrong(stream_forgets, says="a text of 11 tokens, after piece 2 "),
            Wrong(stream_only_output, says="return two things"),
            Wrong(stream_without_maximum, says="scores of about 800"),
            Wrong(stream_from_zero, says="scores of about -800"),
            Wrong(stream_buffer_of_32, says="a text of 50 tokens"),
            Wrong(stream_buffer_of_512, says="has room for the keys of 300 tokens"),
            Wrong(stream_keeps_outside, says="two texts read in turns"),
            Wrong(stream_ready_made, says="read_piece uses scaled_dot_product_attention"),
        ],
        stateful=True,
    ),
    "softmax_attention.tiles": Bank(
        right=[tiles_of_queries, tiles_of_keys, tiles_of_a_thousand],
        wrong=[
            Wrong(tiles_none, says="is too large to form"),
            Wrong(tiles_drops_the_rest, says="the output has shape"),
            Wrong(tiles_local, says="with 131 queries and 257 keys"),
            Wrong(tiles_naive, says="scores of about 800"),
            Wrong(tiles_forget_to_rescale, says="scores that grow from key to key"),
            Wrong(tiles_values_when_long, says="with long inputs"),
            Wrong(tiles_mean_of_keys, says="with 131 queries and 257 keys the output differs"),
            Wrong(tiles_ready_made, says="attend_in_tiles uses scaled_dot_product_attention"),
        ],
    ),
}
