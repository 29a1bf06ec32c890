"""Whether a Triton kernel of the learner's did the work, and stayed inside its tensors.

Between a wrapper's entry and its return there may be allocations, views, copies and launches, and no arithmetic. Where
Triton interprets, every load and store is compared with the memory of the tensors that the kernel was given, and a masked
load that does not say what else it gives (`other`) gives NaN: on a GPU that is undefined. Compiled, nothing can be seen.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from attncourse._shared.language import interpreter as triton_interpreter
from attncourse._shared.language import triton

from .watch import Dispatched, tensors_in

# Operations that compute nothing; views are recognised by their schema.
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"}
CONSTANTS = {"zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full"}
COPIES = {"clone", "_to_copy", "fill_", "zero_", "arange", "lift_fresh", "scalar_tensor", "set_", "_reshape_copy"}
# Ways out of PyTorch, to where nothing is seen.
EXITS = {"numpy", "tolist", "__array__", "__dlpack__", "untyped_storage", "storage", "data_ptr", "apply_", "map_"}


class Wrong(Exception):
    """The function of a kernel exercise did what it may not."""


class OwnKernels:
    """Within it a wrapper runs: it launches kernels of the learner's, and nothing else computes.

    Args:
        module: name of the module whose kernels are the learner's.
        merges: PyTorch may compute, too, but from nothing that the wrapper was given: it merges what kernels wrote.

    `refused` says what was done against that, also where the learner's code caught the exception; `missing` says what
    was not done. Both are empty where all is well.
    """

    def __init__(self, module: str, *, merges: bool = False):
        self._module, self._merges = module, merges
        self._own: list[torch.Tensor] = []  # allocated inside, or computed from such; kept, so that no address returns
        self._launched = False
        self.refused = ""

    @property
    def missing(self) -> str:
        return "" if self._launched else "no Triton kernel of yours was launched"

    def __enter__(self) -> "OwnKernels":
        with contextlib.ExitStack() as stack:
            stack.enter_context(_each_launch(self._launch))
            stack.enter_context(self._outside())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)

    def _refuse(self, reason: str) -> None:
        self.refused = self.refused or reason
        raise Wrong(self.refused)

    def _launch(self, kernel: Any, run: Callable[[], Any]) -> Any:
        """Make one launch: PyTorch is not watched meanwhile, since Triton itself uses it."""
        self._launched |= kernel.fn.__module__ in ("__main__", self._module)
        with _disable_current_modes(), torch._C.DisableTorchFunction(), _within_tensors(kernel, self._refuse):
            return run()

    def _is_own(self, operands: Any) -> bool:
        """Return whether none of the operands is an argument of the wrapper, or a copy of one."""
        own = {x.untyped_storage().data_ptr() for x in self._own}
        return all(x.untyped_storage().data_ptr() in own for x in tensors_in(operands))

    @contextlib.contextmanager
    def _outside(self) -> Iterator[None]:
        """Refuse what computes, wherever in a wrapper it is not a kernel."""
        rules, refuse = self, self._refuse

        class Functions(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                name = getattr(func, "__name__", "")
                if name in EXITS:
                    refuse(f"outside its kernel it takes numbers out of a tensor ({name})")
                return func(*args, **(kwargs or {}))

        class Operations(Dispatched):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                name = func._schema.name.partition("::")[2]
                merges = rules._merges and rules._is_own((args, kwargs))
                if not (merges or func.is_view or name in ALLOCATIONS | CONSTANTS | COPIES):
                    refuse(f"outside its kernel it computes with PyTorch ({name}); that is the kernel's work")
                out = func(*args, **(kwargs or {}))
                if merges or name in ALLOCATIONS | CONSTANTS:
                    rules._own.extend(tensors_in(out))
                return out

        with Functions(), Operations():
            yield


@contextlib.contextmanager
def _each_launch(launch: Callable[[Any, Callable[[], Any]], Any]) -> Iterator[None]:
    """Let each launch of a kernel, compiled or interpreted, go through `launch(kernel, run)` within it."""
    kinds = (triton.runtime.JITFunction, triton_interpreter.InterpretedFunction)
    originals = {kind: kind.run for kind in kinds}

    def through(original):
        return lambda kernel, *args, **kwargs: launch(kernel, lambda: original(kernel, *args, **kwargs))

    for kind, original in originals.items():
        kind.run = through(original)
    try:
        yield
    finally:
        for kind, original in originals.items():
            kind.run = original


@contextlib.contextmanager
def _within_tensors(kernel: Any, refuse: Callable[[str], None]) -> Iterator[None]:
    """Refuse, within it, an interpreted kernel that reaches beyond its tensors' memory."""
    if not isinstance(kernel, triton_interpreter.InterpretedFunction):
        yield
        return
    spans: list[tuple[int, int]] = []
    executor, real = triton_interpreter.GridExecutor, triton_interpreter._interpreter
    to_host, builder = executor._init_args_hst, triton_interpreter.interpreter_builder
    masked_load = builder.create_masked_load

    def to_host_and_noted(self, *args, **kwargs):
        moved = to_host(self, *args, **kwargs)
        storages = [x.untyped_storage() for x in tensors_in(moved)]
        spans.extend((storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages)
        return moved

    def program() -> str:
        place = tuple(int(i) for i in triton_interpreter.interpreter_builder.grid_idx)
        return f"program {place} of {kernel.fn.__name__}"

    def check(pointers: Any, itemsize: int, mask: Any, does: str) -> None:
        inside = np.zeros(np.shape(pointers), dtype=bool)
        for low, high in spans:
            inside |= (pointers >= low) & (pointers <= max(low, high - itemsize)) & (high - low >= itemsize)
        if np.any(~inside & np.asarray(mask, dtype=bool)):
            refuse(f"{program()} {does} outside its tensors: mask what lies behind their end")

    class Bounded:
        def __getattr__(self, name):
            return getattr(real, name)

        def load(self, pointers, mask, other, dtype):
            check(pointers, np.dtype(dtype).itemsize, mask, "reads")
            return real.load(pointers, mask, other, dtype)

        def store(self, pointers, value, mask):
            check(pointers, value.dtype.itemsize, mask, "writes")
            return real.store(pointers, value, mask)

        def atomic_rmw(self, operation, pointers, value, mask, sem):
            check(pointers, value.dtype.itemsize, mask, "writes")
            return real.atomic_rmw(operation, pointers, value, mask, sem)

    def undefined_behind_the_mask(pointers: Any, mask: Any, other: Any, *options: Any) -> Any:
        if other is None:
            dtype = pointers.get_element_ty()
            other = triton_interpreter.TensorHandle(_undefined(pointers.data, dtype), dtype)
        return masked_load(pointers, mask, other, *options)

    executor._init_args_hst, triton_interpreter._interpreter = to_host_and_noted, Bounded()
    builder.create_masked_load = undefined_behind_the_mask
    try:
        yield
    finally:
        executor._init_args_hst, triton_interpreter._interpreter = to_host, real
        builder.create_masked_load = masked_load


def _undefined(pointers: np.ndarray, dtype: Any) -> np.ndarray:
    """Return NaN, or the largest number where there is none, in an array of the pointers' shape."""
    kind = triton_interpreter._get_np_dtype(dtype)
    # the interpreter's bfloat16 is an unsigned integer, whose largest is a NaN; of booleans Triton loads bytes
    return np.full(pointers.shape, np.nan if kind.kind == "f" else np.iinfo(kind).max, kind)
