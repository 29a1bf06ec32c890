"""The designs that `choose` ranks: what each gives up, where it does not apply, and what it costs in one layer.

Decoding is counted by `attncourse.kv_cache.cost`, training by `attncourse.profile.counts`: the least that any form moves
and computes. A training step is counted as three forward passes: the gradient of a product is two products of its size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from attncourse.additive.cost import additive_count
from attncourse.kv_cache import cost
from attncourse.linear_attention.cost import linear_attention_count
from attncourse.multiplicative.cost import general_count
from attncourse.profile.counts import Count, Size, attention_count, banded_pairs, projection_count

from .job import Job, Shape

FORWARD_AND_BACKWARD = 3
N_GLOBAL = 4  # hubs of global and local attention, as many as `attncourse profile` gives it


@dataclass(frozen=True)
class Costs:
    """One step of a whole model.

    Args:
        attention: what is read, scored and mixed, all layers.
        others: projections and feed-forward, all layers.
        cache_bytes_per_token: what one more token of context adds to what is kept; 0 for a state that does not grow, or
            where nothing is kept.
        held_bytes: kept between steps (decoding), or from the forward pass for the backward one (training).
    """

    attention: Count
    others: Count
    cache_bytes_per_token: int
    held_bytes: int


@dataclass(frozen=True)
class Design:
    """One way to attend.

    Args:
        name: as its room, or as its layer.
        gives_up: what a model loses by it, in words.
        applies: the rules that exclude it from a job, in words; none where it applies.
        costs: of a step.
    """

    name: str
    gives_up: str
    applies: Callable[[Job], list[str]]
    costs: Callable[[Job], Costs]


def _times(count: Count, factor: int) -> Count:
    return Count(factor * count.flops, factor * count.bytes)


def _step(job: Job, attention: Count, projections: Count, *, held: int, per_token: int = 0) -> Costs:
    """Return the count of the model's step, from that of one layer's forward pass."""
    shape, passes = job.shape, FORWARD_AND_BACKWARD if job.phase == "training" else 1
    feed = projection_count(job.rows, shape.d_model, shape.d_feed, itemsize=job.itemsize, bias=False)
    feed += projection_count(job.rows, shape.d_feed, shape.d_model, itemsize=job.itemsize, bias=False)
    factor = passes * shape.n_layers
    others = _on_device(job, _times(projections + feed, factor))
    return Costs(_times(attention, factor), others, per_token, held)


def _on_device(job: Job, count: Count) -> Count:
    """Return each device's share of what is split evenly: heads, and with them the columns of every matrix."""
    return Count(count.flops // job.tensor_parallel, count.bytes // job.tensor_parallel)


def _projections(job: Job, *widths: tuple[int, int], rows: int | None = None) -> Count:
    """Count linear layers from one width to another, each on so many rows (default: the step's)."""
    rows = job.rows if rows is None else rows
    counts = (projection_count(rows, *pair, itemsize=job.itemsize, bias=False) for pair in widths)
    return sum(counts, start=Count(0, 0))


def _key_value_projections(shape: Shape, n_kv_heads: int) -> tuple[tuple[int, int], ...]:
    """Return the widths of the projections to queries, keys, values and output."""
    width, narrow = shape.n_heads * shape.head_dim, n_kv_heads * shape.head_dim
    return (shape.d_model, width), (shape.d_model, narrow), (shape.d_model, narrow), (width, shape.d_model)


def _size(job: Job, n_kv_heads: int) -> Size:
    """Return the size of one layer's attention over everything that a step's queries could see."""
    shape, keys = job.shape, job.source_length or job.length
    return Size(job.batch, shape.n_heads, n_kv_heads, job.queries, keys, shape.head_dim, shape.head_dim)


def _config(shape: Shape, n_kv_heads: int, window: int | None = None) -> dict:
    return {
        "num_hidden_layers": shape.n_layers, "num_attention_heads": shape.n_heads, "num_key_value_heads": n_kv_heads,
        "head_dim": shape.head_dim, "sliding_window": window,
    }  # fmt: skip


def _decode(job: Job, config: dict, projections: Count) -> Costs:
    """Return the costs of decoding from a cache, by the calculator:
    the cache is read once, and each query head meets each token.
    """
    devices = job.tensor_parallel
    cached = cost(config, context=job.length, batch=job.batch, dtype=job.dtype, tensor_parallel=devices)
    full = all(layer.window is None or layer.window > job.length for layer in cached.layers)
    per_token = sum(layer.on_device(layer.bytes_per_token, devices) for layer in cached.layers)
    step = _step(job, Count(0, 0), projections, held=cached.bytes_on_device, per_token=full * per_token)
    attention = Count(cached.flops_per_step // devices, cached.bytes_read_on_device)
    return Costs(attention, step.others, step.cache_bytes_per_token, step.held_bytes)


def _softmax_costs(job: Job, n_kv_heads: int, *, before: int | None = None) -> Costs:
    """Return the costs of multi-head or grouped attention,
    to every key or to those at most `before` behind (and, not causal, ahead).
    """
    projections = _projections(job, *_key_value_projections(job.shape, n_kv_heads))
    if job.phase == "decoding":
        window = None if before is None else before + 1
        return _decode(job, _config(job.shape, n_kv_heads, window), projections)
    pairs = banded_pairs(job.length, job.length, before=before, after=0 if job.causal else before)
    return _train(job, n_kv_heads, pairs, projections)


def _train(job: Job, n_kv_heads: int, pairs: int, projections: Count) -> Costs:
    """Return the costs of training: queries, keys, values and outputs are kept for the backward pass;
    weights are computed again.
    """
    attention = attention_count(_size(job, n_kv_heads), pairs=pairs, itemsize=job.itemsize)
    return _step(job, attention, projections, held=job.shape.n_layers * attention.bytes)


def _latent_costs(job: Job) -> Costs:
    """Return the costs of latent attention:
    expanded in training, with keys and values for each head, and absorbed in decoding.
    """
    shape = job.shape
    heads, width, rope, rank = shape.n_heads, shape.head_dim, shape.qk_rope_head_dim, shape.kv_lora_rank
    projections = _projections(
        job, (shape.d_model, heads * (width + rope)), (shape.d_model, rank + rope), (rank, 2 * heads * width),
        (heads * width, shape.d_model),
    )  # fmt: skip
    if job.phase == "decoding":
        config = _config(shape, heads) | {
            "kv_lora_rank": rank, "qk_rope_head_dim": rope, "qk_nope_head_dim": width, "v_head_dim": width,
        }  # fmt: skip
        return _decode(job, config, projections)
    size = Size(job.batch, heads, heads, job.length, job.length, width + rope, width)
    attention = attention_count(size, pairs=banded_pairs(job.length, job.length, after=0), itemsize=job.itemsize)
    return _step(job, attention, projections, held=shape.n_layers * attention.bytes)


def strided_pairs(length: int, stride: int) -> int:
    """Return the pairs of `block_sparse.strided`: itself, the `stride` tokens before, and every stride-th before these."""
    blocks, rest = divmod(length, stride)  # the queries of block b see every stride-th of b - 1 blocks before theirs
    near = length + math.comb(min(length, stride), 2) + max(length - stride, 0) * stride
    far = stride * math.comb(max(blocks - 1, 0), 2) + rest * max(blocks - 1, 0)
    return near + far


def strided_keys(position: int, stride: int) -> int:
    """Return how many keys the query at this position sees."""
    return min(position, stride) + 1 + max(position // stride - 1, 0)


def _block_sparse_costs(job: Job) -> Costs:
    """Strided: in decoding any key may be asked for later, so all are kept and few are read."""
    shape, stride = job.shape, job.near
    projections = _projections(job, *_key_value_projections(shape, shape.n_heads))
    if job.phase == "decoding":
        whole = _decode(job, _config(shape, shape.n_heads), projections)
        seen = strided_keys(job.length - 1, stride)
        flops, size = (x // job.length * seen for x in (whole.attention.flops, whole.attention.bytes))
        return Costs(Count(flops, size), whole.others, whole.cache_bytes_per_token, whole.held_bytes)
    pairs = strided_pairs(job.length, stride)
    return _train(job, shape.n_heads, pairs if job.causal else 2 * pairs - job.length, projections)


def global_local_pairs(length: int, *, radius: int, n_global: int) -> int:
    """Return the pairs of `global_local_mask` with the first tokens global:
    a band, and the hubs' rows and columns outside it.
    """
    band = banded_pairs(length, length, before=radius, after=radius)
    outside = sum(length - min(p + radius + 1, length) + max(p - radius, 0) for p in range(n_global))
    among = sum(1 for p in range(n_global) for j in range(n_global) if abs(p - j) > radius)
    return band + 2 * outside - among


def _global_local_costs(job: Job) -> Costs:
    n_global = min(N_GLOBAL, job.length)
    pairs = global_local_pairs(job.length, radius=job.near - 1, n_global=n_global)
    projections = _projections(job, *_key_value_projections(job.shape, job.shape.n_heads))
    return _train(job, job.shape.n_heads, pairs, projections)


def _linear_costs(job: Job) -> Costs:
    """Return the costs of a state of float32 per head, with its normalizer,
    read and written for each token that is written.
    """
    shape = job.shape
    projections = _projections(job, *_key_value_projections(shape, shape.n_heads))
    if job.phase == "training":
        attention = linear_attention_count(_size(job, shape.n_heads), itemsize=job.itemsize)
        return _step(job, attention, projections, held=shape.n_layers * attention.bytes)
    state = 4 * job.batch * shape.n_heads * shape.head_dim * (shape.head_dim + 1)
    one = Size(job.batch, shape.n_heads, shape.n_heads, 1, 1, shape.head_dim, shape.head_dim)
    flops = linear_attention_count(one, itemsize=job.itemsize).flops
    count = _on_device(job, Count(flops, 2 * state))
    return _step(job, count, projections, held=shape.n_layers * state // job.tensor_parallel)


def _cross_costs(job: Job, attention: Callable[[Size], Count]) -> Costs:
    """Return the costs of queries over another sequence's keys and values,
    which in decoding were projected once, and are kept.
    """
    shape, training = job.shape, job.phase == "training"
    queries, keys, values, out = _key_value_projections(shape, shape.n_heads)
    projections = _projections(job, queries, out)
    if training:
        projections += _projections(job, keys, values, rows=job.batch * job.source_length)
    per_token = 2 * shape.n_heads * shape.head_dim * shape.n_layers * job.itemsize
    count = attention(_size(job, shape.n_heads))
    if training:
        return _step(job, count, projections, held=shape.n_layers * count.bytes)
    per_token //= job.tensor_parallel
    held = job.batch * job.source_length * per_token
    return _step(job, _on_device(job, count), projections, held=held, per_token=per_token)


def _cross_attention(job: Job, size: Size) -> Count:
    return attention_count(size, pairs=size.t * size.s, itemsize=job.itemsize)


def _general(job: Job, size: Size) -> Count:
    return general_count(size, pairs=size.t * size.s, itemsize=job.itemsize)


def _additive(job: Job, size: Size) -> Count:
    """Count additive attention with a hidden layer as wide as a head; in decoding the keys' part of it is what is kept."""
    if job.phase == "training":
        return additive_count(size, pairs=size.t * size.s, hidden=size.dk, itemsize=job.itemsize)
    of_pairs = size.b * size.h * size.t * size.s * (3 * size.dk + 2 * size.dv)
    of_queries = 2 * size.b * size.h * size.t * size.dk**2
    return Count(of_pairs + of_queries, _cross_attention(job, size).bytes)


def _reads_itself(job: Job) -> list[str]:
    return [] if job.source_length is None else ["it reads its own sequence only, and here another one is read"]


def _reads_another(job: Job) -> list[str]:
    return ["it reads a second sequence, and here there is none"] if job.source_length is None else []


def _groups_heads(job: Job) -> list[str]:
    same = ["with a key/value head for each query head it is multi-head attention"]
    return _reads_itself(job) + (same if job.n_kv_heads == job.shape.n_heads else [])


def _shares_one_head(job: Job) -> list[str]:
    heads, most = job.shape.n_heads, job.may_share
    shares = [f"all its {heads} query heads share a key/value head, and at most {most} may"]
    return _reads_itself(job) + (shares if most is not None and heads > most else [])


def _shrinks_a_cache(job: Job) -> list[str]:
    no_cache = ["it shrinks the cache of a decoder, and what reads both sides keeps no cache"]
    return _reads_itself(job) + ([] if job.causal else no_cache)


def _sees_a_window(job: Job) -> list[str]:
    deaf = ["what a token needs may stand anywhere, and it sees nothing beyond its window"]
    return _reads_itself(job) + (deaf if job.locality is None else [])


def _leaves_pairs_out(job: Job) -> list[str]:
    left_out = ["it leaves pairs out, and here every pair may matter"]
    return _reads_itself(job) + (left_out if job.exact and job.locality is None else [])


def _has_hubs(job: Job) -> list[str]:
    return _leaves_pairs_out(job) + (["its global tokens read what comes later"] if job.causal else [])


def _has_no_softmax(job: Job) -> list[str]:
    return _reads_itself(job) + (["it is not softmax attention, and here exactness is asked for"] if job.exact else [])


# From the one that gives up least: where costs are alike, the earlier is preferred. Grouped-query attention changes one number
# of a multi-head layer; latent attention changes the layer, its positions and the form in which it decodes.
DESIGNS = (
    Design(
        "multi_head", "nothing: every pair is weighed, by each head in its own way", _reads_itself,
        lambda job: _softmax_costs(job, job.shape.n_heads),
    ),
    Design(
        "grouped_query", "some of the heads' own keys and values", _groups_heads,
        lambda job: _softmax_costs(job, job.n_kv_heads),
    ),
    Design(
        "latent", "simplicity: keys and values of a low rank, a position apart, two forms of one layer", _shrinks_a_cache,
        _latent_costs,
    ),
    Design("multi_query", "all of the heads' own keys and values", _shares_one_head, lambda job: _softmax_costs(job, 1)),
    Design(
        "sliding_window", "everything beyond the window", _sees_a_window,
        lambda job: _softmax_costs(job, job.shape.n_heads, before=job.near - 1),
    ),
    Design("block_sparse", "most far pairs; two layers connect them", _leaves_pairs_out, _block_sparse_costs),
    Design("global_local", "far pairs, except through a few global tokens", _has_hubs, _global_local_costs),
    Design("linear_attention", "exactness: what was read is summed up in a state of fixed size", _has_no_softmax, _linear_costs),
    Design(
        "cross_attention", "nothing: every pair of the two sequences is weighed", _reads_another,
        lambda job: _cross_costs(job, lambda size: _cross_attention(job, size)),
    ),
    Design(
        "multiplicative", "nothing, at the price of a matrix more between query and key", _reads_another,
        lambda job: _cross_costs(job, lambda size: _general(job, size)),
    ),
    Design(
        "additive", "matrix products: each pair goes through a small network", _reads_another,
        lambda job: _cross_costs(job, lambda size: _additive(job, size)),
    ),
)  # fmt: skip
