"""Solutions of the unit `global_local`: right ones written differently, and mistakes."""

import math

import torch

from tests.banks.kinds import Bank, Wrong

# global_local.pairs


def _near(t, radius):
    return (torch.arange(t)[:, None] - torch.arange(t)).abs() <= radius


def pairs_counted(t, radius, hubs):
    seen = _near(t, radius)
    seen[hubs] = True
    seen[:, hubs] = True
    return int(seen.sum())


def pairs_by_row(t, radius, hubs):
    total = 0
    for i in range(t):
        near = set(range(max(0, i - radius), min(t, i + radius + 1)))
        total += t if i in hubs else len(near | set(hubs))
    return total


def pairs_window(t, radius, hubs):
    return int(_near(t, radius).sum())


def pairs_no_edges(t, radius, hubs):
    n = len(hubs)
    return t * (2 * radius + 1) + 2 * n * t - n * n


def pairs_read_only(t, radius, hubs):
    seen = _near(t, radius)
    seen[:, hubs] = True
    return int(seen.sum())


def pairs_neighbour_twice(t, radius, hubs):
    n = len(hubs)
    return int(_near(t, radius).sum()) + 2 * n * t - n * n


def pairs_crossing_twice(t, radius, hubs):
    return pairs_counted(t, radius, hubs) + len(hubs) ** 2


def pairs_full(t, radius, hubs):
    return t * t


def pairs_hubs_far_from_ends(t, radius, hubs):
    """Right for global tokens with all their neighbours, none of them global."""
    n = len(hubs)
    return int(_near(t, radius).sum()) + 2 * n * (t - 2 * radius - 1) - n * (n - 1)


def pairs_hub_counts_itself_twice(t, radius, hubs):
    return pairs_counted(t, radius, hubs) + len(hubs)


# global_local.mask


def mask_by_sets(t, radius, hubs, length):
    rows = []
    for i in range(t):
        seen = [abs(i - j) <= radius or i in hubs or j in hubs for j in range(t)]
        rows.append([s and i < length and j < length for j, s in enumerate(seen)])
    return torch.tensor(rows)


def mask_by_lines(t, radius, hubs, length):
    seen = torch.ones(t, t).tril(radius).triu(-radius).bool()
    seen[hubs], seen[:, hubs] = True, True
    seen[length:], seen[:, length:] = False, False
    return seen


def mask_read_only(t, radius, hubs, length):
    seen = _near(t, radius)
    seen[:, hubs] = True
    seen[length:], seen[:, length:] = False, False
    return seen


def mask_reads_only(t, radius, hubs, length):
    return mask_read_only(t, radius, hubs, length).T


