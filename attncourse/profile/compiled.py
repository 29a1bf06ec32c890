"""What the compiler makes of a kernel for a chip that is not here: registers, spills, shared memory, matrix instructions.

No GPU is needed: Triton writes PTX for any chip, and NVIDIA's assembler, which comes with it, says what the PTX takes.
Kernels must be compiled functions, not interpreted ones, so `compile_elsewhere` does it in a process without
TRITON_INTERPRET.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# The most dynamic shared memory that a block may ask for, in bytes, by compute capability.
SHARED_LIMIT = {75: 65_536, 80: 166_912, 90: 232_448, 100: 232_448}
MATRIX_INSTRUCTIONS = ("tcgen05.mma", "wgmma", "mma.sync")
STRIDE = r"(q|k|v|out|dout|pq|pk|qc|qr|c|kr)_[a-z]"


@dataclass(frozen=True)
class Build:
    """One kernel to be compiled with one config for one chip.

    Args:
        kernel: "module:name".
        case: what to call it.
        dtype: of the pointers that the house's names say nothing else of: "fp16", "bf16", "fp32".
        constants: compile-time arguments.
        options: num_warps and num_stages.
        capability: the chip, 75, 80, 90 or 100.
        aligned: numbers that 16 divides, beside the pointers and strides, which do anyway.
    """

    kernel: str
    case: str
    dtype: str
    constants: dict[str, int]
    options: dict[str, int]
    capability: int
    aligned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """One kernel with one config on one chip."""

    kernel: str
    case: str
    capability: int
    registers: int
    spills: int
    shared: int
    matrix: str  # wgmma, tcgen05, mma or none: how the compiler does matrix products
    ptx: str

    def lines(self, instruction: str) -> list[str]:
        """The lines of PTX in which an instruction occurs, their operands' names left out."""
        found = (re.sub(r"\s+", " ", line).strip() for line in self.ptx.splitlines() if instruction in line)
        return [re.sub(r"^(@\S+ )?([\w.:]+).*", r"\2", line) for line in found if not line.startswith("//")]


def compile_kernel(
    kernel, *, case: str, dtype: str, constants: dict, options: dict, capability: int, aligned: Sequence[str] = ()
) -> Compiled:
    """Compile in this process, which must not interpret; registers and spills are ptxas's, shared memory Triton's.

    Raises:
        RuntimeError: the assembler refuses what Triton wrote.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    source = source_of(kernel, dtype=dtype, constants=constants, aligned=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = built.asm["ptx"]
    log = _ptxas(ptx, capability)
    found = (name for name in MATRIX_INSTRUCTIONS if name in ptx)
    return Compiled(
        kernel=kernel.__name__,
        case=case,
        capability=capability,
        registers=int(re.search(r"Used (\d+) registers", log)[1]),
        spills=sum(int(n) for n in re.findall(r"(\d+) bytes spill", log)),
        shared=built.metadata.shared,
        matrix=next(found, "none").split(".")[0],
        ptx=ptx,
    )


def source_of(kernel, *, dtype: str, constants: dict, aligned: Sequence[str] = ()):
    """What Triton compiles: the kernel with the types of its arguments, as an `ASTSource`."""
    from triton.compiler import ASTSource

    types = argument_types(kernel, constants, dtype) | dict.fromkeys(constants, "constexpr")
    # A launch tells the compiler what 16 divides: aligned pointers, and the strides of the widths compiled here.
    divided = [n for n in kernel.arg_names if n.endswith("_ptr") or n in aligned or re.fullmatch(STRIDE, n)]
    hints = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in divided if n not in constants}
    return ASTSource(kernel, {n: types[n] for n in kernel.arg_names}, constexprs=constants, attrs=hints)


def argument_types(kernel, constants: dict, dtype: str) -> dict[str, str]:
    """The types of a kernel's other arguments by the house's names: x_ptr, strides and sizes, scale and softcap."""
    special = {
        "lse_ptr": "*fp32", "top_ptr": "*fp32", "sum_ptr": "*fp32", "delta_ptr": "*fp32", "dlse_ptr": "*fp32",
        "dscore_ptr": "*fp32", "dpq_ptr": "*fp32", "dpk_ptr": "*fp32", "log_prob_ptr": "*fp32", "out32_ptr": "*fp32",
        "dout32_ptr": "*fp32", "lengths_ptr": "*i64", "index_ptr": "*i64", "starts_ptr": "*i32", "middles_ptr": "*i32", "blocks_ptr": "*i32",
        "which_ptr": "*i32", "masks_ptr": "*u8", "visible_ptr": "*u8", "scale": "fp32", "softcap": "fp32",
        "seed": "i64", "seqlens_ptr": "*i32", "table_ptr": "*i32", "partial_ptr": "*fp32", "partial_lse_ptr": "*fp32",
        "k_scale_ptr": "*fp32", "k_zero_ptr": "*fp32", "v_scale_ptr": "*fp32", "v_zero_ptr": "*fp32",
        "slots_ptr": "*i64", "scale_ptr": "*fp32", "zero_ptr": "*fp32", "at_ptr": "*i64",
        "codes_ptr": "*u8" if constants.get("CODEC") else f"*{dtype}",
    }  # fmt: skip
    codes = {1: "*i8", 2: "*u8"}.get(constants.get("CODEC"))
    if codes is not None:
        special |= {"k_ptr": codes, "v_ptr": codes}
    return {
        name: special.get(name) or (f"*{dtype}" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in constants
    }


def _ptxas(ptx: str, capability: int) -> str:
    """ptxas's resource report, by the ptxas that Triton itself uses for the chip."""
    from triton.backends.nvidia.compiler import get_ptxas

    arch = re.search(r"\.target (sm_\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        done = subprocess.run(
            [get_ptxas(capability).path, "-v", f"--gpu-name={arch}", path, "-o", path.with_suffix(".cubin")],
            capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"ptxas refuses what Triton wrote for sm_{capability}: {done.stderr}")
    return done.stderr


def compile_elsewhere(builds: Sequence[Build]) -> list[Compiled]:
    """Compile all of these in one process of their own, in which Triton compiles.

    Raises:
        RuntimeError: one of them does not compile.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"TRITON_INTERPRET": "0"}
    asked = json.dumps([asdict(build) for build in builds])
    command = [sys.executable, "-m", "attncourse.profile.compiled"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"a kernel does not compile:\n{done.stderr[-4000:]}")
    return [Compiled(**entry) for entry in json.loads(done.stdout.splitlines()[-1])]


def _compile(build: Build) -> Compiled:
    module, name = build.kernel.split(":")
    arguments = {k: v for k, v in vars(build).items() if k != "kernel"}
    return compile_kernel(getattr(importlib.import_module(module), name), **arguments)


if __name__ == "__main__":
    print(json.dumps([asdict(_compile(Build(**entry))) for entry in json.load(sys.stdin)]))
