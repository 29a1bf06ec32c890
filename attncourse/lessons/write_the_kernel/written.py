"""Kernels that were written in a notebook, compiled for chips that are not here."""

import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attncourse.profile.compiled import Build, Compiled, compile_elsewhere

MODULE = "written_in_a_notebook"
HEAD = "import triton\nimport triton.language as tl\n"
# What the kernels call their sizes: 16 divides them, as in the models that are worth a kernel.
SIZES = ("m", "n", "inner", "t", "s")


@dataclass(frozen=True)
class Asked:
    """This asks for one kernel, compiled for one chip; inputs are float16.

    Args:
        kernel: decorated by `triton.jit`.
        capability: the chip, 75, 80 or 90.
        tiles: the kernel's compile-time arguments.
        options: beside 4 warps and 1 stage.
    """

    kernel: Callable
    capability: int
    tiles: dict[str, int]
    options: dict[str, int] = field(default_factory=dict)


def compile_written(asked: Sequence[Asked]) -> list[Compiled]:
    """Compile kernels whose source stands in a notebook's cells, all in one process, in which Triton compiles.

    Raises:
        RuntimeError: one of them does not compile.
    """
    kernels = {one.kernel.fn.__name__: one.kernel.fn for one in asked}
    source = "\n\n".join([HEAD, *(inspect.getsource(kernel) for kernel in kernels.values())])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{MODULE}.py").write_text(source, encoding="utf-8")
        return compile_elsewhere([_build(one) for one in asked], folder=folder)


def _build(one: Asked) -> Build:
    name = one.kernel.fn.__name__
    options = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True} | one.options
    return Build(f"{MODULE}:{name}", name, "fp16", one.tiles, options, one.capability, aligned=SIZES)
