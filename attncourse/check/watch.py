"""What a learner's function does while it runs: shortcuts it takes, memory it touches, operations it dispatches.

Each is seen where PyTorch dispatches its operations, below everything that has a name in Python.
"""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What PyTorch has of attention ready-made, by parts of its names: for `forbids`, where the exercise is to write it.
READY_MADE_ATTENTION = (
    "scaled_dot_product",
    "_safe_softmax",  # which nothing but the above uses
    "multi_head_attention",
    "MultiheadAttention",
    "flash_attention",
    "flex_attention",
    "efficient_attention",
    "fused_sdp",
    "transformer_encoder_layer_fwd",
)


class Dispatched(TorchDispatchMode):
    """This mode sees operations; unlike others it does not import PyTorch's compiler, which takes two seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def forbidden_name(name: str, forbids: tuple[str, ...]) -> str:
    """Return the first of `forbids` that is part of the name; "" where none is."""
    return next((part for part in forbids if part in name), "")


@contextlib.contextmanager
def functions_seen(see: Callable[[str], None]) -> Iterator[None]:
    """Let `see` get the name of every PyTorch function that is called within it, and of every operation dispatched."""

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            see(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    class Operations(Dispatched):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            see(func._schema.name.partition("::")[2])
            return func(*args, **(kwargs or {}))

    with Functions(), Operations():
        yield


class Tally(Dispatched):
    """A tally counts the operations within it, and the bytes that they read or write and that were held before.

    Args:
        given: values whose tensors are the call's own arguments, which do not count.
    """

    def __init__(self, given: Any):
        super().__init__()
        self.operations = 0
        self._known = {_memory(x) for x in tensors_in(given)}
        self._held: dict[int, int] = {}

    @property
    def held_bytes(self) -> int:
        return sum(self._held.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        # a tensor that no operation in here has made was there before: a buffer that some cell holds
        for x in tensors_in((args, kwargs)):
            if _memory(x) not in self._known:
                self._held[_memory(x)] = x.untyped_storage().nbytes()
        out = func(*args, **(kwargs or {}))
        self._known |= {_memory(x) for x in tensors_in(out)} - self._held.keys()
        return out


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value of nested lists, tuples, dicts and plain objects."""
    leaves = tree_leaves(value)
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    inside = [vars(x) for x in leaves if not isinstance(x, torch.Tensor) and is_record(x)]
    return tensors + [x for attributes in inside for x in tensors_in(attributes)]


def _memory(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


def is_record(value: Any) -> bool:
    """Return whether a value is of a class that a learner wrote to hold values:
    it has attributes, and cannot be called.
    """
    kind = type(value)
    # a subclass of int or of a tensor is none: it holds more than its attributes
    written = (
        kind.__module__ == "__main__" or hasattr(kind, "__dataclass_fields__")
    ) and kind.__new__ is object.__new__
    return written and hasattr(value, "__dict__") and not callable(value) and not isinstance(value, types.ModuleType)


def arrays_reached(function: Callable) -> int:
    """Return the bytes of the NumPy arrays that a function's code can reach by name:
    globals, closure, defaults, helpers.
    """
    waiting: list[Any] = [function]
    seen: set[int] = set()
    arrays: dict[int, int] = {}
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            owner = value if value.base is None else value.base
            arrays[id(owner)] = getattr(owner, "nbytes", value.nbytes)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, types.FunctionType):
            waiting += [value.__defaults__, value.__kwdefaults__, getattr(value, "__wrapped__", None)]
            waiting += [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
            waiting += [value.__globals__.get(name) for name in names_in(value.__code__)]
        elif is_record(value):
            waiting.append(vars(value))
    return sum(arrays.values())


def names_in(code: types.CodeType) -> set[str]:
    """Return global and attribute names of a function's code and of the functions inside it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(names_in, inner))


def _filled(cell) -> bool:
    with contextlib.suppress(ValueError):
        return cell.cell_contents is not None
    return False
