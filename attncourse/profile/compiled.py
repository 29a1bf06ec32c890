"""What the compiler makes of a kernel for a chip that is not here: registers, spills, shared memory, its loops' instructions.

No GPU is needed: Triton writes PTX for any chip; NVIDIA's assembler and disassembler, which come with it, say what the PTX
takes and what a turn of each loop executes.
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
# What a multiprocessor has, for all blocks together (CUDA C++ Programming Guide, table "Technical Specifications per Compute
# Capability"): registers, bytes of shared memory, of which each block takes 1,024 more than it asks for, and threads.
REGISTERS = 65_536
SHARED = {75: 65_536, 80: 167_936, 90: 233_472, 100: 233_472}
THREADS = {75: 1024, 80: 2048, 90: 2048, 100: 2048}
MATRIX_INSTRUCTIONS = ("tcgen05.mma", "wgmma", "mma.sync")
STRIDE = r"(q|k|v|out)_[a-z]"  # a stride that stands alone, as in the lessons' kernels


@dataclass(frozen=True)
class Build:
    """A build is one kernel to be compiled with one config for one chip.

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
class Loop:
    """A loop says what one turn of an innermost loop executes, in instructions of the chip's own.

    Args:
        instructions: all of them, a thread.
        matrix: matrix products, of any kind.
        copies: reads of global memory of 16 bytes a thread, the widest there are, on their way while the loop goes on.
        narrow: reads of global memory of fewer bytes.
        local: accesses to registers that were spilled.
    """

    instructions: int
    matrix: int
    copies: int
    narrow: int
    local: int


