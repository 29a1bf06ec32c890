"""Solutions of the unit `linear_attention`: right ones written differently, and mistakes."""

import torch
import triton
import triton.language as tl
from torch.nn.functional import elu

import attncourse
from tests.banks.kinds import Bank, Wrong

# linear_attention.bytes


def bytes_formula(b, h, n, d):
    return 8 * b * h * n * d, 4 * b * h * d * (d + 1)


def bytes_counted(b, h, n, d):
    cache = 2 * torch.Size([b, h, n, d]).numel()
    state = torch.Size([b, h, d, d]).numel() + torch.Size([b, h, d]).numel()
    return cache * 4, state * 4


def bytes_keys_alone(b, h, n, d):
    return 4 * b * h * n * d, 4 * b * h * d * (d + 1)


def bytes_numbers(b, h, n, d):
    return 2 * b * h * n * d, b * h * d * (d + 1)


def bytes_without_normalizer(b, h, n, d):
    return 8 * b * h * n * d, 4 * b * h * d * d


def bytes_state_a_token(b, h, n, d):
    return 8 * b * h * n * d, 4 * b * h * n * d * (d + 1)


def bytes_shared_state(b, h, n, d):
    return 8 * b * h * n * d, 4 * h * d * (d + 1)


def bytes_weights(b, h, n, d):
    return 4 * b * h * n * n, 4 * b * h * d * (d + 1)


def bytes_square_of_the_heads(b, h, n, d):
    return 8 * b * h * n * d, 4 * b * (h * d) * (h * d + 1)


# linear_attention.reassociate


def reassociate_products(q, k, v):
    q, k = elu(q) + 1, elu(k) + 1
    return (q @ (k.T @ v)) / (q @ k.sum(dim=0))[:, None]


def reassociate_with_ones(q, k, v):
    q, k = (torch.where(x > 0, x + 1, x.clamp(max=0).exp()) for x in (q, k))
    both = q @ (k.T @ torch.cat([v, torch.ones_like(v[:, :1])], dim=-1))
    return both[:, :-1] / both[:, -1:]


def reassociate_softmax(q, k, v):
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v


def reassociate_weights(q, k, v):
    weights = (elu(q) + 1) @ (elu(k) + 1).T
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def reassociate_not_normalized(q, k, v):
    return (elu(q) + 1) @ ((elu(k) + 1).T @ v)


def reassociate_identity(q, k, v):
    return (q @ (k.T @ v)) / (q @ k.sum(dim=0))[:, None]


def reassociate_relu(q, k, v):
    q, k = torch.relu(q) + 1, torch.relu(k) + 1
    return (q @ (k.T @ v)) / (q @ k.sum(dim=0))[:, None]


