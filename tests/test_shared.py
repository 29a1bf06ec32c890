"""Masks, the softmax over them, and the merge: against loops."""

import importlib.metadata
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncourse._shared.launch import triton_is_old
from attncourse._shared.masks import (
    apply_mask,
    blank_padding,
    causal_mask,
    length_mask,
    masked_softmax,
    narrow_mask,
    window_mask,
)
from attncourse._shared.merge import merge_partial
from attncourse._shared.precision import as_autocast, autocast_dtype, outside_autocast, wide
from attncourse._shared.validate import check_tensors
from attncourse.testing import relative_error


@pytest.mark.parametrize(("t", "s"), [(1, 1), (5, 5), (3, 7), (7, 3)])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_masks_are_aligned_to_the_end(t, s, window):
    mask = causal_mask(t, s) if window is None else window_mask(t, s, window=window)
    for i in range(t):
        for j in range(s):
            position = s - t + i
            seen = j <= position and (window is None or j > position - window)
            assert bool(mask[i, j]) == seen


def test_a_window_counts_the_querys_own_key():
    assert window_mask(6, 6, window=2).sum(dim=-1).tolist() == [1, 2, 2, 2, 2, 2]


def test_length_mask_is_a_row_of_batches():
    assert length_mask(torch.tensor([0, 2]), 3)[:, 0, 0].tolist() == [[False] * 3, [True, True, False]]


def test_blank_padding_removes_nan_and_its_gradient():
    x = torch.ones(2, 1, 3, 2, dtype=torch.float64)
    x[1, :, 1:] = torch.nan
    x.requires_grad_()
    blanked = blank_padding(x, torch.tensor([3, 1]))
    assert blanked.isfinite().all()
    blanked.sum().backward()
    assert x.grad[1, 0].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_masked_softmax_agrees_with_softmax_and_gives_zeros_where_nothing_is_seen():
    scores = torch.randn(2, 1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(masked_softmax(scores), torch.softmax(scores, dim=-1))
    scores[0, 0, 1] = -torch.inf
    scores.requires_grad_()
    weights = masked_softmax(scores)
    assert weights[0, 0, 1].tolist() == [0] * 5
    weights.square().sum().backward()
    assert scores.grad.isfinite().all()


def test_a_mask_of_floats_is_added():
    scores = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    assert apply_mask(scores, torch.tensor([1.5, -torch.inf], dtype=torch.float64))[0, 0, 0].tolist() == [
        1.5,
        -math.inf,
    ]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 2**31))
def test_any_split_merges_to_the_unsplit_result(parts, seed):
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, sum(parts), generator=rng, dtype=torch.float64) * 3
    values = torch.randn(sum(parts), 3, generator=rng, dtype=torch.float64)

    def attend(scores, values):
        if scores.shape[-1] == 0:
            return torch.zeros(4, 3, dtype=torch.float64), torch.full((4,), -torch.inf, dtype=torch.float64)
        return torch.softmax(scores, dim=-1) @ values, scores.logsumexp(dim=-1)

    out, lse = attend(scores[:, :0], values[:0])
    for piece_scores, piece_values in zip(scores.split(parts, dim=1), values.split(parts), strict=True):
        out, lse = merge_partial(out, lse, *attend(piece_scores, piece_values))
    whole, whole_lse = attend(scores, values)
    torch.testing.assert_close(out, whole)
    torch.testing.assert_close(lse, whole_lse)


def test_the_merge_has_gradients_also_beside_an_empty_part():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 2, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    lse_a, lse_b = (torch.randn(3, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(merge_partial, (a, lse_a, b, lse_b))
    out, _ = merge_partial(a, lse_a, b, torch.full((3,), -torch.inf, dtype=torch.float64))
    assert relative_error(out, a) == 0


# Triton where it is missing, and where its interpreter is old.

ROOT = Path(__file__).parents[1]
WITHOUT_TRITON = """
import importlib, sys, torch
sys.modules["triton"] = None
from attncourse.softmax_attention import SoftmaxAttention

def said(call):
    try:
        call()
    except ImportError as error:
        return str(error)

x = torch.randn(1, 5, 8)
for impl in ("reference", "blocked", "torch"):
    SoftmaxAttention(8, impl=impl)(x)
layer = SoftmaxAttention(8, impl="triton")
calls = [lambda: layer(x), *(lambda name=name: importlib.import_module(name) for name in sys.argv[1:])]
for call in calls:
    assert "pip install triton" in said(call) and "Every other impl runs without it" in said(call)
"""
OLD_TRITON = """
import importlib.metadata, os, sys
version = importlib.metadata.version
importlib.metadata.version = lambda name: sys.argv[1] if name == "triton" else version(name)
os.environ["TRITON_INTERPRET"] = "1"
import torch
import triton.language as tl
import triton
from triton.runtime import interpreter
patch = interpreter._patch_lang_tensor

def old(tensor, *scope):
    patch(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data)

interpreter._patch_lang_tensor = old

def total(x_ptr, out_ptr, n):
    acc = 0.0
    for i in range(n):
        acc += tl.load(x_ptr + i)
    tl.store(out_ptr, acc)

def run():
    out = torch.zeros(1)
    triton.jit(total)[(1,)](torch.arange(5.0), out, 5)
    return out.item()

try:
    run()
except Exception as error:
    assert "only 0-dimensional arrays" in str(error), error
else:
    raise SystemExit("the interpreter of this test is not the old one")
import attncourse.masks
"""
MENDED = OLD_TRITON + "assert run() == 10.0"
NO_INTERPRETER = """
import importlib.metadata, os
version = importlib.metadata.version
importlib.metadata.version = lambda name: "3.6.0" if name == "triton" else version(name)
os.environ["TRITON_INTERPRET"] = "1"
import torch
from triton.runtime import interpreter
interpreter.GridExecutor.__call__ = lambda *_, **__: 1 / 0
import attncourse.masks
"""
SAYS_SO = """
import importlib
from attncourse.softmax_attention import SoftmaxAttention
x = torch.randn(1, 5, 8)
for impl in ("reference", "blocked", "torch"):
    SoftmaxAttention(8, impl=impl)(x)
for call in (lambda: SoftmaxAttention(8, impl="triton")(x), lambda: importlib.import_module("attncourse.additive.kernel")):
    try:
        call()
    except ImportError as error:
        assert "cannot interpret kernels beside NumPy" in str(error) and "pip install 'numpy<2.4'" in str(error), error
    else:
        raise SystemExit("a kernel was imported that cannot run")
"""


def run(script: str, *arguments: str) -> None:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_without_triton_every_kernel_says_what_to_install():
    kernels = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for place in ("*", "lessons/*")
        for path in sorted(ROOT.glob(f"attncourse/{place}/kernel.py"))
    ]
    assert len(kernels) >= 13
    run(WITHOUT_TRITON, *kernels)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="an older NumPy converts such arrays")
