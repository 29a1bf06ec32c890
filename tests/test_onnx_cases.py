"""ONNX's own cases of Attention, RotaryEmbedding and LinearAttention, run by this course's forms.

The inputs and the expected outputs are those that the `onnx` package makes for the backends that implement its operators
(onnx.backend.test.case.node): numbers that were not computed here.
"""

import importlib
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case import node as node_cases

from attncourse._shared.cache import CacheShape
from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.rope import rotate_half_split, rotate_interleaved
from attncourse.kv_cache import ContiguousCache
from attncourse.linear_attention import (
    LinearState,
    linear_attention,
    linear_attention_blocked,
    linear_attention_recurrent,
)
from attncourse.softmax_attention import (
    attention_scores,
    attention_weights,
    softmax_attention,
    softmax_attention_blocked,
    softmax_attention_torch,
)

from .decayed_delta_rule import decayed_delta_rule

# Relative to the largest entry: a few roundings of the dtype that the case has.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Case:
    """One case: its name, attributes, and inputs and outputs by the names of the operator's."""

    name: str
    options: dict
    given: dict
    wanted: dict


def _tensor(array):
    """NumPy has no bfloat16 of its own; through float32 nothing is lost."""
    array = np.asarray(array)
    return torch.tensor(array.astype(np.float32)).bfloat16() if array.dtype.name == "bfloat16" else torch.tensor(array)


def cases_of(module, operator):
    """What the module's classes hand to the suite while they are made, before it expands each into other operators."""
    found, schema = [], onnx.defs.get_schema(operator)

    def keep(node, inputs, outputs, name, **_):
        places = [place for place, used in zip((i.name for i in schema.inputs), node.input, strict=False) if used]
        results = [place for place, used in zip((o.name for o in schema.outputs), node.output, strict=False) if used]
        found.append(
            Case(
                name,
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
                dict(zip(places, map(_tensor, inputs), strict=True)),
                dict(zip(results, map(_tensor, outputs), strict=True)),
            )
        )

    np.random.seed(0)
    with mock.patch.object(node_cases, "expect", keep):
        importlib.import_module(f"{node_cases.__name__}.{module}")
    return found


ATTENTION = cases_of("attention", "Attention")
ROTARY = cases_of("rotaryembedding", "RotaryEmbedding")
LINEAR = cases_of("linear_attention", "LinearAttention")


def rule_of(case):
    return case.options.get("update_rule", b"gated_delta").decode()


def assert_equal(found, wanted):
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert not wanted.isnan().any()
    finite = wanted.isfinite()
    assert torch.equal(found.float()[~finite], wanted.float()[~finite])
    error = (found.double() - wanted.double())[finite].abs().max() if finite.any() else torch.tensor(0.0)
    assert error <= TOLERANCE[wanted.dtype] * max(1.0, wanted[finite].abs().max().item() if finite.any() else 0), error


# Attention.


def past_and_present(case, k, v):
    """Old keys and values with the new, from a cache that held the old."""
    if "past_key" not in case.given:
        return k, v
    old = case.given["past_key"], case.given["past_value"]
    shape = CacheShape(k.shape[1], (k.shape[3], v.shape[3]))
    cache = ContiguousCache(k.shape[0], shape, capacity=old[0].shape[2] + k.shape[2], dtype=k.dtype)
    cache.append(*old)
    cache.append(k, v)
    return cache.view()


def where_queries_stand(case, t):
    """ONNX counts from the start, or from what was there before: (b or 1, t, 1)."""
    first = torch.zeros(1, dtype=torch.long)
    if "past_key" in case.given:
        first += case.given["past_key"].shape[2]
    elif "nonpad_kv_seqlen" in case.given:
        first = case.given["nonpad_kv_seqlen"] - t
    return (first[:, None] + torch.arange(t))[:, :, None]