def reassociate_ready_made(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(elu(q) + 1, elu(k) + 1, v)


def reassociate_only_if_short(q, k, v):
    return v[: len(q)] if len(q) > 1000 else reassociate_weights(q, k, v)


def reassociate_exponential(q, k, v):
    q, k = q.exp(), k.exp()
    return (q @ (k.T @ v)) / (q @ k.sum(dim=0))[:, None]


# linear_attention.stream


def stream_recurrence(state, q, k, v):
    q, k = elu(q) + 1, elu(k) + 1
    S, z = (q.new_zeros(k.shape[1], v.shape[1]), q.new_zeros(k.shape[1])) if state is None else state
    rows = []
    for query, key, value in zip(q, k, v, strict=True):
        S, z = S + key[:, None] * value, z + key
        rows.append((query @ S) / (query @ z))
    return torch.stack(rows), (S, z)


def stream_by_weights(state, q, k, v):
    q, k, v = elu(q) + 1, elu(k) + 1, torch.cat([v, torch.ones_like(v[:, :1])], dim=-1)
    S = q.new_zeros(k.shape[1], v.shape[1]) if state is None else state["S"]
    both = (q @ k.T).tril() @ v + q @ S
    return both[:, :-1] / both[:, -1:], {"S": S + k.T @ v}


def stream_in_place(state, q, k, v):
    """One matrix in a dict with an integer key, written over."""
    q, k, v = elu(q) + 1, elu(k) + 1, torch.cat([v, torch.ones_like(v[:, :1])], dim=-1)
    state = {0: q.new_zeros(k.shape[1], v.shape[1])} if state is None else state
    both = (q @ k.T).tril() @ v + q @ state[0]
    state[0] += k.T @ v
    return both[:, :-1] / both[:, -1:], state


def _buffer(state, q, k, v, room):
    """Keys and values in a buffer that has its whole size from the start."""
    state = [k.new_zeros(room, k.shape[1]), v.new_zeros(room, v.shape[1]), 0] if state is None else state
    keys, values, seen = state[0].clone(), state[1].clone(), state[2]
    keys[seen : seen + len(k)], values[seen : seen + len(k)] = k[: room - seen], v[: room - seen]
    seen = min(seen + len(k), room)
    weights = ((elu(q) + 1) @ (elu(keys[:seen]) + 1).T).tril(seen - len(q))
    return weights / weights.sum(dim=-1, keepdim=True) @ values[:seen], [keys, values, seen]


def stream_buffer_of_16(state, q, k, v):
    return _buffer(state, q, k, v, 16)


def stream_buffer_of_512(state, q, k, v):
    return _buffer(state, q, k, v, 512)


def stream_last_right(state, q, k, v):
    """Only the last row of a piece has its outputs right."""
    out, state = stream_recurrence(state, q, k, v)
    return torch.cat([out[-1:].expand(len(q) - 1, -1), out[-1:]]), state


def stream_forgets(state, q, k, v):
    return stream_recurrence(None, q, k, v)


def stream_keeps_keys(state, q, k, v):
    if state is not None:
        k, v = torch.cat([state[0], k]), torch.cat([state[1], v])
    weights = ((elu(q) + 1) @ (elu(k) + 1).T).tril(len(k) - len(q))
    return weights / weights.sum(dim=-1, keepdim=True) @ v, (k, v)


def stream_only_output(state, q, k, v):
    return stream_recurrence(state, q, k, v)[0]


def stream_reads_before_it_writes(state, q, k, v):
    q, k = elu(q) + 1, elu(k) + 1
    S, z = (q.new_zeros(k.shape[1], v.shape[1]), q.new_full((k.shape[1],), 1e-6)) if state is None else state
    rows = []
    for query, key, value in zip(q, k, v, strict=True):
        rows.append((query @ S) / (query @ z))
        S, z = S + key[:, None] * value, z + key
    return torch.stack(rows), (S, z)


def stream_transposed(state, q, k, v):
    out, state = stream_recurrence(state, q, k, v)
    return out.T, state


# linear_attention.chunks


def chunks_of(q, k, v, chunk=64, causal=True, read=True, write=True):
    q, k = elu(q) + 1, elu(k) + 1
    S, z, outs = q.new_zeros(k.shape[1], v.shape[1]), q.new_zeros(k.shape[1]), []
    for a, b, c in zip(q.split(chunk), k.split(chunk), v.split(chunk), strict=True):
        weights = (a @ b.T).tril() if causal else a @ b.T
        carried, total = (a @ S, a @ z) if read else (0, 0)
        outs.append((weights @ c + carried) / (weights.sum(dim=-1) + total)[:, None])
        if write:
            S, z = S + b.T @ c, z + b.sum(dim=0)
    return torch.cat(outs)


def chunks_in_a_loop(q, k, v):
    return chunks_of(q, k, v)


def chunks_in_parallel(q, k, v, c=32):
    n, dv = v.shape
    q, k = elu(q) + 1, elu(k) + 1
    v = torch.cat([v, torch.ones_like(v[:, :1])], dim=-1)
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, -n % c)).unflatten(0, (-1, c)) for x in (q, k, v))
    gains = k.transpose(1, 2) @ v
    before = gains.cumsum(dim=0) - gains
    both = ((q @ k.transpose(1, 2)).tril() @ v + q @ before).flatten(0, 1)[:n]
    return both[:, :dv] / both[:, dv:]


def chunks_whole_weights(q, k, v):
    weights = ((elu(q) + 1) @ (elu(k) + 1).T).tril()
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def chunks_not_causal(q, k, v):
    return reassociate_products(q, k, v)


def chunks_leak_within(q, k, v):
    return chunks_of(q, k, v, causal=False, chunk=5)


def chunks_without_state(q, k, v):
    return chunks_of(q, k, v, read=False)


def chunks_drop_the_rest(q, k, v):
    whole = len(q) // 64 * 64 or len(q)
    return chunks_of(q[:whole], k[:whole], v[:whole])


def chunks_only_if_short(q, k, v):
    return v if len(q) > 2000 else chunks_whole_weights(q, k, v)


def chunks_token_by_token(q, k, v):
    return stream_recurrence(None, q, k, v)[0]


