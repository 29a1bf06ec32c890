"""The rules that hold for every exercise: arguments stay, memory is counted whole, kernels do the work, state comes back."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

import attncourse
from attncourse.check import run_check
from attncourse.check.core import READY_MADE_ATTENTION, Broken, Check, Crashed, LocalLearner, Missing
from attncourse.check.expect import expect_memory, numbers_in
from attncourse.grade.wall.wire import pack, receive

# arguments


def adds_in_place(x, more):
    return x.add_(1).sum() + more["y"][0].sum()


def adds_deep_inside(x, more):
    more["y"][0] += 1
    return x


def grows_a_list(x, more):
    more["y"].append(x)
    return x


def changes_a_dtype(x, more):
    x.data = x.data.double()
    return x


@pytest.mark.parametrize(
    "function, which",
    [(adds_in_place, "x"), (adds_deep_inside, "more"), (grows_a_list, "more"), (changes_a_dtype, "x")],
)
@pytest.mark.parametrize("how", ["__call__", "peak", "operations"])
def test_an_argument_changed_in_place_is_broken_and_named(function, which, how):
    args = torch.tensor([1.0, torch.nan]), {"y": [torch.ones(2)]}
    with pytest.raises(Broken, match=f"{function.__name__} changes its argument {which} in place"):
        getattr(LocalLearner(function, function.__name__), how)(*args)
    position = ("x", "more").index(which)
    getattr(LocalLearner(function, function.__name__, may_change=(position,)), how)(*args)
    torch.testing.assert_close(args[0], torch.tensor([1.0, torch.nan]), equal_nan=True)


def test_a_keyword_argument_changed_in_place_is_named_too():
    with pytest.raises(Broken, match="its argument y in place"):
        LocalLearner(lambda x, y: y.mul_(2), "f")(torch.ones(2), y=torch.ones(2))


def test_what_is_no_function_is_missing():
    with pytest.raises(Missing, match="attend is a Tensor and no function"):
        LocalLearner(torch.ones(2), "attend")(1)
    with pytest.raises(Missing, match="no function named attend is defined"):
        LocalLearner(None, "attend")(1)


def test_the_grader_s_own_states_cannot_be_raised_by_a_learner():
    def pretends():
        raise Broken("the instructor did it")

    with pytest.raises(Crashed, match="the instructor did it"):
        LocalLearner(pretends, "f")()


# shortcuts


def by_module(q, k, v):
    layer = torch.nn.MultiheadAttention(4, 1, batch_first=True).double()
    return layer(q, k, v)[0]


def switched_off(q, k, v):
    with getattr(torch._C, "Disable" + "TorchFunction")():
        return F.scaled_dot_product_attention(q, k, v)


def swallowed(q, k, v):
    try:
        return F.scaled_dot_product_attention(q, k, v)
    except Exception:
        return q @ k.mT @ v


@pytest.mark.parametrize(
    "function",
    [
        F.scaled_dot_product_attention,
        lambda q, k, v: torch._scaled_dot_product_attention_math(q, k, v)[0],
        lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0],
        by_module,
        switched_off,
        swallowed,
    ],
)
def test_no_way_to_pytorch_s_own_attention_is_open(function):
    x = torch.randn(3, 1, 2, 5, 4, dtype=torch.float64)
    x = x[:, 0] if function is by_module else x
    with pytest.raises(Broken, match="which is what this exercise asks you to write"):
        LocalLearner(function, "attend", READY_MADE_ATTENTION)(*x)
    assert LocalLearner(lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, "attend", READY_MADE_ATTENTION)(*x).shape


# memory

N = 1024
SQUARE = 4 * N * N
BUFFER, ARRAY, PARTS = torch.empty(N, N), np.empty((N, N), np.float32), {"a": [torch.empty(N, N)]}


def in_pieces(q, k):
    return torch.cat([(x @ k.T).sum(dim=1) for x in q.split(32)])


def whole(q, k):
    return (q @ k.T).sum(dim=1)


def into_a_buffer(q, k):
    return torch.matmul(q, k.T, out=BUFFER).sum(dim=1)


def into_a_buffer_somewhere(q, k):
    return PARTS["a"][0].copy_(q @ k.T).sum(dim=1)


def by_numpy(q, k):
    return torch.from_numpy((q.numpy() @ k.numpy().T).sum(axis=1))


def into_numpy_s_buffer(q, k):
    return torch.from_numpy(np.matmul(q.numpy(), k.numpy().T, out=ARRAY).sum(axis=1))


def into_a_default(q, k, held=torch.empty(N, N)):  # noqa: B008 (what a learner may write)
    return torch.matmul(q, k.T, out=held).sum(dim=1)


def only_when_small(q, k):
    return torch.zeros(len(q)) if len(q) > 1000 else whole(q, k)


def judge_row_sums(learner, rng):
    q, k = torch.randn(2, N, 8, generator=rng)
    wanted = q.double() @ k.double().sum(dim=0)
    expect_memory(learner, [q, k], wanted.float(), at_most=SQUARE // 3, message="the square is formed", atol=1e-2)


@pytest.mark.parametrize(
    "function, says",
    [
        (in_pieces, ""),
        (whole, "the square is formed"),
        (into_a_buffer, "the square is formed"),
        (into_a_buffer_somewhere, "the square is formed"),
        (into_a_default, "the square is formed"),
        (by_numpy, "the square is formed"),
        (into_numpy_s_buffer, "the square is formed"),
        (only_when_small, "the result is another"),
    ],
)
def test_memory_counts_what_a_call_finds_and_its_result_is_judged(function, says):
    check = Check("toy.sums", "sums", 1, judge_row_sums)
    verdict = run_check(check, check.learner(function), torch.Generator().manual_seed(0))
    assert verdict.passed == (not says) and says in verdict.message, verdict


def test_a_peak_is_that_of_the_call_and_not_of_its_arguments():
    result, peak = LocalLearner(lambda x: x.sum(), "f")(torch.ones(2)), None
    result, peak = LocalLearner(lambda x: x + 1, "f").peak(torch.ones(1 << 18))
    assert result.shape == (1 << 18,) and 1 << 20 <= peak < 1.1 * (1 << 20)


def test_operations_tell_token_by_token_from_chunks():
    x = torch.ones(1024, 4)
    _, few = LocalLearner(lambda x: torch.cat([p.cumsum(0) for p in x.split(64)]), "f").operations(x)
    _, many = LocalLearner(lambda x: torch.stack([p * 2 for p in x]), "f").operations(x)
    assert few < 100 and many > 1000


# kernels


@triton.jit
def masked_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2, mask=at < n)


@triton.jit
def unmasked_load_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at) * 2, mask=at < n)


@triton.jit
def unmasked_store_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2)


@triton.jit
def before_the_start_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    before = tl.load(x_ptr + at - 1)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2 + 0 * before, mask=at < n)


@triton.jit
def sum_kernel(x_ptr, out_ptr, n, OTHER: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0) if OTHER else tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr, tl.sum(x.to(tl.float32), 0))


def wrapped(kernel, x):
    out = torch.empty_like(x)
    kernel[(triton.cdiv(len(x), 16),)](x, out, len(x), BLOCK=16)
    return out


def launches(x):
    x = x.contiguous().to("cpu")
    return wrapped(masked_kernel, x.view(-1)).reshape(-1)


def plain_pytorch(x):
    return x * 2


def launches_and_computes(x):
    launches(x)
    return x * 2


def computes_after(x):
    return launches(x) + 0


def computes_in_numpy(x):
    out = launches(x)
    out.numpy()[:] = x.numpy() * 2
    return out


def computes_in_lists(x):
    launches(x)
    return torch.tensor([2 * float(y) for y in x])


def swallows(x):
    try:
        return wrapped(unmasked_load_kernel, x)
    except Exception:
        return launches(x)


@pytest.mark.skipif(attncourse.device() == "cuda", reason="loads are seen where Triton interprets")
@pytest.mark.parametrize(
    "function, says",
    [
        (launches, ""),
        (plain_pytorch, "outside its kernel it computes with PyTorch (mul)"),
        (launches_and_computes, "outside its kernel it computes"),
        (computes_after, "outside its kernel it computes with PyTorch (add)"),
        (computes_in_numpy, "takes numbers out of a tensor"),
        (computes_in_lists, "outside its kernel it"),
        (lambda x: torch.empty_like(x), "no Triton kernel of yours was launched"),
        (lambda x: wrapped(unmasked_load_kernel, x), "unmasked_load_kernel reads outside its tensors"),
        (lambda x: wrapped(before_the_start_kernel, x), "before_the_start_kernel reads outside its tensors"),
        (lambda x: wrapped(unmasked_store_kernel, x), "unmasked_store_kernel writes outside its tensors"),
        (swallows, "reads outside its tensors"),
    ],
)
def test_a_kernel_of_the_learner_s_does_the_work_inside_its_tensors(function, says):
    x = torch.arange(37.0)
    learner = LocalLearner(function, "double", kernel=True)
    if not says:
        torch.testing.assert_close(learner(x), 2 * x)
        return
    with pytest.raises(Broken) as caught:
        learner(x)
    assert says in str(caught.value)


@pytest.mark.skipif(attncourse.device() == "cuda", reason="on a GPU what lies behind a mask is anything")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_a_load_masks_and_does_not_name_is_no_zero(dtype):
    def total(x, named):
        out = torch.empty(1)
        sum_kernel[(1,)](x, out, len(x), OTHER=named, BLOCK=64)
        return out

    learner, x = LocalLearner(total, "total", kernel=True), torch.ones(37, dtype=dtype)
    assert learner(x, True).item() == 37 and learner(x, False).isnan()
    out = torch.empty(1)
    sum_kernel[(1,)](x, out, 37, OTHER=False, BLOCK=64)
    assert out.item() == 37, "outside a check the interpreter is as it was"


def merges(x):
    return torch.stack([launches(x), launches(x)]).mean(dim=0)


def merges_what_it_was_given(x):
    return torch.stack([launches(x), x.clone()]).mean(dim=0)


def test_where_pytorch_merges_it_takes_what_kernels_wrote_alone():
    x = torch.arange(37.0)
    torch.testing.assert_close(LocalLearner(merges, "double", kernel="merged")(x), 2 * x)
    for function, says in (
        (merges_what_it_was_given, "it computes with PyTorch"),
        (plain_pytorch, "it computes with PyTorch"),
        (lambda x: torch.ones_like(x).cumsum(0), "no Triton kernel of yours was launched"),
    ):
        with pytest.raises(Broken, match=says):
            LocalLearner(function, "double", kernel="merged")(x)


def test_a_kernel_of_the_course_s_is_none_of_the_learner_s():
    from attncourse.softmax_attention.kernel import softmax_attention_triton

    x = torch.ones(1, 1, 4, 16)
    with pytest.raises(Broken, match=r"no Triton kernel of yours|computes with PyTorch"):
        LocalLearner(lambda x: softmax_attention_triton(x, x, x), "f", kernel=True)(x)


# state


class Running(NamedTuple):
    total: torch.Tensor
    seen: int


@dataclass
class Cache:
    rows: dict
    length: int = 0


class Bag:
    """What a learner may write: a class of a notebook, whose module is __main__."""


Bag.__module__ = "__main__"


def as_object(length):
    bag = Bag()
    bag.rows, bag.length = {0: torch.ones(2), (1, "k"): [None]}, length
    return bag


STATES = [
    Running(torch.ones(3), 2),
    Cache({0: torch.ones(2), 7: torch.zeros(1)}, 1),
    {1: torch.ones(2), None: 3, (2, "v"): [1.5]},
    as_object(3),
    [Running(torch.ones(1), 1), {"layers": {0: Cache({}, 0)}}],
]


def next_of(state):
    """Reads a state by the names that its author gave it."""
    if isinstance(state, Running):
        return state._replace(seen=state.seen + 1)
    if isinstance(state, Cache | Bag):
        state.length += 1
        return state
    if isinstance(state, dict):
        return {**state, 1: state[1] + 1}
    return [next_of(state[0]), {"layers": {0: next_of(state[1]["layers"][0])}}]


def across(value, kinds):
    """There and back through the sandbox's wall; only the learner's side knows its classes."""
    there = receive(io.BytesIO(pack(value, kinds)).read)
    return receive(io.BytesIO(pack(there)).read, kinds)


@pytest.mark.parametrize("state", STATES, ids=lambda s: type(s).__name__)
def test_a_state_comes_back_as_its_author_made_it(state):
    kinds = {}
    again = next_of(across(state, kinds))
    assert type(again) is type(state) and numbers_in(again) == numbers_in(state)
    local = LocalLearner(next_of, "step", may_change=(0,))
    assert numbers_in(local(state)) == numbers_in(receive(io.BytesIO(pack(again, {})).read))
    assert type(local(local(state))) is type(state)


def test_a_state_that_says_it_is_something_else_becomes_nothing_of_the_grader_s():
    class Broken2:
        __module__ = "__main__"

    Broken2.__name__ = "Broken"
    got = receive(io.BytesIO(pack(Broken2())).read)
    assert type(got).__name__ == "Broken" and not isinstance(got, Broken)
