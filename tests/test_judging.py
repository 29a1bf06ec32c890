"""Properties that are judged from outside: shortcuts, memory, streams, order, causality, kernels; the same in a notebook."""

import shutil

import pytest
import torch

from attncourse.check import CHECKS, run_check
from attncourse.check.core import READY_MADE_ATTENTION, Check, LocalLearner
from attncourse.check.expect import (
    expect_blind_to_future,
    expect_close,
    expect_memory,
    expect_reordering_changes_nothing,
    expect_same_in_pieces,
)
from attncourse.grade.judge import mark
from attncourse.grade.read.submission import Cell, Release, Submission
from attncourse.grade.wall.sandbox import Sandbox, find_sandbox

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def normal(rng, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)


def judge_attend(learner, rng):
    q, k, v = (normal(rng, 5, 4) for _ in range(3))
    message = "the order of the keys matters"
    expect_reordering_changes_nothing(learner, [q, k, v], moved=(1, 2), rng=rng, message=message)
    expect_close(learner(q, k, v), torch.softmax(q @ k.T / 2, dim=-1) @ v, "not attention")


def judge_long(learner, rng):
    x = normal(rng, 4096, 8, dtype=torch.float32)
    wanted = torch.tanh(x @ x.T).sum(dim=-1)
    expect_memory(learner, [x], wanted, at_most=20 << 20, message="the matrix of all pairs is formed", atol=1e-3)


def judge_running_sum(learner, rng):
    x = normal(rng, 9, 3)
    pieces = [(piece,) for piece in x.split((2, 3, 4))]
    expect_same_in_pieces(learner, pieces, x.sum(dim=0), what="the sum")


def judge_past_mean(learner, rng):
    expect_blind_to_future(learner, [normal(rng, 1, 6, 3)], moved=0, axis=1, rng=rng)


def judge_kernel(learner, rng):
    x = normal(rng, 300, dtype=torch.float32)
    expect_close(learner(x), x * 2 + 1, "the kernel does not double and add one")


def judge_second_derivative(learner, rng):
    x, cotangent = normal(rng, 4), torch.ones(4, dtype=torch.bfloat16)
    (slope,) = learner.grad(x.bfloat16(), wrt=(0,), cotangent=cotangent)
    expect_close(slope, (2 * x.bfloat16()).float(), "the gradient in bfloat16 is not that of the square", rtol=1e-2)


TRICKS = {
    f"tricks.{name}": Check(f"tricks.{name}", name, 1, judge, seconds=30.0, forbids=forbids)
    for name, judge, forbids in (
        ("attend", judge_attend, READY_MADE_ATTENTION),
        ("long", judge_long, ()),
        ("running_sum", judge_running_sum, ()),
        ("past_mean", judge_past_mean, ()),
        ("kernel", judge_kernel, ()),
        ("square", judge_second_derivative, ()),
    )
}

HEAD = "import torch\nimport torch.nn.functional as F\n"
BY_HAND = "def attend(q, k, v):\n    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v\n"
KERNEL = """
import triton
import triton.language as tl

@triton.jit
def _double(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + at, {body}, mask=at < n)

def kernel(x):
    out = torch.empty_like(x)
    _double[(triton.cdiv(len(x), 128),)](x, out, len(x), BLOCK=128)
    return out
"""

