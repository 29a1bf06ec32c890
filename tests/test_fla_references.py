"""The plain PyTorch references of flash-linear-attention beside this course's forms: fla.ops.<name>.naive.

They are laid out (batch, length, heads, width) unless told; ours (batch, heads, length, width). No kernel of theirs runs.
"""

import importlib
import warnings
from pathlib import Path

import pytest
import torch
from einops import rearrange

from attncourse.linear_attention import (
    LinearState,
    linear_attention,
    linear_attention_blocked,
    linear_attention_recurrent,
    retention_decay,
)
from attncourse.softmax_attention import softmax_attention, softmax_attention_blocked

from .decayed_delta_rule import decayed_delta_rule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # says that there is no GPU
    import fla.ops

# Their references of what no room here has.
OUTSIDE = {
    "abc": "slots that keys are written to", "attnres": "attention over depth", "comba": "a delta rule with feedback to queries",
    "cyfa": "a memory of its own kind", "deltaformer": "a delta rule within softmax", "dsa": "an indexer with its own top-k",
    "gated_delta_product": "several delta steps a token", "gdn2": "two gates on the delta rule",
    "generalized_delta_rule.dplr": "a transition of its own rank", "generalized_delta_rule.iplr": "a transition of its own rank",
    "gsa": "slots that keys are written to", "hgrn": "a recurrence without keys", "log_linear_attn": "a tree of states",
    "mesa_net": "a least-squares state", "momentum_delta_rule": "a delta rule with momentum", "parallax": "a memory of its own kind",
    "path_attn": "positions by Householder products", "precond_gated_delta_rule": "a preconditioned delta rule",
    "precond_kda": "a preconditioned delta rule", "rwkv6": "a bonus for the token itself", "stickbreaking_attn": "stick breaking",
    "titans": "a network as a state", "ttt": "a network as a state", "utils.sinkhorn": "no attention", "wall_attn": "walls",
}  # fmt: skip
INSIDE = {
    "attn", "based", "delta_rule", "forgetting_attn", "gated_delta_rule", "gla", "kda", "linear_attn", "nsa", "rebased",
    "retention", "simple_gla",
}  # fmt: skip

LINEAR = {
    "reference": lambda *qkv, **options: linear_attention(*qkv, causal=True, **options, return_state=True),
    "recurrent": linear_attention_recurrent,
    "blocked": lambda *qkv, **options: linear_attention_blocked(*qkv, causal=True, **options, return_state=True),
}
SOFTMAX = {"reference": softmax_attention, "blocked": softmax_attention_blocked}
linear_forms = pytest.mark.parametrize("form", LINEAR)
softmax_forms = pytest.mark.parametrize("form", SOFTMAX)


def theirs(module, name):
    return getattr(importlib.import_module(f"fla.ops.{module}.naive"), name)


def swap(x):
    """From our layout to theirs, and back."""
    return x.transpose(1, 2)


def draw(seed, *, b=2, h=3, g=None, t=64, dk=5, dv=7):
    """Queries, keys and values of our layout."""
    rng = torch.Generator().manual_seed(seed)
    shapes = (b, h, t, dk), (b, g or h, t, dk), (b, g or h, t, dv)
    return rng, *(torch.randn(*shape, generator=rng) for shape in shapes)


def plain(form, q, k, v, **options):
    """Sums of q . k without features or normalizer, their scale on the queries."""
    options = {"feature_map": lambda x: x, "normalize": False} | options
    return LINEAR[form](q * q.shape[-1] ** -0.5, k, v, **options)


def assert_equal(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=2e-5)


@linear_forms
@pytest.mark.parametrize("t", [1, 13, 128])
def test_linear_attention(form, t):
    rng, q, k, v = draw(0, t=t)
    past = torch.randn(2, 3, 5, 7, generator=rng)
    out, S = theirs("linear_attn", "naive_recurrent_linear_attn")(
        *map(swap, (q, k, v)), initial_state=past, output_final_state=True
    )
    found, state = plain(form, q, k, v, state=LinearState(past, torch.zeros(2, 3, 5)))
    assert_equal(found, swap(out))
    assert_equal(state.S, S)
    if t % 64 == 0:
        assert_equal(
            plain(form, q, k, v)[0], swap(theirs("linear_attn", "naive_chunk_linear_attn")(*map(swap, (q, k, v))))
        )


