"""Broken attentions, each a copy of a right one with a single line changed, and the tests that tell them apart.

An exhibit is made when it is asked for: the source of a module of this package, one line replaced, executed as a module
of its own. So it differs from the right code in that line, and goes on doing so when the right code changes.
"""

import importlib
import inspect
import linecache
import mmap
import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attncourse._shared.device import device
from attncourse._shared.validate import require
from attncourse.softmax_attention import softmax_attention
from attncourse.testing import make_qkv

# attend(q, k, v, *, causal, window, block_t, block_s) -> out, in the layouts of `flash_attention`.
Attention = Callable[..., Tensor]
HEAD_STRIDE = 2**30  # two of them are one more than the largest number of 32 bits with a sign


@dataclass(frozen=True)
class Exhibit:
    """An exhibit is one broken attention.

    Args:
        name: what was done to it.
        module: the module of the package that holds the right code.
        right: the line as it should be, or the part of it that occurs once in the module.
        wrong: what stands there instead.
        looks: what somebody sees who uses it.
        caught_by: the one of `PROPERTIES` that does not hold.
    """

    name: str
    module: str
    right: str
    wrong: str
    looks: str
    caught_by: str

    def attend(self) -> Attention:
        """Return the broken attention."""
        source, file = self._broken(), f"<museum: {self.name}>"
        # Triton reads a kernel's source back, through here.
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        module = types.ModuleType(f"{self.module}_{'_'.join(self.name.split())}")
        exec(compile(source, file, "exec"), module.__dict__)
        # The interpreter computes by NumPy, which would warn of the NaN that an exhibit is there to show.
        return np.errstate(invalid="ignore")(_entry(module))

    def diff(self) -> str:
        """Return the line as it should be and as it is, without comments, the way `diff` writes it."""
        before, after = self._source().splitlines(), self._broken().splitlines()
        (changed,) = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        right, wrong = (line.partition("  # ")[0].strip() for line in changed)
        return f"- {right}\n+ {wrong}"

    def _source(self) -> str:
        source = inspect.getsource(importlib.import_module(self.module))
        found = source.count(self.right)
        require(found == 1, f"{self.name}: {self.right!r} must occur once in {self.module}, occurs {found} times")
        return source

    def _broken(self) -> str:
        return self._source().replace(self.right, self.wrong)


def _entry(module: types.ModuleType) -> Attention:
    """Return what a module offers, under one signature."""
    if hasattr(module, "flash_attention"):
        return module.flash_attention

    def attend(q, k, v, *, causal=False, window=None, block_t=16, block_s=16):
        return module.softmax_attention_blocked(q, k, v, causal=causal, window=window, block=block_t)

    return attend


FLASH = "attncourse.lessons.write_the_kernel.kernel"
BLOCKED = "attncourse.softmax_attention.blocked"

EXHIBITS = (
    Exhibit(
        "forgotten rescale",
        FLASH,
        right="rescale = tl.exp(top - shift)",
        wrong="rescale = tl.full((BLOCK_T,), 1.0, tl.float32)",
        looks="fine while all keys fit into one tile; weights that sum to 1 and are not the right ones beyond it",
        caught_by="the definition, many tiles",
    ),
    Exhibit(
        "block sizes that break causality",
        FLASH,
        right="if start + BLOCK_S - 1 > first + s - t:",
        wrong="if start >= first + s - t:",
        looks="fine while the two block sizes are equal; a loss too good to be true after somebody tunes them",
        caught_by="blind to the future, unequal tiles",
    ),
    Exhibit(
        "window off by one",
        FLASH,
        right="cols[None, :] > position[:, None] - window",
        wrong="cols[None, :] >= position[:, None] - window",
        looks="a model that works, and differs a little from the same weights run elsewhere",
        caught_by="a window of w shows w keys",
    ),
    Exhibit(
        "-inf minus -inf",
        FLASH,
        right='shift = tl.where(new_top == float("-inf"), 0.0, new_top)',
        wrong="shift = new_top",
        looks="fine under a causal mask, where every query sees the first tile; NaN under a window",
        caught_by="rows that see nothing of a tile",
    ),
    Exhibit(
        "missing causal test in the backward",
        BLOCKED,
        right="options, key_lengths, mask\n            )\n            weights = torch.exp(scores - top[:, :, here, None])",
        wrong="{**options, 'causal': False}, key_lengths, mask\n            )\n            weights = torch.exp(scores - top[:, :, here, None])",
        looks="the right outputs, and gradients in which the future has a share",
        caught_by="gradients",
    ),
    Exhibit(
        "int32 overflow in addresses",
        FLASH,
        right="head = tl.program_id(1).to(tl.int64)  # a head may",
        wrong="head = tl.program_id(1)  # a head may",
        looks="fine in every test that fits into a laptop; wrong heads, or a crash, at large batches",
        caught_by="heads far apart",
    ),
)


def right_attentions() -> dict[str, Attention]:
    """Return what the exhibits are copies of: every property must hold of these."""
    return {module: _entry(importlib.import_module(module)) for module in (FLASH, BLOCKED)}


def weights_of(attend: Attention, q: Tensor, k: Tensor, **settings) -> Tensor:
    """Return the weights (t, s) that an attention of one head used: with one-hot values they are its output.

    q and k are (1, 1, t, s) and (1, 1, s, s): as wide as there are keys.
    """
    one_hot = torch.eye(k.shape[2], dtype=q.dtype, device=q.device)[None, None]
    return attend(q, k, one_hot, **settings)[0, 0]


