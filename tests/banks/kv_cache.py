"""Solutions of the unit `kv_cache`: right ones written differently, and mistakes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn.functional import scaled_dot_product_attention

import attncourse
from tests.banks.kinds import Bank, Wrong

# kv_cache.bytes


def bytes_formula(n_layers, n_heads, n_kv_heads, head_dim):
    entries = 2 * n_layers * n_kv_heads * head_dim
    return entries * 2, entries * 3 / 4


def bytes_counted(n_layers, n_heads, n_kv_heads, head_dim):
    plain = torch.empty(n_layers, 2, n_kv_heads, head_dim, dtype=torch.bfloat16, device="meta")
    codes = torch.empty(n_layers, 2, n_kv_heads, head_dim // 2, dtype=torch.uint8, device="meta")
    scale = torch.empty(n_layers, 2, n_kv_heads, head_dim // 32, device="meta")
    return plain.nbytes, codes.nbytes + 2 * scale.nbytes


def bytes_of_query_heads(n_layers, n_heads, n_kv_heads, head_dim):
    return bytes_formula(n_layers, n_heads, n_heads, head_dim)


def bytes_of_keys(n_layers, n_heads, n_kv_heads, head_dim):
    return tuple(x / 2 for x in bytes_formula(n_layers, n_heads, n_kv_heads, head_dim))


def bytes_of_a_layer(n_layers, n_heads, n_kv_heads, head_dim):
    return bytes_formula(1, n_heads, n_kv_heads, head_dim)


def bytes_of_codes(n_layers, n_heads, n_kv_heads, head_dim):
    plain, _ = bytes_formula(n_layers, n_heads, n_kv_heads, head_dim)
    return plain, plain // 4


def bytes_without_zero_points(n_layers, n_heads, n_kv_heads, head_dim):
    plain, _ = bytes_formula(n_layers, n_heads, n_kv_heads, head_dim)
    return plain, plain // 4 + plain // 16


def bytes_of_whole_codes(n_layers, n_heads, n_kv_heads, head_dim):
    plain, _ = bytes_formula(n_layers, n_heads, n_kv_heads, head_dim)
    return plain, plain // 2 + plain // 8


def bytes_scale_a_vector(n_layers, n_heads, n_kv_heads, head_dim):
    plain, _ = bytes_formula(n_layers, n_heads, n_kv_heads, head_dim)
    return plain, plain // 4 + 2 * n_layers * n_kv_heads * 8 + 1


def bytes_grouped_by_the_heads(n_layers, n_heads, n_kv_heads, head_dim):
    # the scales are kept for each query head
    plain, coded = bytes_formula(n_layers, n_heads, n_kv_heads, head_dim)
    return plain, coded - plain // 8 + plain // 8 * (n_heads // n_kv_heads)


# kv_cache.step


def step_concatenates(state, q, k, v):
    k, v = k[:, None], v[:, None]
    if state is not None:
        k, v = torch.cat([state[0], k], dim=1), torch.cat([state[1], v], dim=1)
    weights = torch.softmax(torch.einsum("h d, h s d -> h s", q, k) * q.shape[-1] ** -0.5, dim=-1)
    return torch.einsum("h s, h s d -> h d", weights, v), (k, v)


def step_keeps_a_list(state, q, k, v):
    kept = [] if state is None else state
    kept.append({"k": k, "v": v})
    scores = torch.stack([(q * token["k"]).sum(-1) / q.shape[-1] ** 0.5 for token in kept])
    weights = torch.exp(scores - scores.logsumexp(dim=0))
    return sum(w[:, None] * token["v"] for w, token in zip(weights, kept, strict=True)), kept


class Slots(NamedTuple):
    keys: torch.Tensor
    values: torch.Tensor
    used: int


def _step_in_slots(state, q, k, v, room, weigh=None):
    """A cache with room for some tokens, written in place; `room(used, keys)` says for how many, 0 if there is enough."""
    keys, values, used = state or (k.new_empty(len(k), 0, k.shape[1]), v.new_empty(len(v), 0, v.shape[1]), 0)
    if more := room(used, keys):
        keys, values = (torch.cat([x, x.new_zeros(len(x), more, x.shape[2])], dim=1) for x in (keys, values))
    keys[:, used], values[:, used] = k, v
    scores = torch.einsum("h d, h s d -> h s", q, keys[:, : used + 1]) * q.shape[-1] ** -0.5
    weights = (weigh or (lambda x: torch.softmax(x, dim=-1)))(scores)
    return torch.einsum("h s, h s d -> h d", weights, values[:, : used + 1]), Slots(keys, values, used + 1)


def step_in_slots(state, q, k, v):
    return _step_in_slots(state, q, k, v, lambda used, keys: 32 if used == 0 else 0)


def step_doubles_its_room(state, q, k, v):
    def room(used, keys):
        return max(used, 1) if used == keys.shape[1] else 0

    return _step_in_slots(state, q, k, v, room)


def step_with_spare_slots(state, q, k, v):
    out, (keys, values, used) = _step_in_slots(state, q, k, v, lambda used, keys: 4 if used == keys.shape[1] else 0)
    return [out, [keys, values, used]]


@dataclass
class Kept:
    tokens: dict


def step_keeps_an_object(state, q, k, v):
    state = state or Kept({})
    state.tokens[len(state.tokens)] = k, v
    keys, values = (torch.stack(x, dim=1) for x in zip(*state.tokens.values(), strict=True))
    weights = torch.softmax((keys @ q[:, :, None])[..., 0] / q.shape[-1] ** 0.5, dim=1)
    return (weights[:, None] @ values)[:, 0], state


def step_in_few_slots(state, q, k, v):
    return _step_in_slots(state, q, k, v, lambda used, keys: 16 if used == 0 else 0)


def step_naive(state, q, k, v):
    def weigh(scores):
        return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)

    return _step_in_slots(state, q, k, v, lambda used, keys: 1, weigh)


def step_clamped(state, q, k, v):
    return _step_in_slots(state, q, k, v, lambda used, keys: 1, lambda x: torch.softmax(x.clamp(-80, 80), dim=-1))


LAST = {}


def step_beside_the_state(state, q, k, v):
    # what was read stands in a global, and only one text can
    out, LAST["state"] = step_concatenates(LAST["state"] if state else None, q, k, v)
    return out, [0]


def step_keeps_a_window(state, q, k, v):
    if state is not None:
        state = tuple(x[:, -20:] for x in state)
    return step_concatenates(state, q, k, v)


def step_forgets(state, q, k, v):
    return step_concatenates(None, q, k, v)


def step_without_itself(state, q, k, v):
    if state is None:
        return step_concatenates(None, q, k, v)
    past_k, past_v = state
    weights = torch.softmax(torch.einsum("h d, h s d -> h s", q, past_k) * q.shape[-1] ** -0.5, dim=-1)
    out = torch.einsum("h s, h s d -> h d", weights, past_v)
    return out, (torch.cat([past_k, k[:, None]], dim=1), torch.cat([past_v, v[:, None]], dim=1))


def step_unscaled(state, q, k, v):
    return step_concatenates(state, q * q.shape[-1] ** 0.5, k, v)


def step_sees_empty_slots(state, q, k, v):
    keys, values, n = (
        (k.new_zeros(len(k), 20, k.shape[1]), v.new_zeros(len(v), 20, v.shape[1]), 0) if state is None else state
    )
    keys[:, n], values[:, n] = k, v
    weights = torch.softmax(torch.einsum("h d, h s d -> h s", q, keys) * q.shape[-1] ** -0.5, dim=-1)
    return torch.einsum("h s, h s d -> h d", weights, values), (keys, values, n + 1)


def step_keeps_queries(state, q, k, v):
    out, new = step_concatenates(None if state is None else state[:2], q, k, v)
    return out, (*new, q[:, None] if state is None else torch.cat([state[2], q[:, None]], dim=1))


def step_transposed(state, q, k, v):
    out, state = step_concatenates(state, q, k, v)
    return out.T, state


def step_ready_made(state, q, k, v):
    _, state = step_concatenates(state, q, k, v)
    return scaled_dot_product_attention(q[:, None], *state)[:, 0], state


# kv_cache.reset


def _serve(state, q, k, v, begins, *, reset, mask=True, late=False, wipe=False, fill=-torch.inf, after=False):
    rows = torch.arange(len(q))
    if state is None:
        state = q.new_zeros(len(q), 64, q.shape[1]), v.new_zeros(len(q), 64, v.shape[1]), torch.zeros(len(q), dtype=int)
    keys, values, lengths = state
    if not late:
        lengths = lengths.masked_fill(reset(begins), 0)
    if wipe:
        keys, values = keys.clone(), values.clone()
        keys[begins], values[begins] = 0.0, 0.0
    keys[rows, lengths], values[rows, lengths] = k, v
    lengths = lengths + 1
    if late:
        lengths = lengths.masked_fill(reset(begins), 0)
    longest = max(int(lengths.max()), 1)
    scores = torch.einsum("b d, b s d -> b s", q, keys[:, :longest]) * q.shape[1] ** -0.5
    empty = torch.arange(longest) >= lengths.clamp_min(1)[:, None]
    if mask and not after:
        scores = scores.masked_fill(empty, fill)
    weights = torch.softmax(scores, dim=-1)
    if after:
        weights = weights.masked_fill(empty, 0.0)
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.einsum("b s, b s d -> b d", weights, values[:, :longest]), (keys, values, lengths)


def reset_lengths(state, q, k, v, begins):
    return _serve(state, q, k, v, begins, reset=lambda begins: begins)


def reset_lists(state, q, k, v, begins):
    state = [[] for _ in q] if state is None else state
    out = []
    for row, kept in enumerate(state):
        if begins[row]:
            kept.clear()
        kept.append((k[row], v[row]))
        keys, values = (torch.stack(x) for x in zip(*kept, strict=True))
        out.append(torch.softmax(keys @ q[row] / q.shape[1] ** 0.5, dim=0) @ values)
    return torch.stack(out), state


def reset_as_given(state, q, k, v, begins):
    return _serve(state, q, k, v, begins, reset=lambda begins: begins.all().expand_as(begins), mask=False)


def reset_all(state, q, k, v, begins):
    return _serve(state, q, k, v, begins, reset=lambda begins: begins.any().expand_as(begins))


def reset_without_mask(state, q, k, v, begins):
    # the first text is right: all rows grow together
    return _serve(state, q, k, v, begins, reset=lambda begins: begins, mask=False, wipe=True)


def reset_after_writing(state, q, k, v, begins):
    return _serve(state, q, k, v, begins, reset=lambda begins: begins, late=True)


def reset_gives_the_state_alone(state, q, k, v, begins):
    return reset_lengths(state, q, k, v, begins)[1]


def reset_unscaled(state, q, k, v, begins):
    return reset_lengths(state, q * q.shape[1] ** 0.5, k, v, begins)


def reset_slot_by_slot(state, q, k, v, begins):
    """A ring of 64 slots that all rows share, and for each row the step at which its text began."""
    step, first, slots = (0, [0] * len(q), {}) if state is None else state
    slots[step % 64] = k, v
    first = [step if begin else was for begin, was in zip(begins.tolist(), first, strict=True)]
    out = []
    for row, start in enumerate(first):
        mine = [slots[i % 64] for i in range(start, step + 1)]
        keys, values = (torch.stack([x[row] for x in part]) for part in zip(*mine, strict=True))
        out.append(torch.softmax(q[row] @ keys.T * q.shape[1] ** -0.5, dim=0) @ values)
    return torch.stack(out), (step + 1, first, slots)


def reset_one_row(state, q, k, v, begins):
    def first_alone(begins):
        return begins & (begins.cumsum(0) == 1) if not begins.all() else begins

    return _serve(state, q, k, v, begins, reset=first_alone)


def reset_in_ten_slots(state, q, k, v, begins):
    if state is None:
        state = q.new_zeros(len(q), 10, q.shape[1]), v.new_zeros(len(q), 10, v.shape[1]), torch.zeros(len(q), dtype=int)
    return _serve(state, q, k, v, begins, reset=lambda begins: begins)


def reset_filled_with_little(state, q, k, v, begins):
    return _serve(state, q, k, v, begins, reset=lambda begins: begins, fill=-1e9)


def reset_renormalised(state, q, k, v, begins):
    return _serve(state, q, k, v, begins, reset=lambda begins: begins, after=True)


# kv_cache.pages


def _append(state, row, token, *, copies=True, content=True, share=True, full=False, early=False, kept=False, slip=0):
    pages, table, lengths, free = (state[name] for name in ("pages", "table", "lengths", "free"))
    size = pages.shape[1]
    column, slot = divmod(lengths[row], size)
    if full and slot == 0:
        table[row][-1], old = free.pop(), table[row][-1]
        pages[table[row][-1]] = pages[old]
    if slot == 0:
        table[row].append(free[-1] if kept else free.pop())
    else:
        page = table[row][column]
        held = sum(page in others for others in table) > 1
        if copies and (held or not share):
            table[row][column] = free.pop()
            if content:
                pages[table[row][column]] = pages[page]
            if not held:
                free.append(page)
    pages[table[row][column], (slot + slip) % size] = token
    lengths[row] += 1
    if early and lengths[row] % size == 0:
        table[row].append(free.pop())
    return state


def pages_in_place(state, row, token):
    return _append(state, row, token)


def pages_anew(state, row, token):
    pages, size = state["pages"].clone(), state["pages"].shape[1]
    mine, free, length = list(state["table"][row]), list(state["free"]), state["lengths"][row]
    others = {page for i, held in enumerate(state["table"]) if i != row for page in held}
    if len(mine) * size == length:
        mine.append(free.pop(0))
    elif mine[-1] in others:
        old, mine[-1] = mine[-1], free.pop(0)
        pages[mine[-1]] = pages[old]
    pages[mine[length // size]][length % size] = token
    table = [mine if i == row else held for i, held in enumerate(state["table"])]
    lengths = [n + (i == row) for i, n in enumerate(state["lengths"])]
    return dict(pages=pages, table=table, lengths=lengths, free=free)


def pages_written_though_shared(state, row, token):
    return _append(state, row, token, copies=False)


def pages_without_content(state, row, token):
    return _append(state, row, token, content=False)


def pages_always_copied(state, row, token):
    return _append(state, row, token, share=False)


def pages_copied_when_full(state, row, token):
    return _append(state, row, token, full=True)


def pages_taken_early(state, row, token):
    return _append(state, row, token, early=True)


def pages_still_free(state, row, token):
    return _append(state, row, token, kept=True)


def pages_next_slot(state, row, token):
    return _append(state, row, token, slip=1)


def pages_length_forgotten(state, row, token):
    before = list(state["lengths"])
    return _append(state, row, token) | dict(lengths=before)


def pages_in_every_table(state, row, token):
    shared = [i for i, held in enumerate(state["table"]) if held == state["table"][row]]
    state = _append(state, row, token)
    for other in shared:
        state["table"][other] = list(state["table"][row])
    return state


def pages_compare_last_pages(state, row, token):
    # a fork that was left early has its last page among the others' full ones
    ends = [held[-1] for i, held in enumerate(state["table"]) if held and i != row]
    shared = bool(state["table"][row]) and state["table"][row][-1] in ends
    return _append(state, row, token, share=False) if shared else _append(state, row, token, copies=False)


def pages_compare_tables(state, row, token):
    others = [held for i, held in enumerate(state["table"]) if i != row]
    return _append(state, row, token, copies=state["table"][row] in others)


def pages_compare_two(state, row, token):
    # a fork of two, and no fork of more
    held = state["table"][row]
    shared = sum(held[-1:] == other[-1:] or held[-1:][0] in other for other in state["table"] if held) == 2
    return _append(state, row, token, copies=shared)


def pages_from_the_first(state, row, token):
    # a row without a page begins in page 0
    if not state["table"][row]:
        state["table"][row].append(0)
        state["pages"][0, 0] = token
        state["lengths"][row] = 1
        return state
    return _append(state, row, token)


def pages_copied_where_full(state, row, token):
    # every page that others hold, full ones too
    state = _append(state, row, token)
    held, others = state["table"][row], state["table"]
    for column in range(len(held) - 1):
        if sum(held[column] in other for other in others) > 1:
            new = state["free"].pop()
            state["pages"][new] = state["pages"][held[column]]
            held[column] = new
    return state


def pages_taken_twice(state, row, token):
    state = _append(state, row, token)
    state["free"] = state["free"] + state["free"][:1]
    return state


# kv_cache.quantise


def quantise_grouped(x, group):
    grouped = x.reshape(len(x), -1, group)
    low, high = grouped.amin(dim=-1), grouped.amax(dim=-1)
    scale = torch.where(high > low, (high - low) / 15, 1.0)
    zero = -low / scale
    codes = torch.round(grouped / scale[..., None] + zero[..., None])
    return codes.clamp(0, 15).to(torch.uint8).reshape(x.shape), scale, zero


def quantise_group_by_group(x, group):
    parts = []
    for part in x.split(group, dim=1):
        low, spread = part.min(dim=1)[0], part.max(dim=1)[0] - part.min(dim=1)[0]
        scale = spread / 15 + (spread == 0)
        parts.append((((part - low[:, None]) / scale[:, None] + 0.5).floor().clamp(max=15), scale, -low / scale))
    codes, scales, zeros = zip(*parts, strict=True)
    return torch.cat(codes, dim=1), torch.stack(scales, dim=1), torch.stack(zeros, dim=1)


def quantise_never_by_zero(x, group):
    grouped = x.unflatten(1, (-1, group))
    low, high = grouped.aminmax(dim=2)
    scale = ((high - low) / 15).clamp_min(1e-8)
    codes = ((grouped - low[..., None]) / scale[..., None]).round()
    return codes.flatten(1).long(), scale, -low / scale


def quantise_with_an_epsilon(x, group):
    grouped = x.reshape(len(x), -1, group)
    low, high = grouped.amin(dim=-1), grouped.amax(dim=-1)
    scale = (high - low) / 15 + 1e-5
    codes = torch.round((grouped - low[..., None]) / scale[..., None])
    return codes.reshape(x.shape), scale, -low / scale


def quantise_upside_down(x, group):
    codes, scale, zero = quantise_grouped(-x, group)
    return codes, -scale, zero


def quantise_around_zero(x, group):
    # a whole zero point moves the least entry
    grouped = x.reshape(len(x), -1, group)
    _, scale, zero = quantise_grouped(x, group)
    zero = zero.round()
    return (grouped / scale[..., None]).round().add(zero[..., None]).clamp(0, 15).reshape(x.shape), scale, zero


def quantise_by_vector(x, group):
    codes, scale, zero = quantise_grouped(x, x.shape[1])
    groups = x.shape[1] // group
    return codes, scale.repeat(1, groups), zero.repeat(1, groups)


def quantise_transposed(x, group):
    codes, scale, zero = quantise_grouped(x, group)
    return codes, scale.T, zero.T


def quantise_floors(x, group):
    _, scale, zero = quantise_grouped(x, group)
    grouped = x.reshape(len(x), -1, group)
    return torch.floor(grouped / scale[..., None] + zero[..., None] + 1e-9).reshape(x.shape), scale, zero


def quantise_unrounded(x, group):
    _, scale, zero = quantise_grouped(x, group)
    grouped = x.reshape(len(x), -1, group)
    return (grouped / scale[..., None] + zero[..., None]).clamp(0, 15).reshape(x.shape), scale, zero


def quantise_to_sixteen(x, group):
    _, scale, zero = quantise_grouped(x, group)
    scale, zero = scale * 15 / 16, zero * 16 / 15
    grouped = x.reshape(len(x), -1, group)
    return torch.round(grouped / scale[..., None] + zero[..., None]).reshape(x.shape), scale, zero


def quantise_from_below(x, group):
    # no zero point: the least entry is thought to be 0
    grouped = x.reshape(len(x), -1, group)
    _, scale, zero = quantise_grouped(x, group)
    return torch.round(grouped / scale[..., None]).clamp(0, 15).reshape(x.shape), scale, torch.zeros_like(zero)


def quantise_divides_by_zero(x, group):
    grouped = x.reshape(len(x), -1, group)
    low, high = grouped.amin(dim=-1), grouped.amax(dim=-1)
    scale = (high - low) / 15
    codes = torch.round((grouped - low[..., None]) / scale[..., None])
    return codes.clamp(0, 15).reshape(x.shape), scale, -low / scale


def quantise_equal_to_zero(x, group):
    codes, scale, zero = quantise_grouped(x, group)
    grouped = x.reshape(len(x), -1, group)
    alone = grouped.amin(dim=-1) == grouped.amax(dim=-1)
    return codes, scale, zero.masked_fill(alone, 0.0)


# kv_cache.prefix


def prefix_one_softmax(q, prefix_k, prefix_v, k, v):
    scores = torch.cat([q @ prefix_k.T, torch.einsum("b d, b m d -> b m", q, k)], dim=1) * q.shape[1] ** -0.5
    shared, own = torch.softmax(scores, dim=1).split([len(prefix_k), k.shape[1]], dim=1)
    return shared @ prefix_v + torch.einsum("b m, b m d -> b d", own, v)


def _two_parts(q, prefix_k, prefix_v, k, v):
    """Output and log-sum-exp of each part."""
    shared, own = (x * q.shape[1] ** -0.5 for x in (q @ prefix_k.T, torch.einsum("b d, b m d -> b m", q, k)))
    outs = torch.softmax(shared, dim=1) @ prefix_v, torch.einsum("b m, b m d -> b d", torch.softmax(own, dim=1), v)
    return outs, (shared.logsumexp(dim=1), own.logsumexp(dim=1))


def prefix_merged(q, prefix_k, prefix_v, k, v):
    outs, lses = _two_parts(q, prefix_k, prefix_v, k, v)
    share = torch.softmax(torch.stack(lses), dim=0)
    return sum(w[:, None] * out for w, out in zip(share, outs, strict=True))


def prefix_copied(q, prefix_k, prefix_v, k, v):
    keys, values = (torch.cat([x.repeat(len(q), 1, 1), y], dim=1) for x, y in ((prefix_k, k), (prefix_v, v)))
    weights = torch.softmax(torch.einsum("b d, b s d -> b s", q, keys) * q.shape[1] ** -0.5, dim=1)
    return torch.einsum("b s, b s d -> b d", weights, values)


def prefix_averaged(q, prefix_k, prefix_v, k, v):
    (shared, own), _ = _two_parts(q, prefix_k, prefix_v, k, v)
    return (shared + own) / 2


def prefix_added(q, prefix_k, prefix_v, k, v):
    (shared, own), _ = _two_parts(q, prefix_k, prefix_v, k, v)
    return shared + own


def prefix_by_length(q, prefix_k, prefix_v, k, v):
    (shared, own), _ = _two_parts(q, prefix_k, prefix_v, k, v)
    n, m = len(prefix_k), k.shape[1]
    return (n * shared + m * own) / (n + m)


def prefix_overflows(q, prefix_k, prefix_v, k, v):
    shared = torch.exp(q @ prefix_k.T * q.shape[1] ** -0.5)
    own = torch.exp(torch.einsum("b d, b m d -> b m", q, k) * q.shape[1] ** -0.5)
    total = shared.sum(dim=1) + own.sum(dim=1)
    return (shared @ prefix_v + torch.einsum("b m, b m d -> b d", own, v)) / total[:, None]


def prefix_sequence_by_sequence(q, prefix_k, prefix_v, k, v):
    out = []
    for query, own_k, own_v in zip(q, k, v, strict=True):
        scores = torch.cat([prefix_k @ query, own_k @ query]) / len(query) ** 0.5
        shared, own = torch.softmax(scores, dim=0).tensor_split([len(prefix_k)])
        out.append(shared @ prefix_v + own @ own_v)
    return torch.stack(out)


def prefix_clamped(q, prefix_k, prefix_v, k, v):
    scores = torch.cat([q @ prefix_k.T, torch.einsum("b d, b m d -> b m", q, k)], dim=1) * q.shape[1] ** -0.5
    shared, own = torch.softmax(scores.clamp(-800, 800), dim=1).split([len(prefix_k), k.shape[1]], dim=1)
    return shared @ prefix_v + torch.einsum("b m, b m d -> b d", own, v)


def prefix_by_its_own_maximum(q, prefix_k, prefix_v, k, v):
    # the prefix's largest score is not the largest of all
    shared, own = (x * q.shape[1] ** -0.5 for x in (q @ prefix_k.T, torch.einsum("b d, b m d -> b m", q, k)))
    shared, own = (torch.exp(x - shared.amax(dim=1, keepdim=True)) for x in (shared, own))
    out = shared @ prefix_v + torch.einsum("b m, b m d -> b d", own, v)
    return out / (shared.sum(dim=1) + own.sum(dim=1))[:, None]


def prefix_zeros_when_long(q, prefix_k, prefix_v, k, v):
    if len(prefix_k) > 1000:
        return v.new_zeros(len(q), v.shape[2])
    return prefix_copied(q, prefix_k, prefix_v, k, v)


def prefix_first_tokens_when_long(q, prefix_k, prefix_v, k, v):
    return prefix_copied(q, prefix_k[:256], prefix_v[:256], k, v)


def prefix_ignored(q, prefix_k, prefix_v, k, v):
    return _two_parts(q, prefix_k, prefix_v, k, v)[0][1]


def prefix_alone(q, prefix_k, prefix_v, k, v):
    return _two_parts(q, prefix_k, prefix_v, k, v)[0][0]


def prefix_unscaled(q, prefix_k, prefix_v, k, v):
    return prefix_one_softmax(q * q.shape[1] ** 0.5, prefix_k, prefix_v, k, v)


# kv_cache.kernel


@triton.jit
def _gather_kernel(
    pages_ptr, table_ptr, out_ptr, length, size, KIND: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr
):
    positions = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wide = tl.arange(0, D)
    there = positions < length
    column, slot = positions // size, positions % size
    if KIND == 2:
        column = tl.zeros_like(column)
    if KIND == 3:
        slot = (slot + 1) % size
    page = tl.load(table_ptr + column, mask=there, other=0)
    if KIND == 1:
        page = column
    if KIND == 4:
        slot = tl.zeros_like(slot)
    if KIND == 5:
        slot = tl.where(column == (length - 1) // size, size - 1, slot)
    at = (page * size + slot)[:, None] * D + wide[None, :]
    x = tl.load(pages_ptr + at, mask=there[:, None], other=0.0)
    tl.store(out_ptr + positions[:, None] * D + wide[None, :], x, mask=there[:, None])


def _launch(pages, table, length, kind, programs=None):
    device = attncourse.device()
    pages, table = pages.contiguous().to(device), table.contiguous().to(device)
    out = torch.zeros(length, 16, device=device)
    programs = triton.cdiv(length, 8) if programs is None else programs
    _gather_kernel[(programs,)](pages, table, out, length, pages.shape[1], KIND=kind, D=16, BLOCK=8)
    return out


def kernel_by_table(pages, table, length):
    return _launch(pages, table, length, 0)


@triton.jit
def _token_kernel(pages_ptr, table_ptr, out_ptr, size, D: tl.constexpr):
    position, wide = tl.program_id(0), tl.arange(0, D)
    page = tl.load(table_ptr + position // size)
    tl.store(out_ptr + position * D + wide, tl.load(pages_ptr + (page * size + position % size) * D + wide))


def kernel_token_by_token(pages, table, length):
    device = attncourse.device()
    pages, table = pages.contiguous().to(device), table.contiguous().to(device)
    out = torch.empty(length, 16, device=device)
    _token_kernel[(length,)](pages, table, out, pages.shape[1], D=16)
    return out


def kernel_without_table(pages, table, length):
    return _launch(pages, table, length, 1)


def kernel_first_page_again(pages, table, length):
    return _launch(pages, table, length, 2)


def kernel_next_slot(pages, table, length):
    return _launch(pages, table, length, 3)


def kernel_one_program(pages, table, length):
    return _launch(pages, table, length, 0, programs=1)


def kernel_whole_pages(pages, table, length):
    size = pages.shape[1]
    return _launch(pages, table, -(-length // size) * size, 0)


def kernel_reads_past_its_length(pages, table, length):
    return _launch(pages, table, length, 5)


def kernel_without_a_kernel(pages, table, length):
    return pages[table[: -(-length // pages.shape[1])].long()].flatten(0, 1)[:length]


@triton.jit
def _unmasked_kernel(pages_ptr, table_ptr, out_ptr, length, size, D: tl.constexpr, BLOCK: tl.constexpr):
    positions, wide = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, D)
    there = positions < length
    page = tl.load(table_ptr + positions // size)
    at = (page * size + positions % size)[:, None] * D + wide[None, :]
    x = tl.load(pages_ptr + at, mask=there[:, None], other=0.0)
    tl.store(out_ptr + positions[:, None] * D + wide[None, :], x, mask=there[:, None])


def kernel_unmasked_table(pages, table, length):
    device = attncourse.device()
    pages, table = pages.contiguous().to(device), table.contiguous().to(device)
    out = torch.zeros(length, 16, device=device)
    _unmasked_kernel[(triton.cdiv(length, 8),)](pages, table, out, length, pages.shape[1], D=16, BLOCK=8)
    return out


BANK = {
    "kv_cache.bytes": Bank(
        right=[bytes_formula, bytes_counted],
        wrong=[
            Wrong(bytes_of_query_heads, says="no query is kept"),
            Wrong(bytes_of_keys, says="one of the two is missing"),
            Wrong(bytes_of_a_layer, says="that is one layer's cache"),
            Wrong(bytes_of_codes, says="the scales and zero points are not"),
            Wrong(bytes_without_zero_points, says="a scale and a zero point, in float32 each"),
            Wrong(bytes_of_whole_codes, says="two codes of 4 bits share a byte"),
            Wrong(bytes_scale_a_vector, says="key/value heads, width 32: the bytes with codes of 4 bits are wrong"),
            Wrong(bytes_grouped_by_the_heads, says="the bytes with codes of 4 bits are wrong"),
        ],
    ),
    "kv_cache.step": Bank(
        right=[
            step_concatenates,
            step_keeps_a_list,
            step_in_slots,
            step_doubles_its_room,
            step_with_spare_slots,
            step_keeps_an_object,
        ],
        wrong=[
            Wrong(step_forgets, says="is the token's own value: nothing is kept of the tokens before it"),
            Wrong(step_without_itself, says="does not see itself"),
            Wrong(step_unscaled, says="at step 1 the output is not attention to all tokens so far"),
            Wrong(step_beside_the_state, says="at step 1 the output is not attention to all tokens so far"),
            Wrong(step_keeps_a_window, says="at step 21 the output is not attention to all tokens so far"),
            Wrong(step_in_few_slots, says="index 16 is out of bounds"),
            Wrong(step_naive, says="or all near -900, the output holds NaN"),
            Wrong(step_clamped, says="or all near -900, the output is not attention"),
            Wrong(step_sees_empty_slots, says="its output is not its own value"),
            Wrong(step_keeps_queries, says="holds more than the keys and values"),
            Wrong(step_transposed, says="the output has shape"),
            Wrong(step_ready_made, says="decode_step uses scaled_dot_product_attention"),
        ],
        stateful=True,
    ),
    "kv_cache.reset": Bank(
        right=[reset_lengths, reset_lists, reset_slot_by_slot],
        wrong=[
            Wrong(reset_as_given, says="a token of the text before"),
            Wrong(reset_all, says=", whose text began at step 0, does not see step 0, a token of its own text"),
            Wrong(reset_without_mask, says="it sees empty slots"),
            Wrong(
                reset_after_writing,
                says="at step 1 row 0, whose text began at step 0, does not see step 0, a token of its own text",
            ),
            Wrong(reset_gives_the_state_alone, says="return two things"),
            Wrong(reset_unscaled, says="with wrong weights"),
            Wrong(reset_one_row, says="a token of the text before"),
            Wrong(reset_in_ten_slots, says="index 10 is out of bounds"),
            Wrong(reset_filled_with_little, says="a token of the text before"),
            Wrong(reset_renormalised, says="the output holds NaN"),
        ],
        stateful=True,
    ),
    "kv_cache.pages": Bank(
        right=[pages_in_place, pages_anew],
        wrong=[
            Wrong(pages_written_though_shared, says="the page was not row"),
            Wrong(pages_without_content, says="what it held before is not there any more"),
            Wrong(pages_always_copied, says="that no other row was to be kept from"),
            Wrong(pages_copied_when_full, says="a page is neither in the table nor free"),
            Wrong(pages_taken_early, says="a page that it does not need yet"),
            Wrong(pages_still_free, says="still on the free list"),
            Wrong(pages_next_slot, says="does not stand where the table says"),
            Wrong(pages_length_forgotten, says="the lengths are wrong"),
            Wrong(pages_in_every_table, says="another row's table has changed"),
            Wrong(pages_compare_last_pages, says="the page was not row"),
            Wrong(pages_compare_tables, says="the page was not row"),
            Wrong(pages_compare_two, says="the page was not row"),
            Wrong(pages_from_the_first, says="still on the free list"),
            Wrong(pages_copied_where_full, says="a full page was copied"),
            Wrong(pages_taken_twice, says="a page is on the free list twice"),
        ],
    ),
    "kv_cache.quantise": Bank(
        right=[quantise_grouped, quantise_group_by_group, quantise_never_by_zero],
        wrong=[
            Wrong(quantise_by_vector, says="larger than its least and largest entry ask for"),
            Wrong(quantise_transposed, says="the scale has shape"),
            Wrong(quantise_floors, says="is off by more than half a step"),
            Wrong(quantise_unrounded, says="is not a whole number"),
            Wrong(quantise_to_sixteen, says="does not fit into 4 bits"),
            Wrong(quantise_divides_by_zero, says="are all equal, the codes holds NaN"),
            Wrong(quantise_equal_to_zero, says="they do not come back"),
            Wrong(quantise_with_an_epsilon, says="larger than its least and largest entry ask for"),
            Wrong(quantise_upside_down, says="is not positive"),
            Wrong(quantise_around_zero, says="does not come back as it was"),
        ],
    ),
    "kv_cache.prefix": Bank(
        right=[prefix_one_softmax, prefix_merged, prefix_sequence_by_sequence],
        wrong=[
            Wrong(prefix_copied, says="is to be read, not copied"),
            Wrong(prefix_averaged, says="the two parts count alike"),
            Wrong(prefix_added, says="the weights sum to 2"),
            Wrong(prefix_by_length, says="each part counts as it has tokens"),
            Wrong(prefix_overflows, says="with scores of some thousands the output holds NaN"),
            Wrong(prefix_ignored, says="the prefix is not seen"),
            Wrong(prefix_alone, says="does not see its own tokens"),
            Wrong(prefix_unscaled, says="the output is not attention over both parts"),
            Wrong(prefix_clamped, says="with scores of some thousands the output is not attention over both parts"),
            Wrong(prefix_by_its_own_maximum, says="the output holds NaN"),
            Wrong(prefix_zeros_when_long, says="with long inputs"),
            Wrong(
                prefix_first_tokens_when_long,
                says="with a prefix of 400 tokens and 3 sequences the output is not attention over both parts",
            ),
        ],
    ),
    "kv_cache.kernel": Bank(
        right=[kernel_by_table, kernel_token_by_token],
        wrong=[
            Wrong(kernel_without_table, says="in the order in which they lie"),
            Wrong(kernel_first_page_again, says="the first page is right, and position"),
            Wrong(kernel_next_slot, says="in the first page"),
            Wrong(kernel_one_program, says="the first page is right, and position (8,"),
            Wrong(kernel_whole_pages, says="the result is of shape"),
            Wrong(kernel_reads_past_its_length, says="comes from where nobody wrote"),
            Wrong(kernel_without_a_kernel, says="outside its kernel it computes with PyTorch"),
            Wrong(kernel_unmasked_table, says="_unmasked_kernel reads outside its tensors"),
        ],
    ),
}