def mask_half_window(t, radius, hubs, length):
    return mask_by_lines(t, radius // 2, hubs, length)


def mask_wide_window(t, radius, hubs, length):
    return mask_by_lines(t, 2 * radius, hubs, length)


def mask_padded_keys(t, radius, hubs, length):
    seen = mask_by_lines(t, radius, hubs, t)
    seen[length:] = False
    return seen


def mask_padded_queries(t, radius, hubs, length):
    seen = mask_by_lines(t, radius, hubs, t)
    seen[:, length:] = False
    return seen


def mask_of_floats(t, radius, hubs, length):
    return mask_by_lines(t, radius, hubs, length).float()


def mask_global_padding(t, radius, hubs, length):
    """Global tokens read and are read even where they are padding."""
    seen = _near(t, radius)
    seen[length:], seen[:, length:] = False, False
    seen[hubs], seen[:, hubs] = True, True
    return seen


def mask_one_hub(t, radius, hubs, length):
    return mask_by_lines(t, radius, hubs[:1], length)


# global_local.symmetric


def _weights(q, k, seen):
    return torch.softmax((q @ k.T * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf), dim=-1)


def _pattern(t, radius, hubs):
    return mask_by_lines(t, radius, hubs, t)


def attend_masked(q, k, v, radius, hubs):
    return _weights(q, k, _pattern(len(q), radius, hubs)) @ v


def attend_rows(q, k, v, radius, hubs):
    rows = []
    for i in range(len(q)):
        near = set(range(max(0, i - radius), min(len(q), i + radius + 1))) | set(hubs)
        seen = sorted(range(len(q)) if i in hubs else near)
        rows.append(torch.softmax(k[seen] @ q[i] / q.shape[-1] ** 0.5, dim=0) @ v[seen])
    return torch.stack(rows)


def attend_asymmetric(q, k, v, radius, hubs):
    seen = _near(len(q), radius)
    seen[:, hubs] = True
    return _weights(q, k, seen) @ v


def attend_other_way(q, k, v, radius, hubs):
    seen = _near(len(q), radius)
    seen[hubs] = True
    return _weights(q, k, seen) @ v


def attend_local(q, k, v, radius, hubs):
    return _weights(q, k, _near(len(q), max(radius - 1, 0)) | _pattern(len(q), 0, hubs)) @ v


def attend_everything(q, k, v, radius, hubs):
    return _weights(q, k, torch.ones(len(q), len(q)).bool()) @ v


def attend_twice(q, k, v, radius, hubs):
    t, near = len(q), _near(len(q), radius)
    scores = q @ k.T * q.shape[-1] ** -0.5
    both = torch.cat([scores[:, hubs], scores.masked_fill(~near, -torch.inf)], dim=1)
    out = torch.softmax(both, dim=-1) @ torch.cat([v[hubs], v])
    out[hubs] = torch.softmax(scores[hubs], dim=-1) @ v
    return out[:t]


def attend_after_softmax(q, k, v, radius, hubs):
    return _weights(q, k, torch.ones(len(q), len(q)).bool()) * _pattern(len(q), radius, hubs) @ v


def attend_unscaled(q, k, v, radius, hubs):
    return attend_masked(q * q.shape[-1] ** 0.5, k, v, radius, hubs)


def attend_renormalised(q, k, v, radius, hubs):
    weights = _weights(q, k, torch.ones(len(q), len(q)).bool()) * _pattern(len(q), radius, hubs)
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def _naive(scores, seen):
    weights = scores.exp() * seen
    return weights / weights.sum(dim=-1, keepdim=True)


def attend_naive_exponential(q, k, v, radius, hubs):
    return _naive(q @ k.T * q.shape[-1] ** -0.5, _pattern(len(q), radius, hubs)) @ v


def attend_clamped(q, k, v, radius, hubs):
    return _naive((q @ k.T * q.shape[-1] ** -0.5).clamp(-80, 80), _pattern(len(q), radius, hubs)) @ v


def attend_small_fill(q, k, v, radius, hubs):
    scores = (q @ k.T * q.shape[-1] ** -0.5).masked_fill(~_pattern(len(q), radius, hubs), -1e4)
    return torch.softmax(scores, dim=-1) @ v


def attend_large_fill(q, k, v, radius, hubs):
    scores = (q @ k.T * q.shape[-1] ** -0.5).masked_fill(~_pattern(len(q), radius, hubs), -1e9)
    return torch.softmax(scores, dim=-1) @ v


def attend_one_hub(q, k, v, radius, hubs):
    """The first global token alone reads everything."""
    seen = _near(len(q), radius)
    seen[:, hubs], seen[hubs[0]] = True, True
    return _weights(q, k, seen) @ v


# global_local.layers


def layers_by_reach(t, i, j, radii, hubs):
    for depth in range(1, len(radii) + 1):
        known = {i}
        for radius in reversed(radii[:depth]):
            near = {b for a in known for b in range(max(0, a - radius), min(t, a + radius + 1))}
            known = set(range(t)) if known & set(hubs) else near | set(hubs)
        if j in known:
            return depth
    return 0


def layers_by_formula(t, i, j, radii, hubs):
    best, reached = 0, 0
    for depth, radius in enumerate(radii, start=1):
        reached += radius
        if abs(i - j) <= reached:
            best = depth
            break
    through = 0 if not hubs or len(radii) < 2 else 2
    if hubs and (i in hubs or j in hubs):
        through = 1
    return min((n for n in (best, through) if n), default=0)


def layers_no_hubs(t, i, j, radii, hubs):
    return layers_by_formula(t, i, j, radii, [])


def layers_always_two(t, i, j, radii, hubs):
    return 2 if hubs else layers_by_formula(t, i, j, radii, [])


def layers_backwards(t, i, j, radii, hubs):
    return layers_by_formula(t, i, j, radii[::-1], hubs)


def layers_one_radius(t, i, j, radii, hubs):
    return 2 if hubs else math.ceil(abs(i - j) / radii[0])


def layers_never_ends(t, i, j, radii, hubs):
    return layers_by_formula(t, i, j, radii, hubs) or len(radii)


def layers_asked_for(t, i, j, radii, hubs):
    return 2 if i in hubs else layers_by_formula(t, i, j, radii, hubs)


def layers_hub_first(t, i, j, radii, hubs):
    if hubs and not (i in hubs or j in hubs):
        return 2
    return layers_by_formula(t, i, j, radii, hubs)


def layers_hub_in_one_layer(t, i, j, radii, hubs):
    """A global token takes two layers, also in a stack that has one."""
    return layers_by_formula(t, i, j, radii, hubs) or 2 * bool(hubs)


def layers_to_the_right(t, i, j, radii, hubs):
    """The distance has a sign."""
    if hubs:
        return layers_by_formula(t, i, j, radii, hubs)
    return next((depth for depth in range(1, len(radii) + 1) if j - i <= sum(radii[:depth])), 0)


def layers_one_short(t, i, j, radii, hubs):
    if hubs:
        return layers_by_formula(t, i, j, radii, hubs)
    return next((depth for depth in range(1, len(radii) + 1) if abs(i - j) < sum(radii[:depth])), 0)


# global_local.projections


def head_two_parts(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    out = attend_masked(x @ w_q.T, x @ w_k.T, x @ w_v.T, radius, hubs).clone()
    out[hubs] = torch.softmax(x[hubs] @ u_q.T @ (x @ u_k.T).T / w_q.shape[0] ** 0.5, dim=-1) @ (x @ u_v.T)
    return out


def head_by_row(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    rows = []
    for i in range(len(x)):
        near = set(range(max(0, i - radius), min(len(x), i + radius + 1))) | set(hubs)
        (a, b, c), seen = ((u_q, u_k, u_v), x) if i in hubs else ((w_q, w_k, w_v), x[sorted(near)])
        rows.append(torch.softmax(seen @ b.T @ (a @ x[i]) / len(a) ** 0.5, dim=0) @ (seen @ c.T))
    return torch.stack(rows)


def head_shared(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    return head_two_parts(x, w_q, w_k, w_v, w_q, w_k, w_v, radius, hubs)


def head_queries_alone(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    return head_two_parts(x, w_q, w_k, w_v, u_q, w_k, w_v, radius, hubs)


def head_shared_values(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    return head_two_parts(x, w_q, w_k, w_v, u_q, u_k, w_v, radius, hubs)


def head_shared_queries(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    return head_two_parts(x, w_q, w_k, w_v, w_q, u_k, u_v, radius, hubs)


def head_global_keys_for_all(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    k, v = x @ w_k.T, x @ w_v.T
    k[hubs], v[hubs] = x[hubs] @ u_k.T, x[hubs] @ u_v.T
    out = attend_masked(x @ w_q.T, k, v, radius, hubs).clone()
    out[hubs] = head_two_parts(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs)[hubs]
    return out


def head_hubs_stay_near(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    out = attend_masked(x @ w_q.T, x @ w_k.T, x @ w_v.T, radius, hubs).clone()
    out[hubs] = attend_asymmetric(x @ u_q.T, x @ u_k.T, x @ u_v.T, radius, hubs)[hubs]
    return out


def _head(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs, weigh):
    """Scores and patterns, to which `weigh` gives weights."""
    scale, t = len(w_q) ** -0.5, len(x)
    seen = _near(t, radius)
    seen[:, hubs] = True
    out = weigh((x @ w_q.T) @ (x @ w_k.T).T * scale, seen) @ (x @ w_v.T)
    rows = weigh((x[hubs] @ u_q.T) @ (x @ u_k.T).T * scale, torch.ones(len(hubs), t).bool()) @ (x @ u_v.T)
    return out.index_copy(0, torch.tensor(hubs), rows)


def head_copied(*arguments):
    return _head(*arguments, weigh=lambda scores, seen: torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1))


def head_naive_exponential(*arguments):
    return _head(*arguments, weigh=_naive)


def head_small_fill(*arguments):
    return _head(*arguments, weigh=lambda scores, seen: torch.softmax(scores.masked_fill(~seen, -1e4), dim=-1))


def head_sorted(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    """Rows of the global tokens in order of position, put where the list has them."""
    right = head_two_parts(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs)
    return right.index_copy(0, torch.tensor(hubs), right[sorted(hubs)])


def head_scaled_by_d(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    other = (x.shape[1] / len(w_q)) ** -0.5
    return head_two_parts(x, other * w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs)


def head_values_detached(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    return head_two_parts(x, w_q, w_k, w_v.detach(), u_q, u_k, u_v, radius, hubs)


def head_inputs_detached(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    return head_two_parts(x.detach(), w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs)


def head_detached(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    return head_two_parts(x, w_q, w_k, w_v, u_q, u_k.detach(), u_v, radius, hubs)


# global_local.blocks


def blocks_of_queries(q, k, v, radius, hubs, block=64):
    t, out = len(q), []
    for start in range(0, t, block):
        rows = torch.arange(start, min(start + block, t))
        cols = [j for j in range(max(0, start - radius), min(t, start + block + radius)) if j not in hubs]
        seen = torch.cat(
            [torch.ones(len(rows), len(hubs)).bool(), (rows[:, None] - torch.tensor(cols)).abs() <= radius], dim=1
        )
        keys = [*hubs, *cols]
        out.append(_weights(q[rows], k[keys], seen) @ v[keys])
    out = torch.cat(out)
    out[hubs] = torch.softmax(q[hubs] @ k.T * q.shape[-1] ** -0.5, dim=-1) @ v
    return out


def blocks_gathered(q, k, v, radius, hubs):
    t = len(q)
    reach = min(radius, t)
    offsets = torch.arange(-reach, reach + 1)
    out = []
    for rows in torch.arange(t).split(256):
        near = rows[:, None] + offsets
        is_hub = (near[..., None] == torch.tensor(hubs)).any(dim=-1)
        valid = (near >= 0) & (near < t) & ~is_hub
        keys = torch.cat([torch.tensor(hubs).expand(len(rows), -1), near.clamp(0, t - 1)], dim=1)
        valid = torch.cat([torch.ones(len(rows), len(hubs)).bool(), valid], dim=1)
        scores = (q[rows, None] * k[keys]).sum(dim=-1) / q.shape[-1] ** 0.5
        weights = torch.softmax(scores.masked_fill(~valid, -torch.inf), dim=-1)
        out.append((weights[..., None] * v[keys]).sum(dim=1))
    out = torch.cat(out)
    out[hubs] = torch.softmax(q[hubs] @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v
    return out


def blocks_dense(q, k, v, radius, hubs):
    return attend_masked(q, k, v, radius, hubs)


def blocks_drop_the_rest(q, k, v, radius, hubs):
    kept = len(q) // 64 * 64 or len(q)
    return blocks_of_queries(q, k, v, radius, hubs)[:kept]


def blocks_hubs_stay_near(q, k, v, radius, hubs):
    out, near = blocks_of_queries(q, k, v, radius, hubs), attend_asymmetric(q, k, v, radius, hubs)
    out[hubs] = near[hubs]
    return out


def blocks_cut_at_the_edge(q, k, v, radius, hubs):
    out = [_weights(a, b, _near(len(a), radius)) @ c for a, b, c in zip(*(x.split(64) for x in (q, k, v)), strict=True)]
    out = torch.cat(out)
    out[hubs] = torch.softmax(q[hubs] @ k.T * q.shape[-1] ** -0.5, dim=-1) @ v
    return out


def blocks_no_hubs(q, k, v, radius, hubs):
    return _weights(q, k, _near(len(q), radius)) @ v[:, 1:]


def blocks_only_if_short(q, k, v, radius, hubs):
    return v if len(q) > 2000 else attend_masked(q, k, v, radius, hubs)


def blocks_short_reach_if_long(q, k, v, radius, hubs):
    return blocks_of_queries(q, k, v, min(radius, 16) if len(q) > 1000 else radius, hubs)


def blocks_naive_exponential(q, k, v, radius, hubs):
    t, out, ordinary = len(q), [], torch.ones(len(q)).bool()
    ordinary[hubs] = False
    for rows in torch.arange(t).split(64):
        near = torch.arange(max(int(rows[0]) - radius, 0), min(int(rows[-1]) + radius + 1, t))
        keys = torch.cat([torch.tensor(hubs), near])
        seen = ((rows[:, None] - near).abs() <= radius) & ordinary[near]
        seen = torch.cat([torch.ones(len(rows), len(hubs)).bool(), seen], dim=1)
        out.append(_naive(q[rows] @ k[keys].T * q.shape[-1] ** -0.5, seen) @ v[keys])
    out = torch.cat(out)
    out[hubs] = torch.softmax(q[hubs] @ k.T * q.shape[-1] ** -0.5, dim=-1) @ v
    return out


def blocks_neighbour_twice(q, k, v, radius, hubs):
    t, out = len(q), []
    for rows in torch.arange(t).split(64):
        near = torch.arange(max(int(rows[0]) - radius, 0), min(int(rows[-1]) + radius + 1, t))
        keys = torch.cat([torch.tensor(hubs), near])
        seen = (rows[:, None] - near).abs() <= radius
        seen = torch.cat([torch.ones(len(rows), len(hubs)).bool(), seen], dim=1)
        out.append(_weights(q[rows], k[keys], seen) @ v[keys])
    out = torch.cat(out)
    out[hubs] = torch.softmax(q[hubs] @ k.T * q.shape[-1] ** -0.5, dim=-1) @ v
    return out


def blocks_hubs_sorted(q, k, v, radius, hubs):
    out = blocks_of_queries(q, k, v, radius, hubs)
    return out.index_copy(0, torch.tensor(hubs), out[sorted(hubs)])


def blocks_ready_made(q, k, v, radius, hubs):
    seen = _pattern(len(q), radius, hubs)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)


BANK = {
    "global_local.pairs": Bank(
        right=[pairs_counted, pairs_by_row],
        wrong=[
            Wrong(pairs_window, says="the window alone is counted"),
            Wrong(pairs_no_edges, says="near the ends have fewer neighbours"),
            Wrong(pairs_read_only, says="also read all"),
            Wrong(pairs_neighbour_twice, says="and its neighbour are one pair"),
            Wrong(pairs_crossing_twice, says="a row and a column of global tokens counts once"),
            Wrong(pairs_full, says="the number of pairs is wrong"),
            Wrong(pairs_hubs_far_from_ends, says="]: the number of pairs is wrong"),
            Wrong(pairs_hub_counts_itself_twice, says=": the number of pairs is wrong"),
        ],
    ),
    "global_local.mask": Bank(
        right=[mask_by_sets, mask_by_lines],
        wrong=[
            Wrong(mask_read_only, says="does not read token"),
            Wrong(mask_reads_only, says="does not read global token"),
            Wrong(mask_half_window, says="does not read its neighbour"),
            Wrong(mask_wide_window, says="neither near nor global"),
            Wrong(mask_padded_keys, says="which is padding"),
            Wrong(mask_padded_queries, says="is padding and reads"),
            Wrong(mask_of_floats, says="expected booleans"),
            Wrong(mask_global_padding, says=", which is padding"),
            Wrong(mask_one_hub, says="token 0 does not read global token"),
        ],
    ),
    "global_local.symmetric": Bank(
        right=[attend_masked, attend_rows],
        wrong=[
            Wrong(attend_asymmetric, says="does not read token"),
            Wrong(attend_other_way, says="does not read global token"),
            Wrong(attend_local, says="does not read its neighbour"),
            Wrong(attend_everything, says="neither near nor global"),
            Wrong(attend_twice, says="is read twice"),
            Wrong(attend_after_softmax, says="mask scores, not weights"),
            Wrong(attend_unscaled, says="the output differs from the formula"),
            Wrong(attend_renormalised, says="with keys that stand far above others"),
            Wrong(attend_naive_exponential, says="with scores far from 0, the output holds NaN"),
            Wrong(attend_clamped, says="with scores far from 0, the output differs"),
            Wrong(attend_small_fill, says="scores far from 0, the output differs"),
            Wrong(attend_large_fill, says="far from 0, the output differs"),
            Wrong(attend_one_hub, says=" does not read token"),
        ],
    ),
    "global_local.layers": Bank(
        right=[layers_by_reach, layers_by_formula],
        wrong=[
            Wrong(layers_no_hubs, says="one layer into the global token"),
            Wrong(layers_always_two, says="is global itself, and read directly"),
            Wrong(layers_backwards, says="the first layer has the first radius"),
            Wrong(layers_one_radius, says="a radius of its own"),
            Wrong(layers_never_ends, says="do not reach so far"),
            Wrong(layers_asked_for, says="reads everything"),
            Wrong(layers_hub_first, says="the window is the shorter way"),
            Wrong(layers_hub_in_one_layer, says="more layers than the stack"),
            Wrong(layers_to_the_right, says="the whole stack does not get there"),
            Wrong(layers_one_short, says="windows add up from layer to layer"),
        ],
    ),
    "global_local.projections": Bank(
        right=[head_two_parts, head_by_row, head_copied],
        wrong=[
            Wrong(head_shared, says="use the queries, keys and values of the ordinary"),
            Wrong(head_queries_alone, says="use the keys and values of the ordinary"),
            Wrong(head_shared_values, says="use the values of the ordinary"),
            Wrong(head_shared_queries, says="use the queries of the ordinary"),
            Wrong(head_global_keys_for_all, says="by the ordinary projections and in one softmax"),
            Wrong(head_hubs_stay_near, says="it reads every token"),
            Wrong(head_detached, says="the gradient with respect to u_k"),
            Wrong(head_naive_exponential, says="with scores far from 0, the output holds NaN"),
            Wrong(head_small_fill, says="with scores far from 0, the output is wrong"),
            Wrong(head_sorted, says="is wrong: it reads every token"),
            Wrong(head_scaled_by_d, says="global ones too, by the ordinary projections and in one softmax"),
            Wrong(head_values_detached, says="the gradient with respect to w_v"),
            Wrong(head_inputs_detached, says="the gradient with respect to x"),
        ],
    ),
    "global_local.blocks": Bank(
        right=[blocks_of_queries, blocks_gathered],
        wrong=[
            Wrong(blocks_dense, says="is too large to form"),
            Wrong(blocks_drop_the_rest, says="the output has shape (192, "),
            Wrong(blocks_hubs_stay_near, says="the rows of the global tokens"),
            Wrong(blocks_cut_at_the_edge, says="the output differs from the formula"),
            Wrong(blocks_no_hubs, says="the output has shape (7, "),
            Wrong(blocks_ready_made, says="attend_in_blocks uses scaled_dot_product_attention"),
            Wrong(blocks_only_if_short, says="with long inputs"),
            Wrong(blocks_short_reach_if_long, says=" the output differs from the formula"),
            Wrong(blocks_naive_exponential, says="with scores far from 0"),
            Wrong(blocks_neighbour_twice, says="with 7 tokens and radius 2 the output differs from the formula"),
            Wrong(blocks_hubs_sorted, says="the rows of the global tokens ["),
        ],
    ),
}
