"""A machine that says it has a GPU, while the course is told to work on the CPU: PYTHONPATH=tests/pretend_gpu.

Whatever asks PyTorch instead of `attncourse.device()` then takes a GPU that is not there, and fails. PyTorch, Triton and
other libraries get the true answer.
"""

import os
import sys

os.environ["ATTNCOURSE_DEVICE"] = "cpu"
OURS = ("attncourse", "tests", "__main__", "test_", "conftest")


def _is_available() -> bool:
    asking = sys._getframe(1).f_globals.get("__name__", "")
    return asking.startswith(OURS) or _really()


import torch  # noqa: E402

_really = torch.cuda.is_available
torch.cuda.is_available = _is_available
