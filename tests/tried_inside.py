"""What tests.versions runs in each of its environments beside the rooms' tests; each prints one line of JSON.

python -m tests.tried_inside interpret     a learner's kernel with a loop, in the interpreter, no warning allowed
python -m tests.tried_inside compile       every kernel of the package once, for a chip that is not here
"""

import json
import os
import platform
import sys
import warnings

CHIP = 90


def interpret() -> dict[str, str]:
    """Interpret a loop as a learner writes it, Triton imported after the package;
    return the versions that it ran beside.
    """
    os.environ["ATTNCOURSE_DEVICE"] = "cpu"
    import attncourse

    attncourse.device()  # (which lets Triton interpret, if it comes first)

    # isort: split
    import numpy as np
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def total_kernel(x_ptr, out_ptr, n):
        acc = 0.0
        for i in range(n):
            acc += tl.load(x_ptr + i)
        tl.store(out_ptr, acc)

    out = torch.zeros(1)
    with warnings.catch_warnings(action="error"):
        total_kernel[(1,)](torch.arange(5.0), out, 5)
    assert out.item() == 10.0, f"the sum of 0 to 4 is 10, the interpreter says {out.item()}"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": np.__version__,
    }


def compile_each() -> dict[str, int]:
    """Compile each kernel in the first of its cases, see that it fits the chip, and return how many there are."""
    os.environ["TRITON_INTERPRET"] = "0"
    from tests.compile_gate import first_of_each_kernel

    kernels = first_of_each_kernel(CHIP)
    return {"kernels": len(kernels), "spilling": sum(c.spills > 0 for c in kernels)}


if __name__ == "__main__":
    print(json.dumps({"interpret": interpret, "compile": compile_each}[sys.argv[1]]()))