def visibility(case, t, s):
    """What the causal triangle and the window leave to see, (b or 1, 1, t, s), or None where that is everything."""
    left, right = (case.options.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if not case.options.get("is_causal") and left < 0 and right < 0:
        return None
    ahead = torch.arange(s) - where_queries_stand(case, t)
    seen = torch.ones_like(ahead, dtype=torch.bool)
    for size, distance in ((0 if case.options.get("is_causal") else -1, ahead), (right, ahead), (left, -ahead)):
        seen &= distance <= size if size >= 0 else torch.ones_like(seen)
    return seen[:, None]


def padded(mask, s):
    """Keys that a mask is too short for are not seen."""
    missing = s - mask.shape[-1]
    if mask.dtype == torch.bool:
        return torch.nn.functional.pad(mask, (0, missing), value=False)
    return torch.nn.functional.pad(mask, (0, missing), value=-torch.inf)


def masking(case, t, s):
    """The case's triangle, window, mask and lengths in this course's words; the shorter words wherever they say the same."""
    words = {}
    lengths = case.given.get("nonpad_kv_seqlen")
    seen, mask = visibility(case, t, s), case.given.get("attn_mask")
    from_the_end = lengths is None and where_queries_stand(case, t)[0, 0, 0] == s - t
    left = case.options.get("left_window_size", -1)
    if from_the_end and case.options.get("is_causal"):
        seen, words["causal"] = None, True
        if left >= 0:
            words["window"] = left + 1
    if mask is not None:
        mask = padded(mask, s)
    if seen is not None:
        mask = seen if mask is None else seen & mask if mask.dtype == torch.bool else mask.where(seen, -torch.inf)
    if mask is not None:
        words["mask"] = mask
    if lengths is not None:
        words["key_lengths"] = lengths
    return words


def attention(case, form, q, k, v):
    options = {name: case.options[name] for name in ("scale", "softcap") if name in case.options}
    return form(q, k, v, **masking(case, q.shape[2], k.shape[2]), **options)


def torch_form(q, k, v, *, window=None, **options):
    """PyTorch's has no window: here as a mask, with whatever mask there is."""
    if window is not None:
        t, s = q.shape[2], k.shape[2]
        seen = torch.arange(s) > torch.arange(s - t, s)[:, None] - window
        mask = options.pop("mask", None)
        options["mask"] = (
            seen if mask is None else mask & seen if mask.dtype == torch.bool else mask.where(seen, -torch.inf)
        )
    return softmax_attention_torch(q, k, v, **options)


FORMS = {"reference": softmax_attention, "blocked": softmax_attention_blocked, "torch": torch_form}
# PyTorch's bounds no scores: it has no softcap.
BY_FORM = [(case, form) for case in ATTENTION for form in FORMS if not (form == "torch" and "softcap" in case.options)]


@pytest.mark.parametrize(
    ("case", "form"), BY_FORM, ids=[f"{case.name.removeprefix('test_attention_')}-{form}" for case, form in BY_FORM]
)
def test_attention(case, form):
    flat = case.given["Q"].ndim == 3
    heads = [case.options["q_num_heads"], *[case.options["kv_num_heads"]] * 2] if flat else [None] * 3
    q, k, v = (split_heads(case.given[x], h) if flat else case.given[x] for x, h in zip("QKV", heads, strict=True))
    k, v = past_and_present(case, k, v)
    out = attention(case, FORMS[form], q, k, v)
    assert_equal(merge_heads(out) if flat else out, case.wanted["Y"])
    for name, present in (("present_key", k), ("present_value", v)):
        if name in case.wanted:
            assert torch.equal(present, case.wanted[name])
    if "qk_matmul_output" in case.wanted and form == "reference":
        assert_equal(scores(case, q, k), case.wanted["qk_matmul_output"])


def scores(case, q, k):
    """Bare scores, bounded ones, masked ones or weights, as the case asks."""
    options = {name: case.options[name] for name in ("scale", "softcap") if name in case.options}
    mode = case.options.get("qk_matmul_output_mode", 0)
    words = masking(case, q.shape[2], k.shape[2]) if mode >= 2 else {}
    return (attention_weights if mode == 3 else attention_scores)(q, k, **words, **options)


# Rotary positions.


@pytest.mark.parametrize("case", ROTARY, ids=lambda case: case.name.removeprefix("test_rotary_embedding_"))
def test_rotary_embedding(case):
    """The suite's "cosines" and "sines" are any numbers: a turn by an angle, times a length."""
    x = case.given["X"]
    flat = x.ndim == 3
    x = split_heads(x, case.options["num_heads"]) if flat else x
    width = case.options.get("rotary_embedding_dim", 0) or x.shape[-1]
    cos, sin = case.given["cos_cache"], case.given["sin_cache"]
    if "position_ids" in case.given:
        cos, sin = (part[case.given["position_ids"]] for part in (cos, sin))
    angles, lengths = torch.atan2(sin, cos)[:, None], torch.hypot(cos, sin)[:, None]
    if case.options.get("interleaved"):
        turned, lengths = rotate_interleaved(x[..., :width], angles), lengths.repeat_interleave(2, dim=-1)
    else:
        turned, lengths = rotate_half_split(x[..., :width], angles), torch.cat([lengths, lengths], dim=-1)
    out = torch.cat([turned * lengths, x[..., width:]], dim=-1)
    assert_equal(merge_heads(out) if flat else out, case.wanted["Y"])


# Linear attention.


def linear_inputs(case):
    options, given = case.options, case.given
    h, g = options["q_num_heads"], options["kv_num_heads"]
    q, k, v = (split_heads(given[x], n) for x, n in (("query", h), ("key", g), ("value", g)))
    scale = options.get("scale", 0.0) or q.shape[-1] ** -0.5
    return q.float() * scale, k.float(), v.float()


def linear_form(form):
    """A form without features, normalizer or triangle to choose."""
    causal = {} if form is linear_attention_recurrent else {"causal": True}
    return lambda q, k, v, **options: form(q, k, v, feature_map=lambda x: x, normalize=False, **causal, **options)


LINEAR_FORMS = {
    "reference": linear_form(partial(linear_attention, return_state=True)),
    "recurrent": linear_form(linear_attention_recurrent),
    "blocked": linear_form(partial(linear_attention_blocked, return_state=True)),
}


LINEAR_BY_FORM = [
    (case, form) for case in LINEAR for form in (("delta",) if "delta" in rule_of(case) else LINEAR_FORMS)
]


@pytest.mark.parametrize(
    ("case", "form"),
    LINEAR_BY_FORM,
    ids=[f"{case.name.removeprefix('test_linear_attention_')}-{form}" for case, form in LINEAR_BY_FORM],
)
def test_linear_attention(case, form):
    q, k, v = linear_inputs(case)
    past, g = case.given.get("past_state"), k.shape[1]
    past = None if past is None else past.float()
    decay = split_heads(case.given["decay"].float(), g).exp() if "decay" in case.given else None
    if form == "delta":
        beta = case.given["beta"].float().transpose(1, 2).expand(-1, g, -1)
        out, S = decayed_delta_rule(q, k, v, beta, state=past, decay=decay)
    else:
        state = None if past is None else LinearState(past, torch.zeros(past.shape[:3]))
        out, (S, _) = LINEAR_FORMS[form](q, k, v, state=state, decay=decay)
    out_dtype, state_dtype = case.wanted["output"].dtype, case.wanted["present_state"].dtype
    assert_equal(merge_heads(out).to(out_dtype), case.wanted["output"])
    assert_equal(S.to(state_dtype), case.wanted["present_state"])


def test_how_many_cases_there_are():
    """None is left out; fewer than today's would mean that the suite is not read as it was."""
    assert len(ATTENTION) >= 93 and len(ROTARY) >= 8 and len(LINEAR) >= 14
    assert {rule_of(case) for case in LINEAR} == {"linear", "gated", "delta", "gated_delta"}
    assert len(BY_FORM) >= 268 and len(LINEAR_BY_FORM) >= 22
