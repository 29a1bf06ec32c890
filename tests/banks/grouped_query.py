"""Solutions of the unit `grouped_query`: right ones written differently, and mistakes."""

import torch
import triton
import triton.language as tl

import attncourse
from tests.banks.kinds import Bank, Wrong

# grouped_query.cost


def cost_formula(layers, h, g, d, s, itemsize):
    return 2 * layers * g * d * s * itemsize, 2 * (h / g) / itemsize


def cost_counted(layers, h, g, d, s, itemsize):
    key = torch.empty(s, g, d).numel() * itemsize
    return torch.tensor(layers * (key + key)), (h * s * d * 2 * 2) / (key + key)


def cost_of_queries_heads(layers, h, g, d, s, itemsize):
    return 2 * layers * h * d * s * itemsize, 2 * h / g / itemsize


def cost_keys_alone(layers, h, g, d, s, itemsize):
    return layers * g * d * s * itemsize, 2 * h / g / itemsize


def cost_one_layer(layers, h, g, d, s, itemsize):
    return 2 * g * d * s * itemsize, 2 * h / g / itemsize


def cost_numbers(layers, h, g, d, s, itemsize):
    return 2 * layers * g * d * s, 2 * h / g / itemsize


def cost_one_token(layers, h, g, d, s, itemsize):
    return 2 * layers * g * d * itemsize, 2 * h / g / itemsize


def cost_multiplications(layers, h, g, d, s, itemsize):
    return 2 * layers * g * d * s * itemsize, h / g / itemsize


def cost_multi_head_intensity(layers, h, g, d, s, itemsize):
    return 2 * layers * g * d * s * itemsize, 2 / itemsize


def cost_per_number(layers, h, g, d, s, itemsize):
    return 2 * layers * g * d * s * itemsize, 4 * h / g / itemsize


