"""Every mechanism as something to run: inputs of one size, the forms that compute it, and the count that they share."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from attncourse import (
    additive,
    block_sparse,
    global_local,
    hard_attention,
    linear_attention,
    multi_head,
    multiplicative,
    sliding_window,
    softmax_attention,
)
from attncourse._shared.validate import require

from .counts import (
    Count,
    Size,
    additive_count,
    attention_count,
    banded_pairs,
    general_count,
    linear_attention_count,
)

Form = Callable[..., Tensor]
# PyTorch's fused attentions by name. A processor has "flash" and "math"; a GPU those of its generation.
SDPA_BACKENDS: dict[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Planned:
    """A form in two parts: what a host decides once for inputs of these shapes, and what a device repeats.

    Attributes:
        call: both parts on some inputs, as any form is called.
        plan: inputs -> the form that runs on these and on others of the same shapes, and decides nothing: it reads nothing
            back, so that it can be captured in a CUDA graph.
    """

    call: Form
    plan: Callable[..., Form]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The form, plan and run in one."""
        return self.call(*inputs)


@dataclass(frozen=True)
class Case:
    """One mechanism at one size.

    Attributes:
        inputs: the tensors of one call.
        forms: what computes it from these, by name: "reference", "blocked", "torch", "triton", ...
        count: what any form has to move and to compute at the least.
        what: the setting in words.
    """

    inputs: tuple[Tensor, ...]
    forms: Mapping[str, Form]
    count: Count
    what: str


@dataclass(frozen=True)
class Draw:
    """Where and in what precision inputs are drawn; the same seed draws the same ones."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    seed: int = 0
    rng: torch.Generator = field(init=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "rng", torch.Generator(self.device).manual_seed(self.seed))

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return self.dtype.itemsize

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.rng, device=self.device).to(self.dtype)

    def qkv(self, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        shapes = (size.h, size.t, size.dk), (size.g, size.s, size.dk), (size.g, size.s, size.dv)
        return tuple(self.normal(size.b, *shape) for shape in shapes)


def _kernel(room: str, name: str, *, module: str = "kernel", **options) -> Form:
    """The launcher of a room, imported when it is called: Triton is there on Linux alone, numba an extra."""

    def launch(*inputs):
        import importlib

        return getattr(importlib.import_module(f"attncourse.{room}.{module}"), name)(*inputs, **options)

    return launch


def sdpa_form(backend: str | None = None, **options) -> Form:
    """PyTorch's fused attention as a form of queries, keys and values: by one backend, or by the one that PyTorch takes.

    A backend that cannot run on some inputs raises RuntimeError when it is called with them, and no other takes its place.

    Args:
        backend: a name of SDPA_BACKENDS; None for PyTorch's choice.
        options: of scaled_dot_product_attention. `is_causal` is aligned to the start there.

    Raises:
        ValueError: no such backend.
    """
    require(
        backend is None or backend in SDPA_BACKENDS,
        f"backend must be one of {', '.join(SDPA_BACKENDS)}, or None, got {backend!r}",
    )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if backend is None:
            return scaled_dot_product_attention(q, k, v, **options)
        with sdpa_kernel(SDPA_BACKENDS[backend]):
            return scaled_dot_product_attention(q, k, v, **options)

    return attend


def flex_form(mask: BlockMask | None = None, *, compiled: bool = True, **options) -> Form:
    """FlexAttention as a form of queries, keys and values, under a mask.

    Args:
        compiled: when it is first called, for those sizes alone; else the plain form, which any device has.
        options: of flex_attention, `enable_gqa` say.
    """
    call = None if compiled else flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal call
        if call is None:
            torch.compiler.reset()  # or after some sizes it would not be compiled any more
            call = torch.compile(flex_attention, dynamic=False)
        return call(q, k, v, block_mask=mask, **options)

    return attend


def compiles(call: Callable[[], object]) -> bool:
    """Whether FlexAttention, compiled when this calls it, can be here: it needs a C++ compiler. A warning says why not."""
    try:
        call()
    except Exception as error:  # whatever a compiler's toolchain lacks
        warnings.warn(f"FlexAttention does not compile here: {error}", stacklevel=2)
        return False
    return True


class _FusedCalls(TorchDispatchMode):
    """Notes which of PyTorch's fused attentions are called."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::_scaled_dot_product_").split("_")[0]
        if name in SDPA_BACKENDS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def sdpa_backend(call: Callable[[], object]) -> str:
    """Which backend scaled_dot_product_attention takes in a call that uses it, as a name of SDPA_BACKENDS.

    "math" stands for the products and the softmax that PyTorch computes one after the other where nothing fused fits.
    """
    with _FusedCalls() as seen:
        call()
    return seen.names[0] if seen.names else "math"


