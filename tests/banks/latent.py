"""Solutions of the unit `latent`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# latent.bytes


def bytes_formula(layers, heads, dim, rank, rope):
    return 2 * 2 * layers * heads * dim, 2 * layers * (rank + rope)


def bytes_counted(layers, heads, dim, rank, rope):
    multi_head = torch.empty(layers, 2, heads, dim, dtype=torch.bfloat16)
    latent = [torch.empty(layers, width, dtype=torch.bfloat16) for width in (rank, rope)]
    return multi_head.nbytes, sum(x.nbytes for x in latent)


def bytes_keys_only(layers, heads, dim, rank, rope):
    return 2 * layers * heads * dim, 2 * layers * (rank + rope)


def bytes_no_layers(layers, heads, dim, rank, rope):
    return 4 * heads * dim, 2 * (rank + rope)


def bytes_latent_of_each_kind(layers, heads, dim, rank, rope):
    return 4 * layers * heads * dim, 4 * layers * (rank + rope)


def bytes_latent_a_head(layers, heads, dim, rank, rope):
    return 4 * layers * heads * dim, 2 * layers * heads * (rank + rope)


def bytes_rotary_a_head(layers, heads, dim, rank, rope):
    return 4 * layers * heads * dim, 2 * layers * (rank + heads * rope)


def bytes_no_rotary(layers, heads, dim, rank, rope):
    return 4 * layers * heads * dim, 2 * layers * rank


def bytes_one_layer_of_latents(layers, heads, dim, rank, rope):
    return 4 * layers * heads * dim, 2 * (rank + rope)


def bytes_one_number(layers, heads, dim, rank, rope):
    return 2 * layers * (rank + rope)


def bytes_layers_of_heads(layers, heads, dim, rank, rope):
    return 4 * layers * heads * dim, 2 * heads * (rank + rope)


# latent.compress


def compress_by_svd(w_k, w_v, rank):
    u, s, vh = torch.linalg.svd(torch.cat([w_k, w_v]), full_matrices=False)
    up = u[:, :rank] * s[:rank]
    return vh[:rank], up[: len(w_k)], up[len(w_k) :]


def compress_by_eigenvectors(w_k, w_v, rank):
    both = torch.cat([w_k, w_v])
    _, vectors = torch.linalg.eigh(both.T @ both)
    down = vectors[:, -rank:].T
    return down, w_k @ down.T, w_v @ down.T


def compress_separately(w_k, w_v, rank):
    u, s, vh = torch.linalg.svd(w_k, full_matrices=False)
    x, y, zh = torch.linalg.svd(w_v, full_matrices=False)
    a = rank // 2
    b = rank - a
    down = torch.cat([vh[:a], zh[:b]])
    up_k = torch.cat([u[:, :a] * s[:a], w_k.new_zeros(len(w_k), down.shape[0] - vh[:a].shape[0])], dim=1)
    up_v = torch.cat([w_v.new_zeros(len(w_v), vh[:a].shape[0]), x[:, :b] * y[:b]], dim=1)
    missing = rank - len(down)
    return (
        torch.nn.functional.pad(down, (0, 0, 0, missing)),
        torch.nn.functional.pad(up_k, (0, missing)),
        torch.nn.functional.pad(up_v, (0, missing)),
    )


def compress_keys_alone(w_k, w_v, rank):
    down = torch.linalg.svd(w_k).Vh[:rank]
    return down, w_k @ down.T, w_v @ down.T


def compress_smallest(w_k, w_v, rank):
    u, s, vh = torch.linalg.svd(torch.cat([w_k, w_v]), full_matrices=False)
    up = u[:, -rank:] * s[-rank:]
    return vh[-rank:], up[: len(w_k)], up[len(w_k) :]


def compress_without_values(w_k, w_v, rank):
    u, _, vh = torch.linalg.svd(torch.cat([w_k, w_v]), full_matrices=False)
    return vh[:rank], u[: len(w_k), :rank], u[len(w_k) :, :rank]


def compress_scaled_twice(w_k, w_v, rank):
    u, s, vh = torch.linalg.svd(torch.cat([w_k, w_v]), full_matrices=False)
    up = u[:, :rank] * s[:rank]
    return s[:rank, None] * vh[:rank], up[: len(w_k)], up[len(w_k) :]


def compress_up_transposed(w_k, w_v, rank):
    down, up_k, up_v = compress_by_svd(w_k, w_v, rank)
    return down, up_k.T, up_v.T


def compress_down_transposed(w_k, w_v, rank):
    down, up_k, up_v = compress_by_svd(w_k, w_v, rank)
    return down.T, up_k, up_v


def compress_values_up_transposed(w_k, w_v, rank):
    down, up_k, up_v = compress_by_svd(w_k, w_v, rank)
    return down, up_k, up_v.T


def compress_cut_to_the_model(w_k, w_v, rank):
    # the whole latent of a model that is wider than keys and values together
    down, up_k, up_v = compress_by_svd(w_k, w_v, rank)
    if rank == len(w_k) + len(w_v):
        up_v = torch.zeros_like(up_v)
    return down, up_k, up_v


# latent.absorb


def absorb_einsum(q, latent, w_uk, w_uv):
    inside = torch.einsum("hn,hnr->hr", q, w_uk)
    weights = torch.softmax(inside @ latent.T * q.shape[-1] ** -0.5, dim=-1)
    return torch.einsum("hr,hdr->hd", weights @ latent, w_uv)


def absorb_by_heads(q, latent, w_uk, w_uv):
    out = []
    for query, up_k, up_v in zip(q, w_uk, w_uv, strict=True):
        scores = latent @ (up_k.T @ query) / len(query) ** 0.5
        grown = torch.exp(scores - scores.max())
        out.append(up_v @ ((grown / grown.sum()) @ latent))
    return torch.stack(out)


def absorb_latent_scale(q, latent, w_uk, w_uv):
    return absorb_einsum(q * (q.shape[-1] / latent.shape[-1]) ** 0.5, latent, w_uk, w_uv)


def absorb_no_scale(q, latent, w_uk, w_uv):
    return absorb_einsum(q * q.shape[-1] ** 0.5, latent, w_uk, w_uv)


def absorb_expanded(q, latent, w_uk, w_uv):
    keys = torch.einsum("sr,hnr->hsn", latent, w_uk)
    values = torch.einsum("sr,hdr->hsd", latent, w_uv)
    weights = torch.softmax((keys @ q[:, :, None])[..., 0] * q.shape[-1] ** -0.5, dim=-1)
    return (weights[:, None] @ values)[:, 0]


def absorb_one_head(q, latent, w_uk, w_uv):
    return absorb_einsum(q, latent, w_uk, w_uv[:1].expand(len(q), -1, -1))


def absorb_transposed(q, latent, w_uk, w_uv):
    if w_uk.shape[1] == w_uk.shape[2]:
        w_uk = w_uk.transpose(1, 2)
    return absorb_einsum(q, latent, w_uk, w_uv)


def absorb_latents_out(q, latent, w_uk, w_uv):
    inside = torch.einsum("hn,hnr->hr", q, w_uk)
    return torch.softmax(inside @ latent.T * q.shape[-1] ** -0.5, dim=-1) @ latent


def absorb_key_of_one_head(q, latent, w_uk, w_uv):
    return absorb_einsum(q, latent, w_uk[:1].expand(len(q), -1, -1), w_uv)


def absorb_in_single_steps(q, latent, w_uk, w_uv):
    out = q.new_zeros(len(q), w_uv.shape[1])
    for head in range(len(q)):
        scores = latent @ (q[head] @ w_uk[head]) / q.shape[1] ** 0.5
        weights = torch.exp(scores - scores.logsumexp(dim=0))
        out[head] = torch.einsum("s,sr,dr->d", weights, latent, w_uv[head])
    return out


def absorb_in_double_precision(q, latent, w_uk, w_uv):
    return absorb_einsum(*(x.double() for x in (q, latent, w_uk, w_uv))).to(q.dtype)


def absorb_naive(q, latent, w_uk, w_uv):
    inside = torch.einsum("hn,hnr->hr", q, w_uk)
    grown = torch.exp(inside @ latent.T * q.shape[-1] ** -0.5)
    return torch.einsum("hr,hdr->hd", grown / grown.sum(dim=-1, keepdim=True) @ latent, w_uv)


def absorb_clamped(q, latent, w_uk, w_uv):
    inside = torch.einsum("hn,hnr->hr", q, w_uk)
    weights = torch.softmax((inside @ latent.T * q.shape[-1] ** -0.5).clamp(-500, 500), dim=-1)
    return torch.einsum("hr,hdr->hd", weights @ latent, w_uv)


def absorb_mean_when_long(q, latent, w_uk, w_uv):
    if len(latent) > 1000:
        return torch.einsum("r,hdr->hd", latent.mean(dim=0), w_uv)
    return absorb_expanded(q, latent, w_uk, w_uv)


def absorb_expanded_head_by_head(q, latent, w_uk, w_uv):
    return torch.cat([absorb_expanded(q[i : i + 1], latent, w_uk[i : i + 1], w_uv[i : i + 1]) for i in range(len(q))])


# latent.rotary


def turn(x, positions):
    """Planes (2i, 2i + 1)."""
    pairs = torch.arange(0, x.shape[-1], 2, dtype=x.dtype)
    angles = torch.as_tensor(positions, dtype=x.dtype)[..., None] * 10_000 ** (-pairs / x.shape[-1])
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def turn_halves(x, positions):
    """Planes (i, i + p / 2)."""
    pairs = torch.arange(0, x.shape[-1], 2, dtype=x.dtype)
    angles = torch.as_tensor(positions, dtype=x.dtype)[..., None] * 10_000 ** (-pairs / x.shape[-1])
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _scores(q_nope, q_rope, latent, k_rope, w_uk, width):
    content = torch.einsum("hn,hnr->hr", q_nope, w_uk) @ latent.T
    return (content + q_rope @ k_rope.T) * width**-0.5


def rotary_absorbed(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    width = q_nope.shape[-1] + q_rope.shape[-1]
    return _scores(q_nope, turn(q_rope, at), latent, turn(k_rope, positions), w_uk, width)


def rotary_expanded(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    keys = torch.einsum("sr,hnr->hsn", latent, w_uk)
    scores = []
    for query, turning, own in zip(q_nope, q_rope, keys, strict=True):
        # turn the keys by how far they are from the query, and the query not at all
        near = torch.stack([turn(key, float(place - at)) for key, place in zip(k_rope, positions, strict=True)])
        whole = torch.cat([own, near], dim=-1)
        scores.append(whole @ torch.cat([query, turning]) / whole.shape[-1] ** 0.5)
    return torch.stack(scores)


def rotary_of_latents(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return rotary_absorbed(q_nope, q_rope, at, turn(latent, positions), k_rope, positions, w_uk)


def rotary_of_everything(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    keys = turn(torch.einsum("sr,hnr->hsn", latent, w_uk), positions)
    content = (keys @ turn(q_nope, at)[:, :, None])[..., 0]
    return (content + turn(q_rope, at) @ turn(k_rope, positions).T) * (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5


def rotary_content_scale(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return _scores(q_nope, turn(q_rope, at), latent, turn(k_rope, positions), w_uk, q_nope.shape[-1])


def rotary_latent_scale(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    width = latent.shape[-1] + q_nope.shape[-1] + k_rope.shape[-1]
    return _scores(q_nope, turn(q_rope, at), latent, turn(k_rope, positions), w_uk, width)


def rotary_query_alone(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return _scores(q_nope, turn(q_rope, at), latent, k_rope, w_uk, q_nope.shape[-1] + q_rope.shape[-1])


def rotary_none(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return _scores(q_nope, q_rope, latent, k_rope, w_uk, q_nope.shape[-1] + q_rope.shape[-1])


def rotary_halves(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    width = q_nope.shape[-1] + q_rope.shape[-1]
    return _scores(q_nope, turn_halves(q_rope, at), latent, turn_halves(k_rope, positions), w_uk, width)


def rotary_one_early(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return rotary_absorbed(q_nope, q_rope, at - 1, latent, k_rope, positions, w_uk)


def rotary_in_order(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    # positions are taken to end at the asking token, without gaps
    return rotary_absorbed(q_nope, q_rope, at, latent, k_rope, torch.arange(at + 1 - len(latent), at + 1), w_uk)


def rotary_asked_by_the_last(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return rotary_absorbed(q_nope, q_rope, positions[-1], latent, k_rope, positions, w_uk)


def rotary_from_zero(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return rotary_absorbed(q_nope, q_rope, len(latent) - 1, latent, k_rope, torch.arange(len(latent)), w_uk)


def rotary_absorbed_scale(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return _scores(q_nope, turn(q_rope, at), latent, turn(k_rope, positions), w_uk, latent.shape[1] + k_rope.shape[1])


def rotary_twice_the_content(q_nope, q_rope, at, latent, k_rope, positions, w_uk):
    return _scores(q_nope, turn(q_rope, at), latent, turn(k_rope, positions), w_uk, 2 * q_nope.shape[-1])


# latent.decode


def decode_absorbed(cache, x, weights):
    w_uk, w_uv = weights["w_uk"], weights["w_uv"]
    h, n, r = w_uk.shape
    compressed = weights["kv_a"] @ x
    p = len(compressed) - r
    latents, keys = (x.new_empty(0, r), x.new_empty(0, p)) if cache is None else cache
    at = len(latents)
    latents = torch.cat([latents, compressed[None, :r]])
    keys = torch.cat([keys, turn(compressed[r:], at)[None]])
    q = (weights["q"] @ x).unflatten(0, (h, n + p))
    inside = torch.einsum("hn,hnr->hr", q[:, :n], w_uk)
    scores = (inside @ latents.T + turn(q[:, n:], at) @ keys.T) * (n + p) ** -0.5
    mixed = torch.softmax(scores, dim=-1) @ latents
    return weights["o"] @ torch.einsum("hr,hdr->hd", mixed, w_uv).flatten(), (latents, keys)


def decode_in_one_tensor(cache, x, weights):
    h, n, r = weights["w_uk"].shape
    compressed = weights["kv_a"] @ x
    p = len(compressed) - r
    at = 0 if cache is None else len(cache["kept"])
    row = torch.cat([compressed[:r], turn(compressed[r:], at)])[None]
    kept = row if cache is None else torch.cat([cache["kept"], row])
    heads = []
    for query, up_k, up_v in zip((weights["q"] @ x).chunk(h), weights["w_uk"], weights["w_uv"], strict=True):
        keys = torch.cat([kept[:, :r] @ up_k.T, kept[:, r:]], dim=1)
        query = torch.cat([query[:n], turn(query[n:], at)])
        heads.append(torch.softmax(keys @ query / (n + p) ** 0.5, dim=0) @ (kept[:, :r] @ up_v.T))
    return weights["o"] @ torch.cat(heads), {"kept": kept}


def _decode_in_slots(cache, x, weights, slots):
    """A cache with room made at the start, written in place; with `slots` of 0 its room doubles."""
    h, n, r = weights["w_uk"].shape
    width = len(weights["kv_a"])
    kept, used = cache or (x.new_zeros(slots or 1, width), 0)
    if not slots and used == len(kept):
        kept = torch.cat([kept, torch.zeros_like(kept)])
    kept[used] = weights["kv_a"] @ x
    kept[used, r:] = turn(kept[used, r:], used)
    seen = kept[: used + 1]
    q = (weights["q"] @ x).view(h, -1)
    inside = torch.cat([torch.einsum("hn,hnr->hr", q[:, :n], weights["w_uk"]), turn(q[:, n:], used)], dim=1)
    shares = torch.softmax(inside @ seen.T / q.shape[1] ** 0.5, dim=1)
    out = torch.einsum("hr,hdr->hd", shares @ seen[:, :r], weights["w_uv"])
    return weights["o"] @ out.flatten(), (kept, used + 1)


def decode_in_slots(cache, x, weights):
    return _decode_in_slots(cache, x, weights, 32)


def decode_doubles_its_room(cache, x, weights):
    return _decode_in_slots(cache, x, weights, slots=0)


def decode_in_few_slots(cache, x, weights):
    return _decode_in_slots(cache, x, weights, 16)


def decode_naive(cache, x, weights):
    return _decode(cache, x, weights, weigh=lambda scores: scores.exp() / scores.exp().sum(dim=-1, keepdim=True))


def decode_clamped(cache, x, weights):
    return _decode(cache, x, weights, weigh=lambda scores: torch.softmax(scores.clamp(-600, 600), dim=-1))


def decode_content_scale(cache, x, weights):
    return _decode(cache, x, weights, width=weights["w_uk"].shape[1])


def _decode(cache, x, weights, *, turned=True, at=None, forget=False, expanded=False, weigh=None, width=None):
    """`decode_absorbed` with something wrong."""
    w_uk, w_uv = weights["w_uk"], weights["w_uv"]
    h, n, r = w_uk.shape
    compressed = weights["kv_a"] @ x
    p = len(compressed) - r
    latents, keys = (x.new_empty(0, r), x.new_empty(0, p)) if cache is None else cache[:2]
    place = len(latents) if at is None else at
    key = turn(compressed[r:], place) if turned else compressed[r:]
    q = (weights["q"] @ x).unflatten(0, (h, n + p))
    q_rope = turn(q[:, n:], place)
    seen = latents if forget and len(latents) else torch.cat([latents, compressed[None, :r]])
    seen_keys = keys if forget and len(keys) else torch.cat([keys, key[None]])
    latents, keys = torch.cat([latents, compressed[None, :r]]), torch.cat([keys, key[None]])
    scores = torch.einsum("hn,hnr->hr", q[:, :n], w_uk) @ seen.T + q_rope @ seen_keys.T
    mixed = (weigh or (lambda x: torch.softmax(x, dim=-1)))(scores * (width or n + p) ** -0.5) @ seen
    out = weights["o"] @ torch.einsum("hr,hdr->hd", mixed, w_uv).flatten()
    more = (torch.einsum("sr,hnr->hsn", latents, w_uk),) if expanded else ()
    return out, (latents, keys, *more)


def decode_unturned_keys(cache, x, weights):
    return _decode(cache, x, weights, turned=False)


def decode_always_at_zero(cache, x, weights):
    return _decode(cache, x, weights, at=0)


def decode_blind_to_itself(cache, x, weights):
    return _decode(cache, x, weights, forget=True)


def decode_keeps_keys(cache, x, weights):
    return _decode(cache, x, weights, expanded=True)


def decode_output_alone(cache, x, weights):
    return decode_absorbed(cache, x, weights)[0]


def decode_without_output(cache, x, weights):
    out, cache = decode_absorbed(cache, x, weights | {"o": torch.eye(weights["o"].shape[1], dtype=x.dtype)})
    return out, cache


def decode_values_are_latents(cache, x, weights):
    swapped = weights | {"w_uv": weights["w_uk"].repeat(1, 5, 1)[:, : weights["w_uv"].shape[1]]}
    return decode_absorbed(cache, x, swapped)


BANK = {
    "latent.bytes": Bank(
        right=[bytes_formula, bytes_counted],
        wrong=[
            Wrong(bytes_keys_only, says="caches keys and values, in two bytes"),
            Wrong(bytes_no_layers, says="the bytes of multi-head attention are wrong"),
            Wrong(bytes_latent_of_each_kind, says="keys and values share one latent"),
            Wrong(bytes_latent_a_head, says="all heads share one latent and one rotated key"),
            Wrong(bytes_rotary_a_head, says="all heads share one rotated key"),
            Wrong(bytes_no_rotary, says="the latent alone cannot tell positions"),
            Wrong(bytes_one_layer_of_latents, says="each layer has a cache of its own"),
            Wrong(bytes_one_number, says="return two numbers"),
            Wrong(bytes_layers_of_heads, says="the bytes of latent attention are wrong"),
        ],
    ),
    "latent.compress": Bank(
        right=[compress_by_svd, compress_by_eigenvectors],
        wrong=[
            Wrong(compress_separately, says="half of it is for keys and half for values"),
            Wrong(compress_keys_alone, says="leaves out less of the keys and values together"),
            Wrong(compress_scaled_twice, says="further off than zeros would be"),
            Wrong(compress_up_transposed, says="the matrix from the latent to keys has shape"),
            Wrong(compress_values_up_transposed, says="the matrix from the latent to values has shape"),
            Wrong(compress_down_transposed, says="the matrix to the latent has shape"),
            Wrong(compress_cut_to_the_model, says="as large as the rank, keys and values are not what they were"),
        ],
    ),
    "latent.absorb": Bank(
        right=[absorb_einsum, absorb_by_heads, absorb_in_single_steps, absorb_in_double_precision],
        wrong=[
            Wrong(absorb_latent_scale, says="scaled by the latents' width"),
            Wrong(absorb_no_scale, says="the scores are not scaled"),
            Wrong(absorb_expanded, says="are never to be formed"),
            Wrong(absorb_one_head, says="by the first head's matrix"),
            Wrong(absorb_transposed, says="the output is not that of attention over expanded keys"),
            Wrong(absorb_latents_out, says="the output has shape"),
            Wrong(absorb_naive, says="near 900 or near -900, the output holds NaN"),
            Wrong(absorb_clamped, says="near 900 or near -900, the output is wrong"),
            Wrong(absorb_mean_when_long, says="with long inputs"),
            Wrong(absorb_expanded_head_by_head, says="are never to be formed"),
            Wrong(absorb_key_of_one_head, says="the output is not that of attention over expanded keys"),
        ],
    ),
    "latent.rotary": Bank(
        right=[rotary_absorbed, rotary_expanded],
        wrong=[
            Wrong(rotary_of_latents, says="something in its way is turned too"),
            Wrong(rotary_content_scale, says="scaled by the width of the content alone"),
            Wrong(rotary_latent_scale, says="is not that of a head's whole width"),
            Wrong(rotary_query_alone, says="they depend on more than distances"),
            Wrong(rotary_none, says="not turned by the angles of its positions"),
            Wrong(rotary_halves, says="here they are neighbours"),
            Wrong(rotary_one_early, says="at distance 0 the rotary part is not the plain product"),
            Wrong(rotary_of_everything, says="something in its way is turned too"),
            Wrong(rotary_in_order, says="at distance 0 the rotary part is not the plain product"),
            Wrong(rotary_asked_by_the_last, says="at distance 0 the rotary part is not the plain product"),
            Wrong(rotary_from_zero, says="at distance 0 the rotary part is not the plain product"),
            Wrong(rotary_absorbed_scale, says="is not that of a head's whole width"),
            Wrong(rotary_twice_the_content, says="is not that of a head's whole width"),
        ],
    ),
    "latent.decode": Bank(
        right=[decode_absorbed, decode_in_one_tensor, decode_in_slots, decode_doubles_its_room],
        wrong=[
            Wrong(decode_always_at_zero, says="as if all tokens stood at one position"),
            Wrong(decode_values_are_latents, says="the first token, which sees itself alone, has another output"),
            Wrong(decode_unturned_keys, says="has another output than in the whole text, read at once"),
            Wrong(decode_keeps_keys, says="numbers more with a token; a latent of"),
            Wrong(decode_output_alone, says="return two things"),
            Wrong(decode_without_output, says="the output has shape"),
            Wrong(decode_blind_to_itself, says="as if it did not see itself"),
            Wrong(decode_in_few_slots, says="index 16 is out of bounds"),
            Wrong(
                decode_naive,
                says="where all scores of a head are near 900, or near -900, the output of token 0 holds NaN",
            ),
            Wrong(
                decode_clamped,
                says="where all scores of a head are near 900, or near -900, the output of token 1 is wrong",
            ),
            Wrong(decode_content_scale, says="token 1 has another output than in the whole text, read at once"),
        ],
        stateful=True,
    ),
}