@linear_forms
def test_normalized_linear_attention(form):
    _, q, k, v = draw(1)
    q, k = q.abs() + 0.1, k.abs() + 0.1  # as features: their sum is what is divided by
    found, state = plain(form, q, k, v, normalize=True)
    out, (S, z) = theirs("linear_attn", "naive_recurrent_linear_attn")(
        *map(swap, (q, k, v)), normalize=True, output_final_state=True
    )
    assert_equal(found, swap(out))
    assert_equal(state.S, S)
    assert_equal(state.z, z[:, 0])
    assert_equal(found, swap(theirs("linear_attn", "naive_chunk_linear_attn")(*map(swap, (q, k, v)), normalize=True)))


@linear_forms
def test_retention(form):
    _, q, k, v = draw(2, h=4, t=50)
    assert_equal(plain(form, q, k, v, decay=retention_decay(4))[0], theirs("retention", "naive_retention")(q, k, v))


@linear_forms
@pytest.mark.parametrize("name", ["naive_recurrent_simple_gla", "naive_chunk_simple_gla", "naive_parallel_simple_gla"])
def test_a_decay_a_step(form, name):
    rng, q, k, v = draw(3, dk=6, dv=6)
    decay = torch.rand(2, 3, 64, generator=rng) * 0.5 + 0.5
    result = theirs("simple_gla", name)(*map(swap, (q, k, v, decay.log())))
    out = result[0] if isinstance(result, tuple) else result
    out = out if out.shape[1] == 64 else swap(out)
    found, state = plain(form, q, k, v, decay=decay[..., None])
    assert_equal(found, swap(out))
    if name == "naive_recurrent_simple_gla":
        assert_equal(state.S, result[1])


@linear_forms
def test_a_decay_a_step_and_feature(form):
    rng, q, k, v = draw(4, t=29)
    decay, past = torch.rand(2, 3, 29, 5, generator=rng) * 0.5 + 0.5, torch.randn(2, 3, 5, 7, generator=rng)
    out, S = theirs("gla", "naive_recurrent_gla")(
        *map(swap, (q, k, v, decay.log())), initial_state=past, output_final_state=True
    )
    found, state = plain(form, q, k, v, decay=decay, state=LinearState(past, torch.zeros(2, 3, 5)))
    assert_equal(found, swap(out))
    assert_equal(state.S, S)


def square(x):
    """x (x) x: its products are the squares of x's."""
    return torch.einsum("...i,...j->...ij", x, x).flatten(-2)


def taylor(x):
    """1, x and x (x) x / sqrt 2: their products are the first terms of an exponential."""
    return torch.cat([torch.ones_like(x[..., :1]), x, square(x) / 2**0.5], dim=-1)


@linear_forms
@pytest.mark.parametrize(("module", "feature_map"), [("based", taylor), ("rebased", square)])
@pytest.mark.parametrize("normalize", [True, False])
def test_features_of_second_order(form, module, feature_map, normalize):
    _, q, k, v = draw(5, t=33)
    q = q + 2 * k  # so that no row's weights are near 0, where their 1e-6 counts
    out = theirs(module, f"naive_parallel_{module}")(q, k, v, use_norm=normalize)
    assert_equal(plain(form, q, k, v, feature_map=feature_map, normalize=normalize)[0], out)


@pytest.mark.parametrize("name", ["delta_rule_recurrence", "delta_rule_chunkwise", "delta_rule_parallel"])
def test_delta_rule(name):
    rng, q, k, v = draw(6, t=128)
    k, beta = torch.nn.functional.normalize(k, dim=-1), torch.rand(2, 3, 128, generator=rng)
    result = theirs("delta_rule", name)(q, k, v, beta)
    found, S = decayed_delta_rule(q * 5**-0.5, k, v, beta)
    assert_equal(found, result[0])
    if name == "delta_rule_recurrence":
        assert_equal(S, result[1])


@pytest.mark.parametrize("width", [1, 5])
def test_decayed_delta_rule(width):
    """Gated DeltaNet has a decay a step, Kimi Delta Attention one a feature."""
    rng, q, k, v = draw(7, t=21)
    k, beta = torch.nn.functional.normalize(k, dim=-1), torch.rand(2, 3, 21, generator=rng)
    decay, past = torch.rand(2, 3, 21, width, generator=rng) * 0.5 + 0.5, torch.randn(2, 3, 5, 7, generator=rng)
    given = {"beta": swap(beta), "initial_state": past, "output_final_state": True}
    if width == 1:
        given["g"] = swap(decay[..., 0].log())
        out, S = theirs("gated_delta_rule", "naive_recurrent_gated_delta_rule")(*map(swap, (q, k, v)), **given)
    else:
        given["g"] = swap(decay.log())
        out, S = theirs("kda", "naive_recurrent_kda")(*map(swap, (q, k, v)), **given)
    found, state = decayed_delta_rule(q * 5**-0.5, k, v, beta, decay=decay, state=past)
    assert_equal(found, swap(out))
    assert_equal(state, S)