def _softmax(size: Size, draw: Draw, *, causal: bool) -> Case:
    forms = {
        name: lambda *qkv, form=form: form(*qkv, causal=causal)
        for name, form in (
            ("reference", softmax_attention.softmax_attention),
            ("blocked", softmax_attention.softmax_attention_blocked),
            ("torch", softmax_attention.softmax_attention_torch),
        )
    }
    forms["triton"] = _kernel("softmax_attention", "softmax_attention_triton", causal=causal)
    pairs = banded_pairs(size.t, size.s, after=0 if causal else None)
    count = attention_count(size, pairs=pairs, itemsize=draw.itemsize)
    return Case(draw.qkv(size), forms, count, "causal" if causal else "every pair")


def softmax_case(size: Size, draw: Draw) -> Case:
    """Causal softmax attention."""
    return _softmax(size, draw, causal=True)


def additive_case(size: Size, draw: Draw) -> Case:
    """Additive attention, every pair, with a hidden layer of width dk. One head a key: g is h."""
    size = replace(size, g=size.h)
    w_q, w_k, w_score = draw.normal(size.dk, size.dk), draw.normal(size.dk, size.dk), draw.normal(size.dk)
    forms = {
        "reference": additive.additive_attention,
        "blocked": additive.additive_attention_blocked,
        "triton": _kernel("additive", "additive_attention_triton"),
    }
    count = additive_count(size, pairs=size.t * size.s, hidden=size.dk, itemsize=draw.itemsize)
    return Case((*draw.qkv(size), w_q, w_k, w_score), forms, count, f"every pair, hidden width {size.dk}")


def multiplicative_case(size: Size, draw: Draw) -> Case:
    """The general score q W k, every pair. One head a key: g is h."""
    size = replace(size, g=size.h)
    forms = {
        "reference": multiplicative.multiplicative_attention,
        "triton": _kernel("multiplicative", "multiplicative_attention_triton"),
    }
    count = general_count(size, pairs=size.t * size.s, itemsize=draw.itemsize)
    return Case((*draw.qkv(size), draw.normal(size.dk, size.dk)), forms, count, "general score, every pair")