@dataclass(frozen=True)
class Compiled:
    """This is one kernel with one config on one chip;
    `loop` is the first one with matrix products, or the first, or None.
    """

    kernel: str
    case: str
    capability: int
    warps: int
    registers: int
    spills: int
    shared: int
    matrix: str  # wgmma, tcgen05, mma or none: how the compiler does matrix products
    loop: Loop | None
    ptx: str

    @property
    def resident(self) -> int:
        """Return how many programs a multiprocessor holds at a time. A warp's registers come in pieces of 256."""
        a_warp = -(-32 * self.registers // 256) * 256
        blocks = REGISTERS // (a_warp * self.warps), THREADS[self.capability] // (32 * self.warps)
        reserved = 0 if self.capability < 80 else 1024
        return min(*blocks, SHARED[self.capability] // max(self.shared + reserved, 1))

    def lines(self, instruction: str) -> list[str]:
        """Return the lines of PTX in which an instruction occurs, their operands' names left out."""
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
    log, sass = _assemble(ptx, capability)
    found = (name for name in MATRIX_INSTRUCTIONS if name in ptx)
    return Compiled(
        kernel=kernel.__name__,
        case=case,
        capability=capability,
        warps=built.metadata.num_warps,
        registers=int(re.search(r"Used (\d+) registers", log)[1]),
        spills=sum(int(n) for n in re.findall(r"(\d+) bytes spill", log)),
        shared=built.metadata.shared,
        matrix=next(found, "none").split(".")[0],
        loop=_first_loop(sass),
        ptx=ptx,
    )


def source_of(kernel, *, dtype: str, constants: dict, aligned: Sequence[str] = ()):
    """Return what Triton compiles: the kernel with the types of its arguments, as an `ASTSource`.

    A launch tells the compiler which integers are 1, and which 16 divides: pointers, and here all strides but the last.
    """
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = argument_types(kernel, constants, dtype) | dict.fromkeys(constants, "constexpr")
    strides = {n: len(t) for n, t in types.items() if isinstance(t, tuple)}
    known = {(names.index(n),): value for n, value in constants.items()}
    known |= {(names.index(n), axes - 1): 1 for n, axes in strides.items()}
    alone = [n for n in names if n.endswith("_ptr") or n in aligned or re.fullmatch(STRIDE, n)]
    divided = [(names.index(n),) for n in alone if n not in constants]
    divided += [(names.index(n), axis) for n, axes in strides.items() for axis in range(axes - 1)]
    hints = {place: [["tt.divisibility", 16]] for place in divided}
    return ASTSource(kernel, {n: types[n] for n in names}, constexprs=known, attrs=hints)


def argument_types(kernel, constants: dict, dtype: str) -> dict[str, str | tuple[str, ...]]:
    """Return the types of a kernel's other arguments by the house's names: x_ptr, x_strides, sizes, scale and softcap."""
    special = {
        "lse_ptr": "*fp32", "top_ptr": "*fp32", "sum_ptr": "*fp32", "delta_ptr": "*fp32", "dlse_ptr": "*fp32",
        "dscore_ptr": "*fp32", "dpq_ptr": "*fp32", "dpk_ptr": "*fp32", "log_prob_ptr": "*fp32", "out32_ptr": "*fp32",
        "dout32_ptr": "*fp32", "lengths_ptr": "*i64", "index_ptr": "*i64", "starts_ptr": "*i32", "middles_ptr": "*i32", "blocks_ptr": "*i32",
        "which_ptr": "*i32", "masks_ptr": "*u8", "scale": "fp32", "softcap": "fp32",
        "seed": "i64", "seqlens_ptr": "*i32", "table_ptr": "*i32", "part_ptr": "*fp32", "part_lse_ptr": "*fp32",
        "k_scale_ptr": "*fp32", "k_zero_ptr": "*fp32", "v_scale_ptr": "*fp32", "v_zero_ptr": "*fp32",
        "slots_ptr": "*i64", "scale_ptr": "*fp32", "zero_ptr": "*fp32", "at_ptr": "*i64",
        "codes_ptr": "*u8" if constants.get("CODEC") else f"*{dtype}",
    }  # fmt: skip
    codes = {1: "*i8", 2: "*u8", 3: "*u8"}.get(constants.get("CODEC"))
    if codes is not None:
        special |= {"k_ptr": codes, "v_ptr": codes}
    axes = {"table_strides": 2}
    special |= {n: ("i32",) * (axes.get(n, 4) - 1) + ("constexpr",) for n in kernel.arg_names if n.endswith("_strides")}
    return {
        name: special.get(name) or (f"*{dtype}" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in constants
    }


def _assemble(ptx: str, capability: int) -> tuple[str, str]:
    """Return ptxas's resource report, by the ptxas that Triton itself uses for the chip, and the instructions it wrote."""
    from triton import knobs
    from triton.backends.nvidia.compiler import get_ptxas

    arch = re.search(r"\.target (sm_\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        cubin = path.with_suffix(".cubin")
        done = subprocess.run(
            [get_ptxas(capability).path, "-v", f"--gpu-name={arch}", path, "-o", cubin], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"ptxas refuses what Triton wrote for sm_{capability}: {done.stderr}")
        sass = subprocess.run([knobs.nvidia.nvdisasm.path, "-c", cubin], capture_output=True, text=True, check=True)
    return done.stderr, sass.stdout


def _first_loop(sass: str) -> Loop | None:
    """Return the first of the innermost loops with a matrix product, or the first: from a label to a jump back to it."""
    lines = sass.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\.L_x_\d+):", line))}
    ends = (
        (labels.get(m[1], i), i) for i, line in enumerate(lines) if (m := re.search(r"BRA.*`\((\.L_x_\d+)\)", line))
    )
    spans = [(first, last) for first, last in ends if last - first > 1]  # the last line of a program jumps to itself
    inner = [(a, b) for a, b in spans if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)]
    loops = [_count(lines[first:last]) for first, last in inner]
    return next((loop for loop in loops if loop.matrix), loops[0] if loops else None)


def _count(lines: list[str]) -> Loop:
    code = [line for line in lines if ";" in line]

    def how_many(pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in code)

    reads, wide = how_many(r"\bLDG(STS)?\b"), how_many(r"\bLDG(STS)?\b\S*\.128\b")
    return Loop(
        instructions=len(code),
        matrix=how_many(r"\b(HMMA|HGMMA|IMMA|UTC\w*MMA)\b"),
        copies=wide,
        narrow=reads - wide,
        local=how_many(r"\b(LDL|STL)\b"),
    )


def compile_elsewhere(builds: Sequence[Build], *, folder: str | None = None) -> list[Compiled]:
    """Compile all of these in one process of their own, in which Triton compiles.

    Args:
        builds: what to compile.
        folder: where modules are looked for first (default: nowhere beside the usual places).

    Raises:
        RuntimeError: one of them does not compile.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"TRITON_INTERPRET": "0"}
    places = [place for place in (folder, environment.get("PYTHONPATH")) if place]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    asked = json.dumps([asdict(build) for build in builds])
    command = [sys.executable, "-m", "attncourse.profile.compiled"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"a kernel does not compile:\n{done.stderr[-4000:]}")
    return [compiled_from(entry) for entry in json.loads(done.stdout.splitlines()[-1])]


def compiled_from(entry: dict) -> Compiled:
    """Return what `asdict` made of a Compiled."""
    return Compiled(**entry | {"loop": entry["loop"] and Loop(**entry["loop"])})


def _compile(build: Build) -> Compiled:
    module, name = build.kernel.split(":")
    arguments = {k: v for k, v in vars(build).items() if k != "kernel"}
    return compile_kernel(getattr(importlib.import_module(module), name), **arguments)


if __name__ == "__main__":
    print(json.dumps([asdict(_compile(Build(**entry))) for entry in json.load(sys.stdin)]))