@softmax_forms
@pytest.mark.parametrize(
    "options", [{"causal": False}, {}, {"window_size": 5}, {"window_size": 1}, {"scale": 0.3}], ids=str
)
def test_softmax_attention(form, options):
    _, q, k, v = draw(8, h=6, g=2, t=37)
    out, _ = theirs("attn", "naive_parallel_attn")(*map(swap, (q, k, v)), **options)
    ours = {"causal": options.get("causal", True), "window": options.get("window_size"), "scale": options.get("scale")}
    assert_equal(SOFTMAX[form](q, k, v, **ours), swap(out))


@softmax_forms
@pytest.mark.parametrize("window", [None, 4])
def test_decoding_of_packed_sequences(form, window):
    """One query a sequence; theirs lie one behind the other, ours are padded."""
    lengths = torch.tensor([9, 1, 0, 4])
    _, q, k, v = draw(9, b=4, h=6, g=2, t=9)
    packed = [torch.cat([row[:, :n] for row, n in zip(x, lengths, strict=True)], dim=1)[None] for x in (k, v)]
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    query = q[:, :, :1]
    out = theirs("attn", "naive_attn_decoding")(
        rearrange(query, "b h 1 d -> 1 b h d"), *map(swap, packed), cu_seqlens=starts, window_size=window
    )
    far = None if window is None else torch.arange(9) >= lengths[:, None, None, None] - window
    found = SOFTMAX[form](query, k, v, key_lengths=lengths, mask=far)
    assert_equal(found, rearrange(out, "1 b h d -> b h 1 d"))


@softmax_forms
@pytest.mark.parametrize("window", [None, 6])
def test_forgetting_attention(form, window):
    """What a head forgets at each step is added to its scores."""
    rng, q, k, v = draw(10, h=6, g=2, t=23, dv=5)
    gates = torch.rand(2, 6, 23, generator=rng).log()
    out = theirs("forgetting_attn", "naive_forgetting_attn")(*map(swap, (q, k, v, gates)), window_size=window)
    since = gates.cumsum(-1)
    added = since[..., :, None] - since[..., None, :]
    assert_equal(SOFTMAX[form](q, k, v, causal=True, window=window, mask=added), swap(out))
    out, _ = theirs("attn", "naive_parallel_attn")(*map(swap, (q, k, v)), g=swap(gates), window_size=window)
    assert_equal(SOFTMAX[form](q, k, v, causal=True, window=window, mask=added), swap(out))


@softmax_forms
def test_selected_blocks(form):
    """Native sparse attention's chosen blocks, as a mask."""
    rng, q, k, v = draw(11, b=2, h=4, g=2, t=24, dv=5)
    size, blocks = 4, 6
    own = torch.arange(24) // size
    chosen = torch.stack([torch.randperm(blocks, generator=rng)[:3] for _ in range(2 * 24 * 2)]).view(2, 24, 2, 3)
    chosen[..., 0] = own[:, None]  # each query's own block, so that it sees something
    repeated = (chosen[..., 1:] == chosen[..., :1]) | (chosen[..., 1:].flip(-1) == chosen[..., 1:])
    chosen[..., 1:] = chosen[..., 1:].masked_fill(repeated, -1)  # a block chosen twice counts twice there
    out = theirs("nsa", "naive_nsa_selection")(*map(swap, (q, k, v)), chosen, block_size=size)
    mask = (chosen[..., None] == own).any(dim=3)  # (b, t, g, s)
    mask = rearrange(mask, "b t g s -> b g t s").repeat_interleave(2, dim=1)
    assert_equal(SOFTMAX[form](q, k, v, causal=True, mask=mask), swap(out))


def test_every_reference_of_theirs_is_run_or_listed():
    ops = Path(fla.ops.__file__).parent
    found = {".".join(path.relative_to(ops).parts[:-1]) for path in ops.rglob("*naive.py")}
    assert found >= INSIDE and not INSIDE & OUTSIDE.keys()
    assert found <= INSIDE | OUTSIDE.keys(), f"new: {', '.join(sorted(found - INSIDE - OUTSIDE.keys()))}"