def cost_of_group_sizes(layers, h, g, d, s, itemsize):
    # h / g where g belongs
    return 2 * layers * (h // g) * d * s * itemsize, 2 * g / itemsize


def cost_intensity_in_halves(layers, h, g, d, s, itemsize):
    return 2 * layers * g * d * s * itemsize, h / g


# grouped_query.share


def share_axis(q, k, v):
    g, d = len(k), q.shape[-1]
    grouped = q.unflatten(0, (g, -1))
    scores = torch.einsum("grtd,gsd->grts", grouped, k) / d**0.5
    return torch.einsum("grts,gsd->grtd", torch.softmax(scores, dim=-1), v).flatten(0, 1)


def share_rows(q, k, v):
    g, (h, t, d) = len(k), q.shape
    rows = q.reshape(g, h // g * t, d)
    return (torch.softmax(rows @ k.mT * d**-0.5, dim=-1) @ v).reshape(h, t, -1)


def share_loop(q, k, v):
    r = len(q) // len(k)
    return torch.stack([torch.softmax(q[i] @ k[i // r].T / q.shape[-1] ** 0.5, -1) @ v[i // r] for i in range(len(q))])


def share_copied(q, k, v):
    r = len(q) // len(k)
    k, v = (x.repeat_interleave(r, dim=0) for x in (k, v))
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1) @ v


def share_interleaved(q, k, v):
    g = len(k)
    return torch.stack([share_loop(q[i : i + 1], k[i % g][None], v[i % g][None])[0] for i in range(len(q))])


def share_unscaled(q, k, v):
    return share_loop(q * q.shape[-1] ** 0.5, k, v)


def share_averaged_queries(q, k, v):
    mean = q.unflatten(0, (len(k), -1)).mean(dim=1)
    return share_loop(mean, k, v).repeat_interleave(len(q) // len(k), dim=0)


def share_one_row_short(q, k, v):
    return share_loop(q, k, v)[: len(k)]


def share_over_queries(q, k, v):
    r = len(q) // len(k)
    return torch.stack([torch.softmax(q[i] @ k[i // r].T / q.shape[-1] ** 0.5, 0) @ v[i // r] for i in range(len(q))])


def share_naive(q, k, v):
    r = len(q) // len(k)
    grown = [torch.exp(q[i] @ k[i // r].T / q.shape[-1] ** 0.5) for i in range(len(q))]
    return torch.stack([x / x.sum(dim=-1, keepdim=True) @ v[i // r] for i, x in enumerate(grown)])


def share_clamped(q, k, v):
    grouped = q.unflatten(0, (len(k), -1))
    scores = torch.einsum("grtd,gsd->grts", grouped, k) / q.shape[-1] ** 0.5
    return torch.einsum("grts,gsd->grtd", torch.softmax(scores.clamp(-700, 700), dim=-1), v).flatten(0, 1)


def share_values_when_long(q, k, v):
    if k.shape[1] > 1000:
        return v[:, :1].expand(len(q), q.shape[1], v.shape[2]).clone()
    return share_copied(q, k, v)


def share_causal(q, k, v):
    r, (t, s) = len(q) // len(k), (q.shape[1], k.shape[1])
    k, v = (x.repeat_interleave(r, dim=0) for x in (k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return torch.softmax(scores.masked_fill(torch.ones(t, s).triu(max(s - t, 0) + 1).bool(), -torch.inf), dim=-1) @ v


# grouped_query.pool


def pool_mean(weight, n_heads, n_kv_heads):
    return weight.unflatten(0, (n_kv_heads, n_heads // n_kv_heads, -1)).mean(dim=1).flatten(0, 1)


def pool_loop(weight, n_heads, n_kv_heads):
    heads = weight.chunk(n_heads)
    r = n_heads // n_kv_heads
    return torch.cat([sum(heads[i * r : (i + 1) * r]) / r for i in range(n_kv_heads)])


def pool_first(weight, n_heads, n_kv_heads):
    return torch.cat(weight.chunk(n_heads)[:: n_heads // n_kv_heads])


def pool_sum(weight, n_heads, n_kv_heads):
    return pool_mean(weight, n_heads, n_kv_heads) * (n_heads // n_kv_heads)


def pool_strided(weight, n_heads, n_kv_heads):
    return weight.unflatten(0, (n_heads // n_kv_heads, n_kv_heads, -1)).mean(dim=0).flatten(0, 1)


def pool_rows(weight, n_heads, n_kv_heads):
    return weight.unflatten(0, (-1, n_heads // n_kv_heads)).mean(dim=1)


def pool_last(weight, n_heads, n_kv_heads):
    r = n_heads // n_kv_heads
    return torch.cat(weight.chunk(n_heads)[r - 1 :: r])


def pool_unmerged(weight, n_heads, n_kv_heads):
    return weight.unflatten(0, (n_kv_heads, n_heads // n_kv_heads, -1)).mean(dim=1)


def pool_median(weight, n_heads, n_kv_heads):
    return weight.unflatten(0, (n_kv_heads, n_heads // n_kv_heads, -1)).median(dim=1).values.flatten(0, 1)


# grouped_query.split


def split_softmax(outs, lses):
    lse = lses.logsumexp(dim=0)
    weights = torch.exp(lses - lse.masked_fill(lse == -torch.inf, 0.0))
    return (weights[..., None] * outs).sum(dim=0), lse


def split_one_by_one(outs, lses):
    out, lse = torch.zeros_like(outs[0]), torch.full_like(lses[0], -torch.inf)
    for other, other_lse in zip(outs, lses, strict=True):
        both = torch.logaddexp(lse, other_lse)
        base = both.nan_to_num(neginf=0.0)
        out = torch.exp(lse - base)[:, None] * out + torch.exp(other_lse - base)[:, None] * other
        lse = both
    return [out, lse]


def split_mean(outs, lses):
    return outs.mean(dim=0), lses.logsumexp(dim=0)


def split_by_logarithms(outs, lses):
    return (lses[..., None] * outs).sum(dim=0) / lses.sum(dim=0)[:, None], lses.logsumexp(dim=0)


def split_over_rows(outs, lses):
    return (torch.softmax(lses, dim=1)[..., None] * outs).sum(dim=0), lses.logsumexp(dim=0)


def split_overflows(outs, lses):
    weights = torch.exp(lses)
    return (weights[..., None] * outs).sum(dim=0) / weights.sum(dim=0)[:, None], weights.sum(dim=0).log()


def split_nan_when_empty(outs, lses):
    return (torch.softmax(lses, dim=0)[..., None] * outs).sum(dim=0), lses.logsumexp(dim=0)


def split_largest_lse(outs, lses):
    return split_softmax(outs, lses)[0], lses.amax(dim=0)


def split_largest_alone(outs, lses):
    best = lses.argmax(dim=0)
    return outs[best, torch.arange(outs.shape[1])], lses.logsumexp(dim=0)


def split_output_alone(outs, lses):
    return split_softmax(outs, lses)[0]


def split_by_the_largest(outs, lses):
    top = lses.amax(dim=0)
    weights = torch.exp(lses - torch.where(top.isfinite(), top, 0.0))
    total = weights.sum(dim=0)
    out = torch.einsum("nr,nrd->rd", weights, outs) / total.clamp_min(1e-300)[:, None]
    return out, torch.where(total > 0, top + total.log(), -torch.inf)


def split_clamped(outs, lses):
    lses = lses.clamp(-700, 700)
    return split_softmax(outs, lses)[0], lses.logsumexp(dim=0)


def split_filled_with_little(outs, lses):
    return split_softmax(outs, lses.masked_fill(lses == -torch.inf, -1e9))[0], lses.logsumexp(dim=0)


def split_lse_of_nothing(outs, lses):
    out, lse = split_softmax(outs, lses)
    return out, lse.clamp_min(-1e30)


def split_lse_nan(outs, lses):
    top = lses.amax(dim=0)
    return split_softmax(outs, lses)[0], top + torch.exp(lses - top).sum(dim=0).log()


def split_ends_at_the_first_empty(outs, lses):
    full = int((lses[:, 0] > -torch.inf).int().cumprod(dim=0).sum())
    return split_softmax(outs[:full], lses[:full]) if full else split_softmax(outs, lses)


def split_two(outs, lses):
    return split_softmax(outs[:2], lses[:2])


# grouped_query.kernel


@triton.jit
def _split_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, length, each, KIND: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0)
    rows, wide, within = tl.arange(0, R), tl.arange(0, D), tl.arange(0, C)
    q = tl.load(q_ptr + rows[:, None] * D + wide[None, :])
    top = tl.full((R,), float("-inf"), tl.float32)
    total = tl.zeros((R,), tl.float32)
    acc = tl.zeros((R, D), tl.float32)
    end = tl.minimum((split + 1) * each, length)
    for start in range(split * each, end, C):
        keys = start + within
        exists = keys < end
        at = keys[:, None] * D + wide[None, :]
        k = tl.load(k_ptr + at, mask=exists[:, None], other=0.0)
        v = tl.load(v_ptr + at, mask=exists[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if KIND != 5:
            scores *= 0.25
        if KIND != 1:
            scores = tl.where(exists[None, :], scores, -1e4 if KIND == 8 else float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        if KIND == 9:
            new_top = tl.maximum(new_top, -100.0)
        if KIND == 4:
            new_top = tl.zeros((R,), tl.float32)
        rescale = tl.exp(top - new_top)
        if KIND == 4:
            rescale = tl.full((R,), 1.0, tl.float32)
        weights = tl.exp(scores - new_top[:, None])
        mixed = tl.dot(weights, v, input_precision="ieee")
        if KIND == 6:
            total = tl.sum(weights, 1)
            acc = mixed
        else:
            total = total * (1.0 if KIND == 2 else rescale) + tl.sum(weights, 1)
            acc = (acc if KIND == 3 else acc * rescale[:, None]) + mixed
        top = new_top
    tl.store(out_ptr + (split * R + rows[:, None]) * D + wide[None, :], acc / total[:, None])
    tl.store(lse_ptr + split * R + rows, (top if KIND == 7 else top + tl.log(total)))


def _decode(q, k, v, splits, kind=0):
    device = attncourse.device()
    q, k, v = (x.contiguous().to(device) for x in (q, k, v))
    each = -(-len(k) // (16 * splits)) * 16
    outs, lses = q.new_empty(splits, 16, 16), q.new_empty(splits, 16)
    _split_kernel[(splits,)](q, k, v, outs, lses, len(k), each, KIND=kind, R=16, D=16, C=16)
    return (torch.softmax(lses, dim=0)[..., None] * outs).sum(dim=0)


def kernel_running(q, k, v, splits):
    return _decode(q, k, v, splits)


@triton.jit
def _two_passes_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, length, each, R: tl.constexpr, D: tl.constexpr, S: tl.constexpr
):
    split = tl.program_id(0)
    rows, wide, keys = tl.arange(0, R), tl.arange(0, D), split * each + tl.arange(0, S)
    exists = (keys < length) & (keys < (split + 1) * each)
    q = tl.load(q_ptr + rows[:, None] * D + wide[None, :])
    at = keys[:, None] * D + wide[None, :]
    k = tl.load(k_ptr + at, mask=exists[:, None], other=0.0)
    v = tl.load(v_ptr + at, mask=exists[:, None], other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") / 4
    scores = tl.where(exists[None, :], scores, float("-inf"))
    top = tl.max(scores, 1)
    weights = tl.exp(scores - top[:, None])
    total = tl.sum(weights, 1)
    out = tl.dot(weights, v, input_precision="ieee") / total[:, None]
    tl.store(out_ptr + (split * R + rows[:, None]) * D + wide[None, :], out)
    tl.store(lse_ptr + split * R + rows, top + tl.log(total))


def kernel_whole_split(q, k, v, splits):
    device = attncourse.device()
    q, k, v = (x.contiguous().to(device) for x in (q, k, v))
    each = -(-len(k) // (16 * splits)) * 16
    outs, lses = q.new_empty(splits, 16, 16), q.new_empty(splits, 16)
    _two_passes_kernel[(splits,)](q, k, v, outs, lses, len(k), each, R=16, D=16, S=128)
    weights = torch.exp(lses - lses.amax(dim=0))
    return torch.einsum("nr,nrd->rd", weights / weights.sum(dim=0), outs)


def kernel_unmasked(q, k, v, splits):
    return _decode(q, k, v, splits, kind=1)


def kernel_total_not_rescaled(q, k, v, splits):
    return _decode(q, k, v, splits, kind=2)


def kernel_output_not_rescaled(q, k, v, splits):
    return _decode(q, k, v, splits, kind=3)


def kernel_without_maximum(q, k, v, splits):
    return _decode(q, k, v, splits, kind=4)


def kernel_unscaled(q, k, v, splits):
    return _decode(q, k, v, splits, kind=5)


def kernel_last_tile(q, k, v, splits):
    return _decode(q, k, v, splits, kind=6)


def kernel_lse_is_the_maximum(q, k, v, splits):
    return _decode(q, k, v, splits, kind=7)


def kernel_without_a_kernel(q, k, v, splits):
    return torch.softmax(q @ k.T * 0.25, dim=-1) @ v


def kernel_launched_for_show(q, k, v, splits):
    _decode(q, k, v, splits)
    return torch.softmax(q.clone() @ k.T * 0.25, dim=-1) @ v


def kernel_fills_with_little(q, k, v, splits):
    return _decode(q, k, v, splits, kind=8)


def kernel_clamps(q, k, v, splits):
    return _decode(q, k, v, splits, kind=9)


BANK = {
    "grouped_query.cost": Bank(
        right=[cost_formula, cost_counted],
        wrong=[
            Wrong(cost_of_queries_heads, says="the queries' heads are not cached"),
            Wrong(cost_keys_alone, says="a cache of keys or of values"),
            Wrong(cost_one_layer, says="every layer has a cache of its own"),
            Wrong(cost_numbers, says="those are numbers, not bytes"),
            Wrong(cost_one_token, says="the bytes of the cache are wrong"),
            Wrong(cost_multiplications, says="a multiplication and an addition are two operations"),
            Wrong(cost_multi_head_intensity, says="meets every query of its group"),
            Wrong(cost_per_number, says="the operations a byte are wrong"),
            Wrong(cost_of_group_sizes, says="the bytes of the cache are wrong"),
            Wrong(cost_intensity_in_halves, says="the operations a byte are wrong"),
        ],
    ),
    "grouped_query.share": Bank(
        right=[share_axis, share_rows, share_loop],
        wrong=[
            Wrong(share_copied, says="copied for 32 query heads"),
            Wrong(share_interleaved, says="with 6 query heads and 3 shared heads: query head 1 does"),
            Wrong(share_unscaled, says="not scaled by the square root"),
            Wrong(share_averaged_queries, says="and the weights on them are wrong"),
            Wrong(share_one_row_short, says="the output has shape"),
            Wrong(share_over_queries, says="with 4 query heads and 1 shared heads: query head 0"),
            Wrong(share_naive, says="and scores near 900 or near -900: the output holds NaN"),
            Wrong(share_clamped, says="and scores near 900 or near -900: the output is wrong"),
            Wrong(share_values_when_long, says="with long inputs"),
            Wrong(share_causal, says="and the weights on them are wrong"),
        ],
    ),
    "grouped_query.pool": Bank(
        right=[pool_mean, pool_loop],
        wrong=[
            Wrong(pool_first, says="first head, not its mean"),
            Wrong(pool_sum, says="group's sum, not its mean"),
            Wrong(pool_strided, says="heads that are g apart were merged"),
            Wrong(pool_rows, says="neighbouring rows were merged"),
            Wrong(pool_last, says="is not the mean of each group's heads"),
            Wrong(pool_unmerged, says="the projection has shape"),
            Wrong(pool_median, says="is not the mean of each group's heads"),
        ],
    ),
    "grouped_query.split": Bank(
        right=[split_softmax, split_one_by_one, split_by_the_largest],
        wrong=[
            Wrong(split_mean, says="averaged as if all counted alike"),
            Wrong(split_by_logarithms, says="log-sum-exps are logarithms"),
            Wrong(split_over_rows, says="those of a split's rows do"),
            Wrong(split_overflows, says="with log-sum-exps of thousands the output holds NaN"),
            Wrong(split_clamped, says="the output is wrong: subtract the largest before exp"),
            Wrong(split_filled_with_little, says="a split without keys changes the output"),
            Wrong(split_lse_of_nothing, says="where no split has a key the log-sum-exp is not the logarithm of 0"),
            Wrong(split_lse_nan, says="where no split has a key the log-sum-exp is NaN"),
            Wrong(split_ends_at_the_first_empty, says="a split without keys changes the output"),
            Wrong(split_two, says="the output is not that of all keys at once"),
            Wrong(split_nan_when_empty, says="where no split has a key the output is NaN"),
            Wrong(split_largest_lse, says="its log-sum-exp is not that of all scores"),
            Wrong(split_largest_alone, says="the output is not that of all keys at once"),
            Wrong(split_output_alone, says="return two tensors"),
        ],
    ),
    "grouped_query.kernel": Bank(
        right=[kernel_running, kernel_whole_split],
        wrong=[
            Wrong(kernel_unmasked, says="37 keys in 1 split, tiles of 16: weights sum to less than 1"),
            Wrong(kernel_total_not_rescaled, says="48 keys in 1 split, tiles of 16: weights sum to less than 1"),
            Wrong(kernel_output_not_rescaled, says="weights sum to more than 1"),
            Wrong(kernel_without_maximum, says="or near -32768: the output holds NaN"),
            Wrong(kernel_without_a_kernel, says="outside its kernel it computes with PyTorch (mm)"),
            Wrong(kernel_launched_for_show, says="outside its kernel it computes with PyTorch (mm)"),
            Wrong(kernel_fills_with_little, says="or near -32768: the output is wrong"),
            Wrong(kernel_clamps, says="or near -32768: the output holds NaN"),
            Wrong(kernel_unscaled, says="scores are not scaled"),
            Wrong(kernel_last_tile, says="only the last tile counts"),
            Wrong(kernel_lse_is_the_maximum, says="96 keys in 3 splits, tiles of 16: the output is not that"),
        ],
    ),
}