def far_apart(x: Tensor) -> Tensor:
    """Return x (1, h, t, d) with its heads `HEAD_STRIDE` elements apart, for h <= 3.

    The elements between them are address space without memory behind it, 8.6 GB of it in float16; so is what a negative
    address would reach. On a GPU, which has no such thing, it is memory.
    """
    _, h, t, d = x.shape
    require(h <= 3, f"heads so far apart fit three times, got {h}")
    before = 2 * HEAD_STRIDE  # where an address that became negative still lies within
    count = before + (h - 1) * HEAD_STRIDE + t * d
    if x.is_cuda:
        flat = torch.zeros(count, dtype=x.dtype, device=x.device)
    else:
        no_reserve = 0x4000  # MAP_NORESERVE of Linux, which the module has no name for before Python 3.13
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        flat = torch.frombuffer(mmap.mmap(-1, count * x.element_size(), flags=flags), dtype=x.dtype)
    return flat.as_strided(x.shape, (0, HEAD_STRIDE, d, 1), before).copy_(x)


# The tests. Each takes an attention and raises AssertionError where its property does not hold.


def _draw(t: int, s: int, **like) -> tuple[Tensor, Tensor, Tensor]:
    return make_qkv(**{"b": 1, "h": 1, "t": t, "s": s, "dk": 16, "dtype": torch.float32, "device": device(), **like})


def _same(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def is_the_definition(attend: Attention, *, t: int) -> None:
    """Causal attention of t tokens is what the definition says."""
    q, k, v = _draw(t, t)
    _same(attend(q, k, v, causal=True), softmax_attention(q, k, v, causal=True))


def has_weights_that_sum_to_one(attend: Attention) -> None:
    """Values that are all 1 give outputs that are all 1."""
    q, k, v = _draw(37, 37)
    _same(attend(q, k, torch.ones_like(v), causal=True), torch.ones_like(v))


def is_blind_to_the_future(attend: Attention) -> None:
    """Change key and value at one position: no query before it notices, with key tiles longer than query tiles."""
    q, k, v = _draw(37, 37)
    settings = dict(causal=True, block_t=16, block_s=32)
    before = attend(q, k, v, **settings)
    for position in (7, 16, 31, 36):
        k2, v2 = k.clone(), v.clone()
        k2[:, :, position] += 1.0
        v2[:, :, position] += 1.0
        moved = (attend(q, k2, v2, **settings) - before).abs().amax(dim=(0, 1, 3)) > 0
        assert not moved[:position].any(), f"a query before position {position} saw it"
        assert moved[position], f"the query at position {position} did not see its own key"


def shows_its_window(attend: Attention) -> None:
    """Under a window of 5 a query gives weight to its own key and the 4 before it."""
    q, k, _ = _draw(16, 16)
    seen = weights_of(attend, q, k, window=5) > 0
    distance = torch.arange(16, device=q.device)[:, None] - torch.arange(16, device=q.device)
    assert torch.equal(seen, (distance >= 0) & (distance < 5))


def is_finite_where_nothing_is_seen(attend: Attention) -> None:
    """A tile without a visible key changes nothing, before a row has seen any and where it never will."""
    q, k, v = _draw(37, 37)
    assert attend(q, k, v, window=3).isfinite().all(), "a window that begins behind the first tile gives NaN"
    q, k, v = _draw(20, 7)
    out = attend(q, k, v, causal=True)
    assert (out[:, :, :13] == 0).all(), "a query that stands before all keys gives zeros"


def has_the_definitions_gradients(attend: Attention) -> None:
    """The gradients of q, k and v are those of the definition."""
    leaves = [_draw(37, 37, dtype=torch.float64, grad=True) for _ in range(2)]
    for inputs, attention in zip(leaves, (attend, softmax_attention), strict=True):
        attention(*inputs, causal=True).cos().sum().backward()
    for got, wanted in zip(*leaves, strict=True):
        _same(got.grad, wanted.grad)


def finds_heads_far_apart(attend: Attention) -> None:
    """A head's place in memory changes nothing."""
    q, k, v = _draw(20, 20, h=3, dtype=torch.float16)
    torch.testing.assert_close(attend(far_apart(q), k, v), attend(q, k, v))


# From the weakest to the strongest. The first two are what most people try.
PROPERTIES: dict[str, Callable[[Attention], None]] = {
    "weights that sum to 1": has_weights_that_sum_to_one,
    "the definition, one tile": lambda attend: is_the_definition(attend, t=16),
    "the definition, many tiles": lambda attend: is_the_definition(attend, t=37),
    "blind to the future, unequal tiles": is_blind_to_the_future,
    "a window of w shows w keys": shows_its_window,
    "rows that see nothing of a tile": is_finite_where_nothing_is_seen,
    "gradients": has_the_definitions_gradients,
    "heads far apart": finds_heads_far_apart,
}


def verdicts(attend: Attention, *, differentiable: bool = False) -> dict[str, bool | None]:
    """Return which property holds of an attention;
    None for that of the gradients where it has none, and where memory is short.
    """
    return {
        name: None if test is has_the_definitions_gradients and not differentiable else _holds(test, attend)
        for name, test in PROPERTIES.items()
    }


def _holds(test: Callable[[Attention], None], attend: Attention) -> bool | None:
    try:
        test(attend)
    except AssertionError:
        return False
    except (torch.OutOfMemoryError, MemoryError):
        return None
    return True