def hard_case(size: Size, draw: Draw) -> Case:
    """The best key alone, causal: scores of every pair, one value read a query."""
    pairs = banded_pairs(size.t, size.s, after=0)
    scores = attention_count(replace(size, dv=size.dk), pairs=pairs, itemsize=draw.itemsize)
    numbers = (size.h * size.t + size.g * size.s) * (size.dk + size.dv)
    count = Count(scores.flops // 2, draw.itemsize * size.b * numbers)
    forms = {
        "reference": lambda *qkv: hard_attention.hard_attention(*qkv, causal=True).out,
        "triton": lambda *qkv: _kernel("hard_attention", "hard_attention_triton", seed=None, causal=True)(*qkv).out,
    }
    return Case(draw.qkv(size), forms, count, "the best key, causal")


def sliding_window_case(size: Size, draw: Draw, *, window: int = 256) -> Case:
    """A causal window."""
    forms = {
        "reference": lambda *qkv: sliding_window.sliding_window_attention(*qkv, window=window),
        "blocked": lambda *qkv: sliding_window.sliding_window_attention_blocked(*qkv, window=window),
        "triton": _kernel("sliding_window", "sliding_window_attention_triton", window=window),
    }
    pairs = banded_pairs(size.t, size.s, before=window - 1, after=0)
    count = attention_count(size, pairs=pairs, itemsize=draw.itemsize)
    return Case(draw.qkv(size), forms, count, f"window {window}")


def block_sparse_case(size: Size, draw: Draw, *, radius: int = 1, n_random: int = 2) -> Case:
    """Neighbouring blocks of 64 and random ones, not causal; counted are the pairs that the pattern wants."""
    pattern = block_sparse.local_and_random(size.s, radius=radius, n_random=n_random, seed=0).to(draw.device)
    forms = {
        "reference": lambda *qkv: block_sparse.block_sparse_attention(*qkv, pattern=pattern),
        "blocked": lambda *qkv: block_sparse.block_sparse_attention_blocked(*qkv, pattern=pattern),
        "triton": _kernel("block_sparse", "block_sparse_attention_triton", pattern=pattern),
    }
    count = attention_count(replace(size, t=size.s), pairs=pattern.count(), itemsize=draw.itemsize)
    what = f"{2 * radius + 1} near and {n_random} random blocks a row, {pattern.density:.0%} of the pairs"
    return Case(draw.qkv(replace(size, t=size.s)), forms, count, what)


def global_local_case(size: Size, draw: Draw, *, radius: int = 128, n_global: int = 4) -> Case:
    """Neighbours on both sides and a few global tokens, with shared projections."""
    size = replace(size, t=size.s)
    radius, indices = min(radius, size.s), torch.arange(min(n_global, size.s), device=draw.device)
    told = dict(radius=radius, global_indices=indices)
    forms = {
        "reference": lambda *qkv: global_local.global_local_attention(*qkv, **told),
        "blocked": lambda *qkv: global_local.global_local_attention_blocked(*qkv, **told),
        "triton": _kernel("global_local", "global_local_attention_triton", **told),
    }
    pairs = int(global_local.global_local_mask(size.s, radius=radius, global_indices=indices).sum())
    count = attention_count(size, pairs=pairs, itemsize=draw.itemsize)
    return Case(draw.qkv(size), forms, count, f"radius {radius}, {len(indices)} global tokens")


def linear_case(size: Size, draw: Draw) -> Case:
    """Causal linear attention with elu + 1."""
    forms = {
        "reference": lambda *qkv: linear_attention.linear_attention(*qkv, causal=True),
        "blocked": lambda *qkv: linear_attention.linear_attention_blocked(*qkv, causal=True),
        "triton": _kernel("linear_attention", "linear_attention_triton", causal=True),
    }
    return Case(draw.qkv(size), forms, linear_attention_count(size, itemsize=draw.itemsize), "causal, elu + 1")


def multi_head_case(size: Size, draw: Draw) -> Case:
    """A whole layer, every pair: projections of a model width h dk, attention, and the projection back."""
    width = size.h * size.dk
    size = replace(size, g=size.h, t=size.s, dv=size.dk)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.seed)
        layer = multi_head.MultiHeadAttention(width, size.h, bias=True).to(draw.device, draw.dtype)

    def run(impl):
        def call(x, *parameters):
            layer.impl = impl
            return layer(x)

        return call

    rows = size.b * size.s
    attend = attention_count(size, pairs=size.s**2, itemsize=draw.itemsize)
    matrices = Count(8 * rows * width**2, draw.itemsize * (2 * rows * width + 4 * (width + 1) * width))
    # What stands between the projections and attention can stay on the chip, so that its bytes are not counted.
    count = Count(attend.flops + matrices.flops, matrices.bytes)
    forms = {impl: run(impl) for impl in ("reference", "blocked", "torch", "triton")}
    parameters = tuple(p.detach() for p in layer.parameters())
    return Case(
        (draw.normal(size.b, size.s, width), *parameters), forms, count, f"a layer of width {width}, every pair"
    )


CASES: dict[str, Callable[[Size, Draw], Case]] = {
    "softmax_attention": softmax_case,
    "additive": additive_case,
    "multiplicative": multiplicative_case,
    "multi_head": multi_head_case,
    "hard_attention": hard_case,
    "sliding_window": sliding_window_case,
    "block_sparse": block_sparse_case,
    "global_local": global_local_case,
    "linear_attention": linear_case,
}
