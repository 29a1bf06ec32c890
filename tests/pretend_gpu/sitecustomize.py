"""A machine that says it has a GPU, while the course is told to work on the CPU: PYTHONPATH=tests/pretend_gpu.

Whatever asks PyTorch instead of `attncourse.device()` then takes a GPU that is not there, and fails. PyTorch, Triton and
other libraries get the true answer.
"""

import contextlib
import os
import sys

os.environ["ATTNCOURSE_DEVICE"] = "cpu"
OURS = ("attncourse", "tests", "__main__", "test_", "conftest")

with contextlib.suppress(ModuleNotFoundError):  # an environment that is being installed has none yet
    import torch

    _really = torch.cuda.is_available

    def _is_available() -> bool:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return asking.startswith(OURS) or _really()

    torch.cuda.is_available = _is_available
