"""Triton for all kernels: what to do where it is missing or cannot interpret, and a repair of its interpreter."""

import numpy as np

from .launch import interpreting, triton_is_old

try:
    import triton
    import triton.language as tl
    from triton.runtime import interpreter
except ModuleNotFoundError as missing:
    if missing.name != "triton":
        raise
    raise ImportError(
        "impl='triton' and the kernels behind it need Triton, which is not installed: pip install triton, which is there for "
        "Linux alone. Every other impl runs without it",
        name="triton",
    ) from missing

__all__ = ["interpreter", "tl", "triton"]


def _let_interpreter_loop() -> None:
    """Let a scalar be an index: in the interpreter it is an array of one element,
    of which that element is taken (Triton 3.7 does the same).
    """
    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, *scope) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    interpreter._patch_lang_tensor = patch_and_mend


def _let_interpreter_patch_once() -> None:
    """Let the interpreter put its own things in the place of triton.language once a launch,
    not in each call of a device function.

    It was there since the kernel began, and looking through the language takes as long as all else that a kernel does.
    So in each launch the language is looked through once for each module that has device functions.
    """
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched = set()

    def patch_once(fn):
        if id(fn.__globals__) in patched:
            return None
        patched.add(id(fn.__globals__))
        return patch(fn)

    def launch_and_forget(self, *args, **kwargs):
        patched.clear()
        try:
            return launch(self, *args, **kwargs)
        finally:
            patched.clear()

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_once, launch_and_forget


if triton_is_old():
    _let_interpreter_loop()
if interpreting():
    _let_interpreter_patch_once()


@triton.jit
def _steps_kernel(n):
    """What every kernel of the package does, on no memory: a range that an argument ends, `if`, a product, reductions."""
    tile = tl.full((16, 16), 1.0, tl.float32)
    for start in range(0, n, 16):
        seen = start + tl.arange(0, 16) < n
        tile = tl.where(seen[:, None], tl.dot(tile, tile), 0.0)
        if n > 16:
            tile = tl.exp2(tile - tl.max(tile, axis=1)[:, None])
        tile = tile / tl.sum(tile, axis=1)[:, None]


def _require_interpreter() -> None:
    """Try the interpreter once, so that what cannot run says so here and not in the middle of a kernel.

    Raises:
        ImportError: it does not run; the message names the two versions and a NumPy that was tried with every Triton.
    """
    try:
        _steps_kernel[(1,)](17)
    except Exception as error:
        raise ImportError(
            f"Triton {triton.__version__} cannot interpret kernels beside NumPy {np.__version__} ({error}): "
            "pip install 'numpy<2.4', or a newer Triton. Every other impl runs without it",
            name="triton",
        ) from error


if interpreting():
    _require_interpreter()