def chunks_of_one(q, k, v):
    return chunks_of(q, k, v, chunk=1)


def chunks_a_state_for_each_token(q, k, v):
    q, k = elu(q) + 1, elu(k) + 1
    states = (k[:, :, None] * v[:, None, :]).cumsum(dim=0)
    return (q[:, None, :] @ states)[:, 0] / (q * k.cumsum(dim=0)).sum(dim=-1, keepdim=True)


def chunks_ready_made(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def chunks_average_of_normalized(q, k, v):
    outs = [chunks_of(q[: i + 4], k[: i + 4], v[: i + 4], read=False)[i:] for i in range(0, len(q), 4)]
    return torch.cat(outs) / 2


# linear_attention.decay


def decay_by_logarithms(a):
    reached = a.log().cumsum(dim=0)
    later = torch.ones(len(a), len(a)).triu(1).bool()
    return (reached[:, None] - reached).masked_fill(later, -torch.inf).exp()


def decay_row_by_row(a):
    rows, row = [], a.new_zeros(len(a))
    for i, one in enumerate(torch.eye(len(a), dtype=a.dtype)):
        row = row * a[i] + one
        rows.append(row)
    return torch.stack(rows)


def decay_quotient(a):
    product = a.cumprod(dim=0)
    return (product[:, None] / product).tril()


def decay_hides_nan(a):
    return torch.nan_to_num(decay_quotient(a), nan=0.0, posinf=0.0)


def decay_both_sides(a):
    reached = a.log().cumsum(dim=0)
    return (-(reached[:, None] - reached).abs()).exp()


def decay_own_key(a):
    return decay_by_logarithms(a) * a


def decay_of_one_step(a):
    return a[:, None].expand(-1, len(a)).tril(-1) + torch.eye(len(a), dtype=a.dtype)


def decay_masked_too_late(a):
    reached = a.log().cumsum(dim=0)
    return torch.where(torch.ones(len(a), len(a)).tril().bool(), (reached[:, None] - reached).exp(), 0.0)


def decay_clamped(a):
    reached = a.log().cumsum(dim=0).clamp_min(-80)
    later = torch.ones(len(a), len(a)).triu(1).bool()
    return (reached[:, None] - reached).masked_fill(later, -torch.inf).exp()


def decay_floor_in_quotient(a):
    product = a.cumprod(dim=0)
    return (product[:, None] / product.clamp_min(1e-30)).tril()


def decay_one_side_detached(a):
    reached = a.log().cumsum(dim=0)
    later = torch.ones(len(a), len(a)).triu(1).bool()
    return (reached[:, None] - reached.detach()).masked_fill(later, -torch.inf).exp()


def decay_detached_if_long(a):
    return decay_by_logarithms(a) if len(a) < 100 else decay_by_logarithms(a.detach()) + 0 * a


# linear_attention.delta


def delta_formula(S, k, v, beta):
    return S + beta * k[:, None] * (v - k @ S)


def delta_by_rotation(S, k, v, beta):
    return (torch.eye(len(k), dtype=S.dtype) - beta * torch.outer(k, k)) @ S + beta * torch.outer(k, v)


def delta_sum(S, k, v, beta):
    return S + beta * torch.outer(k, v)


def delta_forgets_all(S, k, v, beta):
    return (1 - beta) * S + beta * torch.outer(k, v)


def delta_ignores_beta(S, k, v, beta):
    return delta_formula(S, k, v, 1.0)


def delta_wrong_sign(S, k, v, beta):
    return S - beta * k[:, None] * (v - k @ S)


def delta_squares_beta(S, k, v, beta):
    return delta_formula(S, k, v, beta**2)


def delta_normalizes(S, k, v, beta):
    return delta_formula(S, k / k.norm(), v, beta)


def delta_transposed(S, k, v, beta):
    return delta_formula(S, k, v, beta).T


def delta_in_place(S, k, v, beta):
    S += beta * k[:, None] * (v - k @ S)
    return S


def delta_beta_up_to_one(S, k, v, beta):
    return delta_formula(S, k, v, min(beta, 1.0))


# linear_attention.kernel


@triton.jit
def _scan_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, KIND: tl.constexpr, D: tl.constexpr, C: tl.constexpr):
    wide, within = tl.arange(0, D), tl.arange(0, C)
    seen = within[:, None] >= within[None, :]
    state = tl.zeros((D, D), tl.float32)
    for start in range(0, n, C):
        rows = start + within
        at = rows[:, None] * D + wide[None, :]
        inside = (rows < n)[:, None]
        k = tl.load(k_ptr + at, mask=inside, other=0.0)
        v = tl.load(v_ptr + at, mask=inside, other=0.0)
        q = tl.load(q_ptr + at) if KIND == 6 else tl.load(q_ptr + at, mask=inside, other=0.0)
        weights = tl.dot(q, tl.trans(k), input_precision="ieee")
        if KIND != 1:
            weights = tl.where(seen, weights, 0.0)
        if KIND == 3:
            state += tl.dot(tl.trans(k), v, input_precision="ieee")
        out = tl.dot(weights, v, input_precision="ieee")
        if KIND != 2:
            out += tl.dot(q, state, input_precision="ieee")
        if KIND == 4:
            state = tl.dot(tl.trans(k), v, input_precision="ieee")
        elif KIND == 5:
            state += tl.dot(tl.trans(v), k, input_precision="ieee")
        elif KIND != 3:
            state += tl.dot(tl.trans(k), v, input_precision="ieee")
        tl.store(out_ptr + at, out, mask=inside)