# exercise, what the learner wrote, state, words of the message
CASES = {
    "attend by hand": ("attend", BY_HAND, "passed", ""),
    "compared with SDPA in a scratch cell": (
        "attend",
        BY_HAND + "\nF.scaled_dot_product_attention(*torch.randn(3, 1, 1, 2, 2))",
        "passed",
        "",
    ),
    "mentioned in a docstring": (
        "attend",
        BY_HAND.replace(":\n", ':\n    "as F.scaled_dot_product_attention does"\n', 1),
        "passed",
        "",
    ),
    "SDPA": (
        "attend",
        "def attend(q, k, v):\n    return F.scaled_dot_product_attention(q, k, v)",
        "wrong",
        "attend uses scaled_dot_product_attention, which is what this exercise asks you to write",
    ),
    "SDPA under another name": (
        "attend",
        "from torch.nn.functional import scaled_dot_product_attention as soft\n\ndef help(*x):\n    return soft(*x)\n\n"
        "def attend(q, k, v):\n    return help(q, k, v)",
        "wrong",
        "attend uses scaled_dot_product_attention",
    ),
    "SDPA by its name in pieces": (
        "attend",
        "def attend(q, k, v):\n    return getattr(F, 'scaled_dot_' + 'product_attention')(q, k, v)",
        "wrong",
        "attend uses scaled_dot_product_attention",
    ),
    "nn.MultiheadAttention": (
        "attend",
        "layer = torch.nn.MultiheadAttention(4, 1, dtype=torch.float64)\n\ndef attend(q, k, v):\n    return layer(q, k, v)[0]",
        "wrong",
        "which is what this exercise asks you to write",
    ),
    "around the guard": (
        "attend",
        "def attend(q, k, v):\n    with torch._C.DisableTorchFunction():\n"
        "        return getattr(F, 'scaled_dot_' + 'product_attention')(q, k, v)",
        "wrong",
        "attend uses DisableTorchFunction",
    ),
    "order matters": (
        "attend",
        "def attend(q, k, v):\n    return torch.softmax(q @ k.T / 2 + torch.arange(len(k)), dim=-1) @ v",
        "wrong",
        "the order of the keys matters",
    ),
    "all pairs at once": (
        "long",
        "def long(x):\n    return torch.tanh(x @ x.T).sum(dim=-1)",
        "wrong",
        "is formed: it held 1",
    ),
    "in tiles": (
        "long",
        "def long(x):\n    return torch.cat([torch.tanh(tile @ x.T).sum(dim=-1) for tile in x.split(64)])",
        "passed",
        "",
    ),
    "a state that is carried": (
        "running_sum",
        "def running_sum(state, x):\n    total = x.sum(dim=0) + (0 if state is None else state)\n    return total, total",
        "passed",
        "",
    ),
    "a state that is dropped": (
        "running_sum",
        "def running_sum(state, x):\n    return x.sum(dim=0), None",
        "wrong",
        "the sum read in pieces of 2, 3, 4 differs from the sum read at once",
    ),
    "a future that is seen": (
        "past_mean",
        "def past_mean(x):\n    return x.cumsum(dim=1) + x[:, -1:]",
        "wrong",
        "position 0 saw position 5, its future",
    ),
    "a kernel": ("kernel", KERNEL.format(body="x * 2 + 1"), "passed", ""),
    "a wrong kernel": ("kernel", KERNEL.format(body="x * 2"), "wrong", "does not double and add one"),
    "a gradient in bfloat16": ("square", "def square(x):\n    return x * x", "passed", ""),
    "no gradient": ("square", "def square(x):\n    return (x * x).detach()", "wrong", "no gradient flows back"),
}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return find_sandbox()


@pytest.fixture
def tricks(monkeypatch):
    for name, check in TRICKS.items():
        monkeypatch.setitem(CHECKS, name, check)


def marked(source: str, exercise: str, sandbox: Sandbox, monkeypatch) -> tuple[str, str, object]:
    """State, message and picture of one exercise, by the grader."""
    for name in TRICKS:
        if name != f"tricks.{exercise}":
            monkeypatch.delitem(CHECKS, name)
    release = Release({"tricks": {}}, {"tricks": ()})
    submission = Submission("tricks", [Cell("", False, HEAD + source)])
    (judged,) = mark(submission, release, sandbox).checks
    return judged.verdict.state, judged.verdict.message, judged.verdict.picture


@needs_sandbox
@pytest.mark.parametrize("case", CASES)
def test_the_grader_judges_the_property(tricks, sandbox, monkeypatch, case):
    exercise, source, state, words = CASES[case]
    got, message, picture = marked(source, exercise, sandbox, monkeypatch)
    assert got == state, message
    assert words in message
    assert (picture is not None) == (case == "a future that is seen")


@pytest.mark.parametrize("case", [case for case in CASES if "around" not in case])
def test_the_notebook_s_own_check_agrees(case, tmp_path):
    """The same verdict and message in the learner's process; a kernel's source must be found there, as IPython keeps it."""
    exercise, source, state, words = CASES[case]
    check, notebook = TRICKS[f"tricks.{exercise}"], {"__name__": "__main__"}
    (tmp_path / "cell.py").write_text(HEAD + source, encoding="utf-8")
    exec(compile(HEAD + source, str(tmp_path / "cell.py"), "exec"), notebook)
    learner = LocalLearner(notebook[check.function], check.function, check.forbids)
    verdict = run_check(check, learner, torch.Generator().manual_seed(0))
    assert verdict.state == state, verdict
    assert words in verdict.message
