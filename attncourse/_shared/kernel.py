"""Triton for the rooms' kernels: what to do where it is missing, and a repair of its interpreter where it is old."""

from .launch import interpreter_cannot_loop

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as missing:
    if missing.name != "triton":
        raise
    raise ImportError(
        "impl='triton' and the kernels behind it need Triton, which is not installed: pip install triton, which is there for "
        "Linux alone. Every other impl runs without it",
        name="triton",
    ) from missing

__all__ = ["tl", "triton"]


def _let_interpreter_loop() -> None:
    """A scalar is an array of one element there: as an index it is that element (Triton 3.7 does the same)."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, *scope) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    interpreter._patch_lang_tensor = patch_and_mend


if interpreter_cannot_loop():
    _let_interpreter_loop()