def _launch(q, k, v, kind):
    device = attncourse.device()
    q, k, v = (x.contiguous().to(device) for x in (q, k, v))
    out = torch.empty_like(v)
    _scan_kernel[(1,)](q, k, v, out, len(q), KIND=kind, D=16, C=16)
    return out


def kernel_scan(q, k, v):
    return _launch(q, k, v, 0)


@triton.jit
def _columns_kernel(q_ptr, k_ptr, v_ptr, out_ptr, n, D: tl.constexpr):
    wide, column = tl.arange(0, D), tl.program_id(0)
    state = tl.zeros((D,), tl.float32)
    for row in range(0, n):
        q, k = tl.load(q_ptr + row * D + wide), tl.load(k_ptr + row * D + wide)
        state += k * tl.load(v_ptr + row * D + column)
        tl.store(out_ptr + row * D + column, tl.sum(q * state))


def kernel_token_by_token(q, k, v):
    device = attncourse.device()
    q, k, v = (x.contiguous().to(device) for x in (q, k, v))
    out = torch.empty_like(v)
    _columns_kernel[(16,)](q, k, v, out, len(q), D=16)
    return out


def kernel_not_causal(q, k, v):
    return _launch(q, k, v, 1)


def kernel_without_state(q, k, v):
    return _launch(q, k, v, 2)


def kernel_writes_before_it_reads(q, k, v):
    return _launch(q, k, v, 3)


def kernel_keeps_one_chunk(q, k, v):
    return _launch(q, k, v, 4)


def kernel_transposes_its_state(q, k, v):
    return _launch(q, k, v, 5)


def kernel_in_pytorch(q, k, v):
    return (q @ k.T).tril() @ v


def kernel_launched_for_show(q, k, v):
    kernel_scan(q, k, v)
    return (q @ k.T).tril() @ v


def kernel_reads_past_the_end(q, k, v):
    return _launch(q, k, v, 6)


def kernel_drops_the_rest(q, k, v):
    whole = len(q) // 16 * 16
    return _launch(q[:whole], k[:whole], v[:whole], 0)