def test_loops_of_a_learners_kernel_run_in_an_old_interpreter():
    run(MENDED, "3.6.0")


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="an older NumPy converts such arrays")
def test_an_old_interpreter_in_a_triton_that_counts_as_new_says_so_when_kernels_are_imported():
    run(OLD_TRITON + SAYS_SO, "3.9.0")


def test_an_interpreter_beyond_repair_says_so_when_kernels_are_imported_and_the_package_is_imported_all_the_same():
    run(NO_INTERPRETER + SAYS_SO)


@pytest.mark.parametrize(("triton", "old"), [("2.3.1", True), ("3.6.0", True), ("3.7.0", False), ("3.10.0+git", False)])
def test_an_old_interpreter_is_known_by_its_version(triton, old, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {"triton": triton}.__getitem__)
    assert triton_is_old() == old


def test_a_narrower_mask_keeps_what_is_finite_finite():
    mask = torch.tensor([-torch.inf, torch.finfo(torch.float32).min, -1e9, -1.0, 2.0])
    for dtype in (torch.float16, torch.bfloat16):
        narrow = narrow_mask(mask, dtype)
        assert narrow.dtype == dtype
        assert narrow.isfinite().tolist() == [False, True, True, True, True]
        assert narrow[3:].tolist() == [-1.0, 2.0]


def test_sums_keep_their_precision_under_autocast():
    @outside_autocast
    def product(x):
        return wide(x) @ wide(x)

    x = torch.full((2, 2), 1.00390625)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == autocast_dtype(x.device) == torch.bfloat16
        assert torch.equal(product(x), product.__wrapped__(x.double()).float())
        assert (
            as_autocast(x, x.double())[0].dtype == torch.bfloat16
            and as_autocast(x, x.double())[1].dtype == torch.float64
        )
    assert autocast_dtype(x.device) is None and autocast_dtype(torch.device("meta")) is None
    assert wide(x.half()).dtype == torch.float32 and wide(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        (torch.zeros(2).double(), "q, k must share one dtype, got q: torch.float"),
        (torch.zeros(2, device="meta"), "q, k must share one device, got q: "),
        (torch.zeros(2).int(), "must be floating point, got torch.int32"),
        ([0.0, 0.0], "must be a torch.Tensor, got list"),
    ],
)
def test_tensors_that_differ_are_refused_whichever_comes_first(other, rule):
    x = torch.zeros(2)
    check_tensors(q=x, k=x.clone())
    for pair in (dict(q=x, k=other), dict(q=other, k=x)):
        with pytest.raises(ValueError, match=rule):
            check_tensors(**pair)


def test_tensors_that_agree_in_what_they_must_not_be_are_refused():
    with pytest.raises(ValueError, match="q must be floating point, got torch.int32"):
        check_tensors(q=torch.zeros(2).int(), k=torch.zeros(2).int())
    with pytest.raises(ValueError, match="q must be a torch.Tensor, got int"):
        check_tensors(q=1, k=1)


def test_what_autocast_does_is_asked_in_words_that_every_supported_compiler_can_trace(monkeypatch):
    """torch.compile of PyTorch 2.11 breaks the graph at is_autocast_available."""
    monkeypatch.setattr(torch.amp, "is_autocast_available", None)
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_dtype(torch.device("cpu")) == torch.bfloat16
        assert autocast_dtype(torch.device("meta")) is None
    assert autocast_dtype(torch.device("cpu")) is None
