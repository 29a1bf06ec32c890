"""Where the course works here: one decision, which everything else asks for."""

import os

import torch

from .validate import require

VARIABLE = "ATTNCOURSE_DEVICE"


def device() -> str:
    """Return "cuda" where PyTorch sees a GPU, else "cpu"; or what the environment variable ATTNCOURSE_DEVICE says.

    On "cpu" kernels are interpreted. The variable is to be set before the course is imported: Triton decides then.

    Raises:
        ValueError: the variable says neither, or asks for a GPU that PyTorch does not see.
    """
    asked, seen = os.environ.get(VARIABLE, ""), torch.cuda.is_available()
    require(asked in ("", "cpu", "cuda"), f"{VARIABLE} must be cpu or cuda, or not be set, got {asked!r}")
    require(asked != "cuda" or seen, f"{VARIABLE} asks for cuda, and PyTorch sees no GPU here")
    return asked or ("cuda" if seen else "cpu")
