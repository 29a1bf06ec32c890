"""Whether Triton interprets, which it decides when it is imported."""

import contextlib
import os
import sys

from .device import device
from .launch import interpreting, triton_is_old


def prepare_interpreter() -> None:
    """Let Triton interpret where the course works on a CPU, if it is not imported yet.

    Triton reads the variable whenever a kernel is defined, its own library's among them. So it must be set before the
    first import of Triton, which PyTorch may do on its own.
    """
    if "triton" not in sys.modules and device() == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if interpreting() and triton_is_old():
        with contextlib.suppress(ImportError):  # (what imports a kernel is told; all else needs none)
            from . import language  # noqa: F401  (which mends it, for kernels that are not the package's, too)
