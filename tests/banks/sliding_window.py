"""Solutions of the unit `sliding_window`: right ones written differently, and mistakes."""

from typing import NamedTuple

import torch

from tests.banks.kinds import Bank, Wrong

# sliding_window.cost


def cost_formula(n, window, dilation, layers):
    steps = min(window, -(-n // dilation))
    pairs = sum(n - step * dilation for step in range(steps))
    return pairs, layers * (window - 1) * dilation + 1


def cost_counted(n, window, dilation, layers):
    pairs = sum(min(i // dilation + 1, window) for i in range(n))
    heard = {0}
    for _ in range(layers):
        heard = {p + step * dilation for p in heard for step in range(window)}
    return [torch.tensor(pairs), max(heard) + 1]


def cost_full_windows(n, window, dilation, layers):
    return n * window, cost_formula(n, window, dilation, layers)[1]


def cost_undilated(n, window, dilation, layers):
    return cost_formula(n, window, 1, layers)[0], cost_formula(n, window, dilation, layers)[1]


def cost_causal(n, window, dilation, layers):
    return n * (n + 1) // 2, cost_formula(n, window, dilation, layers)[1]


def cost_longer_than_the_text(n, window, dilation, layers):
    pairs = n * window - dilation * window * (window - 1) // 2  # right while the window fits
    return pairs, cost_formula(n, window, dilation, layers)[1]


def cost_blind(n, window, dilation, layers):
    """A query does not see its own key."""
    pairs, heard = cost_formula(n, window, dilation, layers)
    return (pairs if n < window else pairs - n), heard


def cost_not_itself(n, window, dilation, layers):
    return cost_formula(n, window, dilation, layers)[0], layers * (window - 1) * dilation


def cost_whole_windows(n, window, dilation, layers):
    return cost_formula(n, window, dilation, layers)[0], layers * window * dilation


def cost_one_layer(n, window, dilation, layers):
    return cost_formula(n, window, dilation, layers)[0], (window - 1) * dilation + 1


def cost_power(n, window, dilation, layers):
    return cost_formula(n, window, dilation, layers)[0], ((window - 1) * dilation + 1) ** layers + 1


def cost_whole_steps(n, window, dilation, layers):
    """As many steps back as whole dilations fit into the text."""
    pairs = sum(n - step * dilation for step in range(min(window, n // dilation)))
    return pairs, layers * (window - 1) * dilation + 1


def cost_dilation_once(n, window, dilation, layers):
    return cost_formula(n, window, dilation, layers)[0], dilation * (window - 1) + (layers - 1) * (window - 1) + 1


# sliding_window.band


def band_by_distance(t, s, window, dilation, sinks):
    distance = torch.arange(s - t, s)[:, None] - torch.arange(s)
    near = (distance >= 0) & (distance % dilation == 0) & (distance // dilation < window)
    return near | ((torch.arange(s) < sinks) & (distance >= 0))


def band_by_loop(t, s, window, dilation, sinks):
    mask = torch.zeros(t, s, dtype=torch.bool)
    for i in range(t):
        own = s - t + i
        for step in range(window):
            if own - step * dilation >= 0:
                mask[i, own - step * dilation] = True
        mask[i, : min(sinks, own + 1)] = True
    return mask


def band_one_more(t, s, window, dilation, sinks):
    return band_by_distance(t, s, window + 1, dilation, sinks)


def band_one_less(t, s, window, dilation, sinks):
    return band_by_distance(t, s, window, dilation, sinks) & ~torch.ones(t, s, dtype=torch.bool).tril(
        -window + 1 + s - t
    )


def band_not_itself(t, s, window, dilation, sinks):
    return band_by_distance(t, s, window, dilation, sinks) & torch.ones(t, s, dtype=torch.bool).tril(s - t - 1)


def band_from_the_start(t, s, window, dilation, sinks):
    return band_by_distance(s, s, window, dilation, sinks)[:t]


def band_both_ways(t, s, window, dilation, sinks):
    distance = (torch.arange(s - t, s)[:, None] - torch.arange(s)).abs()
    return (distance < window * dilation) & (distance % dilation == 0)


def band_no_dilation(t, s, window, dilation, sinks):
    return band_by_distance(t, s, window, 1, sinks)


def band_gaps(t, s, window, dilation, sinks):
    """The dilation as the number of keys left out between two."""
    return band_by_distance(t, s, window, dilation + 1, sinks)


def band_no_sinks(t, s, window, dilation, sinks):
    return band_by_distance(t, s, window, dilation, 0)


def band_sinks_of_the_future(t, s, window, dilation, sinks):
    return band_by_distance(t, s, window, dilation, 0) | (torch.arange(s) < sinks)


def band_sinks_by_row(t, s, window, dilation, sinks):
    sunk = (torch.arange(s) < sinks) & (torch.arange(t)[:, None] >= torch.arange(s))
    return band_by_distance(t, s, window, dilation, 0) | sunk


def band_dilated_sinks(t, s, window, dilation, sinks):
    distance = torch.arange(s - t, s)[:, None] - torch.arange(s)
    sunk = (torch.arange(s) < sinks) & (distance >= 0) & (distance % dilation == 0)
    return band_by_distance(t, s, window, dilation, 0) | sunk


def band_dilation_by_row(t, s, window, dilation, sinks):
    distance = torch.arange(s - t, s)[:, None] - torch.arange(s)
    step = (torch.arange(t)[:, None] - torch.arange(s)) % dilation == 0
    near = (distance >= 0) & (distance < window * dilation) & step
    return near | ((torch.arange(s) < sinks) & (distance >= 0))


def band_window_holds_sinks(t, s, window, dilation, sinks):
    """The sinks are taken out of the window's number of keys."""
    return band_by_distance(t, s, max(window - sinks, 1), dilation, sinks)


def band_floats(t, s, window, dilation, sinks):
    return torch.zeros(t, s).masked_fill(~band_by_distance(t, s, window, dilation, sinks), -torch.inf)


# sliding_window.repair and sliding_window.blocks


def _local(q, k, v, visible, *, scale=None):
    scores = q @ k.T * (q.shape[-1] ** -0.5 if scale is None else scale)
    return torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1) @ v


def _distance(q, k):
    return torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k))


def repair_distance(q, k, v, window):
    distance = _distance(q, k)
    return _local(q, k, v, (distance >= 0) & (distance < window))


def repair_triangles(q, k, v, window):
    t, s = len(q), len(k)
    ones = torch.ones(t, s, dtype=torch.bool)
    return _local(q, k, v, ones.tril(s - t) & ones.triu(s - t - window + 1))


def repair_as_given(q, k, v, window):
    distance = torch.arange(len(q))[:, None] - torch.arange(len(k))
    return _local(q, k, v, (distance >= 0) & (distance <= window))


def repair_edge_only(q, k, v, window):
    distance = torch.arange(len(q))[:, None] - torch.arange(len(k))
    return _local(q, k, v, (distance >= 0) & (distance < window))


def repair_too_far(q, k, v, window):
    distance = _distance(q, k)
    return _local(q, k, v, (distance >= 0) & (distance < window - 1))


def repair_not_itself(q, k, v, window):
    distance = _distance(q, k)
    return _local(q, k, v, (distance > 0) & (distance < window))


def repair_both_ways(q, k, v, window):
    return _local(q, k, v, _distance(q, k).abs() < window)


def repair_unscaled(q, k, v, window):
    distance = _distance(q, k)
    return _local(q, k, v, (distance >= 0) & (distance < window), scale=1.0)


def repair_masked_after(q, k, v, window):
    distance = _distance(q, k)
    weights = torch.softmax(q @ k.T * q.shape[-1] ** -0.5, dim=-1)
    return (weights * ((distance >= 0) & (distance < window))) @ v


def repair_renormalised(q, k, v, window):
    distance = _distance(q, k)
    weights = torch.softmax(q @ k.T * q.shape[-1] ** -0.5, dim=-1) * ((distance >= 0) & (distance < window))
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def _local_otherwise(q, k, v, window, weigh):
    """Local attention by another way from scores and who is visible to weights."""
    distance = _distance(q, k)
    return weigh(q @ k.T * q.shape[-1] ** -0.5, (distance >= 0) & (distance < window)) @ v


def _naive(scores, visible):
    weights = scores.exp() * visible
    return weights / weights.sum(dim=-1, keepdim=True)


def repair_naive_exponential(q, k, v, window):
    return _local_otherwise(q, k, v, window, _naive)


def repair_clamped(q, k, v, window):
    return _local_otherwise(q, k, v, window, lambda scores, visible: _naive(scores.clamp(-80, 80), visible))


def repair_small_fill(q, k, v, window):
    return _local_otherwise(q, k, v, window, lambda x, visible: torch.softmax(x.masked_fill(~visible, -1e4), dim=-1))


def repair_large_fill(q, k, v, window):
    return _local_otherwise(q, k, v, window, lambda x, visible: torch.softmax(x.masked_fill(~visible, -1e9), dim=-1))


def repair_lowest_fill(q, k, v, window):
    lowest = torch.finfo(q.dtype).min
    return _local_otherwise(q, k, v, window, lambda x, visible: torch.softmax(x.masked_fill(~visible, lowest), dim=-1))


def blocks_sliced(q, k, v, window):
    out = []
    for first in range(0, len(q), 64):
        rows = q[first : first + 64]
        low, high = max(first - window + 1, 0), first + len(rows)
        distance = torch.arange(first, high)[:, None] - torch.arange(low, high)
        out.append(_local(rows, k[low:high], v[low:high], (distance >= 0) & (distance < window)))
    return torch.cat(out)


def blocks_gathered(q, k, v, window):
    n = len(q)
    positions = torch.arange(n)[:, None] - torch.arange(window)
    exists = positions >= 0
    near = positions.clamp_min(0)
    scores = torch.einsum("nd,nwd->nw", q, k[near]) / q.shape[-1] ** 0.5
    weights = torch.softmax(scores.masked_fill(~exists, -torch.inf), dim=-1)
    return torch.einsum("nw,nwd->nd", weights, v[near])


def blocks_two_neighbours(q, k, v, window):
    n = len(q)
    pad = -n % window
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, pad)).unflatten(0, (-1, window)) for x in (q, k, v))
    keys, values = (torch.cat([torch.cat([torch.zeros_like(x[:1]), x[:-1]]), x], dim=1) for x in (k, v))
    distance = torch.arange(window, 2 * window)[:, None] - torch.arange(2 * window)
    visible = ((distance >= 0) & (distance < window)).expand(len(q), -1, -1).clone()
    visible[0, :, :window] = False
    scores = (q @ keys.mT / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
    return (torch.softmax(scores, dim=-1) @ values).flatten(0, 1)[:n]


def blocks_apart(q, k, v, window):
    """Each block sees itself alone: what stands before its edge is lost."""
    out = []
    for a, b, c in zip(q.split(window), k.split(window), v.split(window), strict=True):
        out.append(_local(a, b, c, torch.ones(len(a), len(a), dtype=torch.bool).tril()))
    return torch.cat(out)


def blocks_no_lower_edge(q, k, v, window):
    """Whole neighbouring blocks without the band's far edge."""
    out = []
    for first in range(0, len(q), 4):
        high, low = min(first + 4, len(q)), max(first - window + 1, 0)
        distance = torch.arange(first, high)[:, None] - torch.arange(low, high)
        out.append(_local(q[first:high], k[low:high], v[low:high], distance >= 0))
    return torch.cat(out)


def blocks_see_ahead(q, k, v, window):
    out = []
    for first in range(0, len(q), 4):
        high, low = min(first + 4, len(q)), max(first - window + 1, 0)
        distance = torch.arange(first, high)[:, None] - torch.arange(low, high)
        out.append(_local(q[first:high], k[low:high], v[low:high], distance < window))
    return torch.cat(out)


def blocks_drop_the_rest(q, k, v, window):
    whole = max(len(q) // 4 * 4, 1)
    return blocks_sliced(q[:whole], k[:whole], v[:whole], window)


def blocks_no_scale(q, k, v, window):
    return blocks_sliced(q * q.shape[-1] ** 0.5, k, v, window)


def blocks_dense(q, k, v, window):
    return repair_distance(q, k, v, window)


def blocks_only_if_short(q, k, v, window):
    return v if len(q) > 2000 else repair_distance(q, k, v, window)


def blocks_only_if_very_short(q, k, v, window):
    return repair_distance(q, k, v, window) if len(q) < 1000 else blocks_sliced(q, k, v, min(window, 16))


def blocks_one_block_back(q, k, v, window):
    """Each block of 64 reads itself and the one before, however long the window is."""
    out = []
    for first in range(0, len(q), 64):
        low, high = max(first - 64, 0), min(first + 64, len(q))
        distance = torch.arange(first, high)[:, None] - torch.arange(low, high)
        out.append(_local(q[first:high], k[low:high], v[low:high], (distance >= 0) & (distance < window)))
    return torch.cat(out)


def blocks_naive_exponential(q, k, v, window):
    out = []
    for first in range(0, len(q), 64):
        low, high = max(first - window + 1, 0), min(first + 64, len(q))
        distance = torch.arange(first, high)[:, None] - torch.arange(low, high)
        scores = q[first:high] @ k[low:high].T / q.shape[-1] ** 0.5
        out.append(_naive(scores, (distance >= 0) & (distance < window)) @ v[low:high])
    return torch.cat(out)


def blocks_carry_no_gradient(q, k, v, window):
    """The keys of earlier blocks are read as constants."""
    out = []
    for first in range(0, len(q), 64):
        rows = q[first : first + 64]
        low, high = max(first - window + 1, 0), first + len(rows)
        keys, values = (torch.cat([x[low:first].detach(), x[first:high]]) for x in (k, v))
        distance = torch.arange(first, high)[:, None] - torch.arange(low, high)
        out.append(_local(rows, keys, values, (distance >= 0) & (distance < window)))
    return torch.cat(out)


def blocks_detached(q, k, v, window):
    return blocks_sliced(q, k.detach(), v, window)


# sliding_window.ring


def _ring_attend(q, k, v, window):
    return repair_distance(q, k, v, window)


def ring_tail(state, window, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    out = _ring_attend(q, k, v, window)
    return out, (k[-window:], v[-window:])


def ring_slots(state, window, q, k, v):
    if state is None:
        state = {"k": k.new_zeros(window, k.shape[1]), "v": v.new_zeros(window, v.shape[1]), "seen": 0}
        state |= {"at": torch.full((window,), -(10**6))}
    keys, values, at, seen = state["k"].clone(), state["v"].clone(), state["at"].clone(), state["seen"]
    out = []
    for i in range(len(q)):
        slot = seen % window
        keys[slot], values[slot], at[slot] = k[i], v[i], seen
        scores = (keys @ q[i] / q.shape[-1] ** 0.5).masked_fill(at < 0, -torch.inf)
        out.append(torch.softmax(scores, dim=0) @ values)
        seen += 1
    return torch.stack(out), {"k": keys, "v": values, "at": at, "seen": seen}


class Seen(NamedTuple):
    keys: torch.Tensor
    values: torch.Tensor
    count: int


def ring_named(state, window, q, k, v):
    state = Seen(k[:0], v[:0], 0) if state is None else state
    keys, values = torch.cat([state.keys, k]), torch.cat([state.values, v])
    return _ring_attend(q, keys, values, window), Seen(keys[-window:], values[-window:], state.count + len(q))


def ring_in_place(state, window, q, k, v):
    """Slots that are made once and written over, in a dict with integer keys."""
    if state is None:
        state = {0: k.new_zeros(window, k.shape[1]), 1: v.new_zeros(window, v.shape[1]), 2: torch.tensor(0)}
    keys, values, seen = state[0], state[1], state[2]
    before = torch.arange(max(int(seen) - window, 0), int(seen)) % window
    out = _ring_attend(q, torch.cat([keys[before], k]), torch.cat([values[before], v]), window)
    last = torch.arange(max(len(k) - window, 0), len(k))
    keys[(seen + last) % window], values[(seen + last) % window] = k[last], v[last]
    seen += len(q)
    return out, state


def ring_keeps_one_more(state, window, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    return _ring_attend(q, k, v, window), (k[-window - 1 :], v[-window - 1 :])


def ring_of_64(state, window, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    return _ring_attend(q, k, v, window), (k[-64:], v[-64:])


def ring_naive_exponential(state, window, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    return repair_naive_exponential(q, k, v, window), (k[-window:], v[-window:])


def ring_keeps_everything(state, window, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    return _ring_attend(q, k, v, window), (k, v)


def ring_forgets(state, window, q, k, v):
    return _ring_attend(q, k, v, window), (k[-window:], v[-window:])


def ring_loses_one(state, window, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    keep = max(window - 2, 1)
    return _ring_attend(q, k, v, window), (k[-keep:], v[-keep:])


def ring_sees_the_whole_buffer(state, window, q, k, v):
    """No far edge: in a long piece every query sees all that was kept."""
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    return _local(q, k, v, _distance(q, k) >= 0), (k[-window:], v[-window:])


def ring_keeps_the_first(state, window, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    return _ring_attend(q, k, v, window), (k[:window], v[:window])


def ring_cuts_before_reading(state, window, q, k, v):
    """The piece is written into the ring before its own early queries have read what it overwrites."""
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    k, v = k[-max(window, len(q)) :], v[-max(window, len(q)) :]
    return _ring_attend(q, k, v, window), (k[-window:], v[-window:])


def ring_output_alone(state, window, q, k, v):
    return ring_tail(state, window, q, k, v)[0]


BANK = {
    "sliding_window.cost": Bank(
        right=[cost_formula, cost_counted],
        wrong=[
            Wrong(cost_full_windows, says="fewer keys before them"),
            Wrong(cost_undilated, says="without the dilation"),
            Wrong(cost_causal, says="the pairs of causal attention"),
            Wrong(cost_longer_than_the_text, says="the window is longer than the text"),
            Wrong(cost_blind, says="the number of pairs of one layer is wrong"),
            Wrong(cost_not_itself, says="the position itself is heard too"),
            Wrong(cost_whole_windows, says="given its own position once more"),
            Wrong(cost_one_layer, says="what one layer hears"),
            Wrong(cost_power, says="both ends counted, is wrong"),
            Wrong(cost_whole_steps, says="the window is longer than the text; the pairs"),
            Wrong(cost_dilation_once, says="both ends counted, is wrong (the text"),
        ],
    ),
    "sliding_window.band": Bank(
        right=[band_by_distance, band_by_loop],
        wrong=[
            Wrong(band_one_more, says="the query at position 3 sees key 0, and should not"),
            Wrong(band_one_less, says="the query at position 2 does not see key 0"),
            Wrong(band_not_itself, says="a plain window: the query at position 0 does not see its own key"),
            Wrong(band_from_the_start, says="positions: the query at position"),
            Wrong(band_both_ways, says="its future"),
            Wrong(band_no_dilation, says="with a dilation: the query at position 1 sees key 0"),
            Wrong(band_gaps, says="the query at position 4 sees key 0"),
            Wrong(band_no_sinks, says="with sinks: the query"),
            Wrong(band_sinks_of_the_future, says="with sinks: the query at position 0 sees key 1, its future"),
            Wrong(band_floats, says="True says visible"),
            Wrong(band_sinks_by_row, says="does not see key 1, and should"),
            Wrong(band_dilated_sinks, says="the query at position 1 does not see key 0, and should"),
            Wrong(band_dilation_by_row, says="sinks 0: the query at position"),
            Wrong(band_window_holds_sinks, says="with sinks: the query at position"),
        ],
    ),
    "sliding_window.repair": Bank(
        right=[repair_distance, repair_triangles, repair_lowest_fill],
        wrong=[
            Wrong(repair_as_given, says="the query at position 3 sees key 0"),
            Wrong(repair_edge_only, says="the query at position 5 sees key 0"),
            Wrong(repair_too_far, says="does not see key 0, and should"),
            Wrong(repair_not_itself, says="NaN: it sees no key"),
            Wrong(repair_both_ways, says="its future"),
            Wrong(repair_unscaled, says="is not local attention"),
            Wrong(repair_masked_after, says="not normalised over the keys"),
            Wrong(repair_renormalised, says="with keys that stand far above others"),
            Wrong(repair_naive_exponential, says="with scores far from 0, the output holds NaN"),
            Wrong(repair_clamped, says="with scores far from 0, the output is not local attention"),
            Wrong(repair_small_fill, says="scores far from 0, the output is not local attention"),
            Wrong(repair_large_fill, says="far from 0, the output is not local attention"),
        ],
    ),
    "sliding_window.blocks": Bank(
        right=[blocks_sliced, blocks_gathered, blocks_two_neighbours],
        wrong=[
            Wrong(blocks_apart, says="the query at position 4 does not see key"),
            Wrong(blocks_no_lower_edge, says="and should not"),
            Wrong(blocks_see_ahead, says="its future"),
            Wrong(blocks_drop_the_rest, says="the output for one-hot values has shape"),
            Wrong(blocks_no_scale, says="is not local attention"),
            Wrong(blocks_dense, says="is too large to form"),
            Wrong(blocks_detached, says="the gradient with respect to k is wrong"),
            Wrong(blocks_only_if_short, says="with long inputs"),
            Wrong(blocks_only_if_very_short, says="tokens: the output is not local attention"),
            Wrong(blocks_one_block_back, says="the query at position 128 does not see key"),
            Wrong(blocks_naive_exponential, says="with scores far from 0"),
            Wrong(blocks_carry_no_gradient, says="the gradient with respect to k is wrong though"),
        ],
    ),
    "sliding_window.ring": Bank(
        right=[ring_tail, ring_slots, ring_named, ring_in_place],
        wrong=[
            Wrong(ring_keeps_everything, says="the others no later query can see"),
            Wrong(ring_forgets, says="the query at position 1 does not see key 0"),
            Wrong(ring_loses_one, says="the query at position 2 does not see key 0"),
            Wrong(ring_sees_the_whole_buffer, says="pieces of 13: the query at position 3 sees key 0"),
            Wrong(ring_keeps_the_first, says="the query at position 4 sees key 1"),
            Wrong(ring_cuts_before_reading, says="pieces of 4, 1, 1, 5, 2: the query at position 6 does not see"),
            Wrong(ring_output_alone, says="return two things"),
            Wrong(ring_keeps_one_more, says="; the others no later query can see"),
            Wrong(ring_of_64, says="keys and values; the others no later query can see"),
            Wrong(ring_naive_exponential, says="the output of a piece holds NaN"),
        ],
        stateful=True,
    ),
}