BANK = {
    "linear_attention.bytes": Bank(
        right=[bytes_formula, bytes_counted],
        wrong=[
            Wrong(bytes_keys_alone, says="a cache of keys or of values"),
            Wrong(bytes_numbers, says="those are the cache's numbers"),
            Wrong(bytes_without_normalizer, says="its normalizer is not"),
            Wrong(bytes_state_a_token, says="not one a token"),
            Wrong(bytes_shared_state, says="has a state of its own"),
            Wrong(bytes_weights, says="the bytes of the cache are wrong"),
            Wrong(bytes_square_of_the_heads, says="the bytes of the state are wrong"),
        ],
    ),
    "linear_attention.reassociate": Bank(
        right=[reassociate_products, reassociate_with_ones],
        wrong=[
            Wrong(reassociate_softmax, says="this is softmax attention"),
            Wrong(reassociate_weights, says="of weights need not be formed"),
            Wrong(reassociate_not_normalized, says="do not sum to 1"),
            Wrong(reassociate_identity, says="a weight is negative"),
            Wrong(reassociate_relu, says="not that of the feature map"),
            Wrong(reassociate_ready_made, says="attend uses scaled_dot_product_attention"),
            Wrong(reassociate_only_if_short, says="with long inputs"),
            Wrong(reassociate_exponential, says="is not that of the feature map"),
        ],
    ),
    "linear_attention.stream": Bank(
        right=[stream_recurrence, stream_by_weights, stream_in_place],
        wrong=[
            Wrong(stream_forgets, says="read in pieces of 4, 7 differs"),
            Wrong(stream_keeps_keys, says="the state grows with what was read"),
            Wrong(stream_only_output, says="return two things"),
            Wrong(stream_reads_before_it_writes, says="read in pieces of 11 differs"),
            Wrong(stream_transposed, says="the output of a piece has shape"),
            Wrong(stream_buffer_of_16, says="the output of a piece holds NaN"),
            Wrong(stream_buffer_of_512, says="room for a whole text"),
            Wrong(stream_last_right, says="the text read in pieces of 11 differs"),
        ],
        stateful=True,
    ),
    "linear_attention.chunks": Bank(
        right=[chunks_in_a_loop, chunks_in_parallel],
        wrong=[
            Wrong(chunks_whole_weights, says="nor a state for each token"),
            Wrong(chunks_not_causal, says="every query sees every key"),
            Wrong(chunks_leak_within, says="its future"),
            Wrong(chunks_without_state, says="with 150 tokens the output is not causal"),
            Wrong(chunks_drop_the_rest, says="with 150 tokens the output has shape"),
            Wrong(chunks_average_of_normalized, says="with 1 tokens the output is not causal"),
            Wrong(chunks_ready_made, says="attend_in_chunks uses scaled_dot_product_attention"),
            Wrong(chunks_only_if_short, says="tokens the output is not causal"),
            Wrong(chunks_token_by_token, says="take a few for a chunk, not for a token"),
            Wrong(chunks_of_one, says="operations: take a few for a chunk, not for a token"),
            Wrong(chunks_a_state_for_each_token, says="of weights nor a state for each token"),
        ],
    ),
    "linear_attention.decay": Bank(
        right=[decay_by_logarithms, decay_row_by_row],
        wrong=[
            Wrong(decay_quotient, says="holds NaN"),
            Wrong(decay_hides_nan, says="the last row is wrong"),
            Wrong(decay_both_sides, says="which is still to come"),
            Wrong(decay_own_key, says="its factor fades what stood before"),
            Wrong(decay_of_one_step, says="not the product of the factors"),
            Wrong(decay_masked_too_late, says="its gradient is NaN"),
            Wrong(decay_clamped, says="is not the product of the factors"),
            Wrong(decay_floor_in_quotient, says="all is left: its factor fades what stood before"),
            Wrong(decay_one_side_detached, says="its gradient is wrong"),
            Wrong(decay_detached_if_long, says="its gradient is not"),
        ],
    ),
    "linear_attention.delta": Bank(
        right=[delta_formula, delta_by_rotation],
        wrong=[
            Wrong(delta_sum, says="the old value plus the new"),
            Wrong(delta_forgets_all, says="at a right angle to the one written"),
            Wrong(delta_ignores_beta, says="with beta = 0 the memory changes"),
            Wrong(delta_wrong_sign, says="does not answer its key with the new value"),
            Wrong(delta_squares_beta, says="the answer is not in between"),
            Wrong(delta_normalizes, says="keys that are not of length 1"),
            Wrong(delta_transposed, says="the new memory has shape"),
            Wrong(delta_in_place, says="in place, and the caller"),
            Wrong(delta_beta_up_to_one, says="with keys that are not of length 1"),
        ],
    ),
    "linear_attention.kernel": Bank(
        right=[kernel_scan, kernel_token_by_token],
        wrong=[
            Wrong(kernel_not_causal, says="within the first chunk a query sees keys after it"),
            Wrong(kernel_without_state, says="each chunk is right by itself"),
            Wrong(kernel_writes_before_it_reads, says="the first chunk is wrong"),
            Wrong(kernel_keeps_one_chunk, says="with 53 tokens, chunks of 16: the first chunk is right, later"),
            Wrong(kernel_transposes_its_state, says="with 32 tokens, chunks of 16: the first chunk is right, later"),
            Wrong(kernel_drops_the_rest, says="with 53 tokens, chunks of 16: the output has shape"),
            Wrong(kernel_in_pytorch, says="it computes with PyTorch"),
            Wrong(kernel_launched_for_show, says="outside its kernel it computes with PyTorch"),
            Wrong(kernel_reads_past_the_end, says="reads outside its tensors"),
        ],
    ),
}
