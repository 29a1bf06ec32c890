"""The second gate of a kernel: compile it for chips that are not here, and read what the compiler made of it.

`python -m tests.compile_gate` prints the table of registers, shared memory and spills of every kernel's configs.
Kernels must be compiled functions, not interpreted ones, so this runs in a process without TRITON_INTERPRET
(`compile_all` starts one).

Compiling all of them takes a processor half an hour, and gives the same as long as kernel, config, chip and compiler are
the same. So `python -m tests.compile_gate record [ROOM ...]` writes what came out beside a hash of these into
tests/compiled/; whatever has no such entry is compiled, and of the others one a room, drawn anew each time.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import pytest

from attncourse._shared.launch import triton_is_old
from attncourse.profile.compiled import SHARED_LIMIT, Compiled, compile_kernel, compiled_from, source_of

RECORDS = Path(__file__).parent / "compiled"
RECORD_ANEW = "without its line in tests/compiled/ `python -m tests.compile_gate record` writes it anew"


def softmax_attention_cases(capability: int):
    """Every kernel of softmax attention at the widths and dtypes it claims, causal."""
    from attncourse.softmax_attention import kernel as room

    for dtype, width in [
        ("fp16", 64),
        ("fp16", 128),
        ("fp16", 256),
        ("bf16", 64),
        ("bf16", 128),
        ("fp32", 64),
        ("fp32", 128),
    ]:
        if dtype == "bf16" and capability < 80:
            continue  # no bfloat16 arithmetic on that chip; Triton refuses it
        chip = dict(width=width, bits=32 if dtype == "fp32" else 16, capability=capability)
        known = {
            "GROUP": 4, "DK": width, "DV": width, "BLOCK_DK": width, "BLOCK_DV": width, "CAUSAL": True,
            "WINDOW": False, "LENGTHS": False, "SOFTCAP": False, "MASK": 0,
        }  # fmt: skip
        for which in room.CONFIGS:
            kernel = getattr(room, f"_softmax_attention_{which}_kernel")
            yield kernel, f"{dtype} d={width} causal", dtype, known, room.launch_config(which, **chip)


def additive_cases(capability: int):
    """Every kernel of additive attention, under an added mask, which takes the most registers."""
    from attncourse.additive import kernel as room

    for dtype, width in [("fp16", 64), ("fp16", 128), ("bf16", 256), ("fp32", 128), ("fp32", 256)]:
        if dtype == "bf16" and capability < 80:
            continue
        config = room.launch_config(width)
        known = {"DV": width, "BLOCK_DV": width, "A": 512, "LENGTHS": True, "MASK": room.ADDED_MASK}
        for name in ("_additive_fwd_kernel", "_additive_bwd_dq_kernel", "_additive_bwd_dkdv_kernel"):
            yield getattr(room, name), f"{dtype} dv={width}", dtype, known, config


def hard_attention_cases(capability: int):
    """The kernel of hard attention at the widths and dtypes it claims, sampling under an added mask: the most registers."""
    from attncourse.hard_attention import kernel as room

    widths = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("bf16", 128), ("fp32", 64), ("fp32", 256)]
    for dtype, width in widths:
        if dtype == "bf16" and capability < 80:
            continue
        config = room.launch_config(width=width, bits=32 if dtype == "fp32" else 16, capability=capability)
        known = {
            "GROUP": 4, "DK": width, "DV": width, "BLOCK_DK": width, "BLOCK_DV": width, "CAUSAL": True,
            "WINDOW": False, "LENGTHS": True, "SOFTCAP": False, "MASK": 2, "SAMPLE": True,
        }  # fmt: skip
        yield room._hard_attention_fwd_kernel, f"{dtype} d={width} causal", dtype, known, config


def sliding_window_cases(capability: int):
    """Every kernel of local attention at the widths and dtypes it claims."""
    from attncourse.sliding_window import kernel as room

    for dtype, width in [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("fp32", 64), ("fp32", 128)]:
        if dtype == "bf16" and capability < 80:
            continue
        chip = dict(width=width, bits=32 if dtype == "fp32" else 16, capability=capability)
        known = {"GROUP": 4, "DK": width, "DV": width, "BLOCK_DK": width, "BLOCK_DV": width, "LENGTHS": False}
        for which in room.CONFIGS:
            kernel = getattr(room, f"_sliding_window_{which}_kernel")
            yield kernel, f"{dtype} d={width}", dtype, known, room.launch_config(which, **chip)


def block_sparse_cases(capability: int):
    """Every kernel of block-sparse attention at the widths and dtypes it claims, in blocks of 64."""
    from attncourse.block_sparse import kernel as room

    widths = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("bf16", 128), ("fp32", 64), ("fp32", 128)]
    for dtype, width in widths:
        if dtype == "bf16" and capability < 80:
            continue
        chip = dict(width=width, side=64, bits=32 if dtype == "fp32" else 16, capability=capability)
        known = {
            "GROUP": 4,
            "DK": width,
            "DV": width,
            "SIDE": 64,
            "BLOCK_DK": width,
            "BLOCK_DV": width,
            "LENGTHS": False,
        }
        for which in room.CONFIGS:
            kernel = getattr(room, f"_block_sparse_{which}_kernel")
            yield kernel, f"{dtype} d={width}", dtype, known, room.launch_config(which, **chip)


def global_local_cases(capability: int):
    """Every kernel of global and local attention at the widths and dtypes it claims: a band, hubs and all keys."""
    from attncourse.global_local import kernel as room

    widths = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("fp32", 64), ("fp32", 128), ("fp32", 256)]
    kinds = {"band": room.BAND, "hubs": room.HUBS, "all keys": room.ALL}
    for dtype, width in widths:
        if dtype == "bf16" and capability < 80:
            continue
        chip = dict(width=width, bits=32 if dtype == "fp32" else 16, capability=capability)
        for name, keys in kinds.items():
            known = {
                "GROUP": 1, "DK": width, "DV": width, "BLOCK_DK": width, "BLOCK_DV": width, "LENGTHS": keys is not room.HUBS,
                "KEYS": keys.value,
            }  # fmt: skip
            for which in room.CONFIGS:
                if capability < 80 and (dtype, width) == ("fp32", 256) and which != "fwd":
                    continue  # refused there: it does not fit
                kernel = getattr(room, f"_global_local_{which}_kernel")
                yield kernel, f"{dtype} d={width} {name}", dtype, known, room.launch_config(which, **chip)


def linear_attention_cases(capability: int):
    """The scan of linear attention in each precision and direction, with decay, and the step of decoding."""
    from attncourse.linear_attention import kernel as room

    for bits, width in [(16, 64), (16, 128), (16, 256), (32, 64), (32, 128), (32, 256)]:
        chip = dict(width=width, out=width, bits=bits, capability=capability)
        for decay in (room.OF_STEPS, room.OF_X, room.OF_W):
            config = room.launch_config(**chip, decay=decay.value)
            for reverse in (False, True):
                known = {"X": width, "W": width, "BLOCK_X": width, "DECAY": decay.value, "REVERSE": reverse}
                of = {room.OF_STEPS: "", room.OF_X: ", decay of x", room.OF_W: ", decay of w"}[decay]
                case = f"{bits} bits d={width}{of}" + " reversed" * reverse
                yield room._linear_attention_scan_kernel, case, "fp32", known, config
    for width in (64, 256):
        known = {"F": width, "DV": width, "GROUP": 4, "BLOCK_F": width, "DECAY": True, "NORMALIZE": True}
        yield room._linear_attention_step_kernel, f"d={width}", "fp32", known, room.step_config(width)


def latent_cases(capability: int):
    """Both kernels of absorbed decoding at DeepSeek's width and smaller ones, over pages and not."""
    from attncourse.latent import kernel as room

    for dtype, width, rope in [
        ("fp16", 128, 32), ("fp16", 256, 64), ("fp16", 512, 64), ("bf16", 512, 64), ("fp32", 128, 32), ("fp32", 512, 64),
    ]:  # fmt: skip
        if dtype == "bf16" and capability < 80:
            continue
        for rows, paged in [(16, False), (16, True), (128, False), (128, True)]:
            config = room.launch_config(
                rows=rows, width=width, bits=32 if dtype == "fp32" else 16, capability=capability, paged=paged
            )
            known = {
                "R": width, "P": rope, "PAGED": paged, "ALIGNED": True, "LENGTHS": True, "POSITIONS": True,
                "BLOCK_R": width, "BLOCK_P": rope,
            }  # fmt: skip
            case = f"{dtype} {width} + {rope}, {rows} queries" + " paged" * paged
            yield room._latent_decode_split_kernel, case, dtype, known, config


def grouped_query_cases(capability: int):
    """Both kernels of decoding, at the widths and dtypes they claim: paged, plain and of 8 bits; 4 rows a group, and 64."""
    from attncourse.grouped_query import kernel as room

    for dtype, width in [
        ("fp16", 64),
        ("fp16", 128),
        ("fp16", 256),
        ("bf16", 64),
        ("bf16", 128),
        ("fp32", 64),
        ("fp32", 128),
    ]:
        if dtype == "bf16" and capability < 80:
            continue
        codecs = {"plain": room.PLAIN, "int8": room.INT8, "int4": room.INT4, "fp8": room.FP8}
        for name, codec in codecs.items():
            for rows in (4, 64) if name == "plain" else (4,):
                for paged in (True, False) if name == "plain" else (True,):
                    config = room.launch_config(
                        rows=rows, width=width, bits=32 if dtype == "fp32" else 16, capability=capability, paged=paged
                    )
                    known = {
                        "LENGTHS": True, "STARTS": True, "PAGED": paged, "ALIGNED": True, "WINDOW": False,
                        "SOFTCAP": False, "CODEC": codec.value, "K_GROUPS": 1, "V_GROUPS": 1, "DK": width, "DV": width,
                        "BLOCK_DK": width, "BLOCK_DV": width,
                    }  # fmt: skip
                    case = f"{dtype} d={width} {name} cache, {rows} rows" + ("" if paged else ", contiguous")
                    yield room._grouped_query_split_kernel, case, dtype, known, config
                    if (width, rows, paged) == (256, 4, False):  # Gemma 2's heads
                        yield (
                            room._grouped_query_split_kernel,
                            f"{case}, softcap",
                            dtype,
                            known | {"SOFTCAP": True},
                            config,
                        )


def kv_cache_cases(capability: int):
    """Writing a cache's slots and reading them, as they are and with each codec."""
    from attncourse.kv_cache import kernel as room

    for dtype, width in [("fp16", 64), ("fp16", 512), ("bf16", 128), ("fp32", 128)]:  # heads, and a latent
        if dtype == "bf16" and capability < 80:
            continue
        for codec, number in room.CODECS.items():
            group, pack = width if codec is room.Plain else 32, 2 if codec is room.Int4 else 1
            case = f"{dtype} {codec.__name__} d={width}"
            append = {
                "CODEC": number, "GROUPS": width // group, "GROUP": group, "BLOCK_GROUPS": width // group,
                "BLOCK_GROUP": group // pack,
            }  # fmt: skip
            yield room._kv_cache_append_kernel, case, dtype, append, room.LAUNCH
            gather = {
                "CODEC": number, "WIDTH": width, "GROUP": group, "BLOCK_S": room.gather_block(width),
                "BLOCK_WIDTH": width,
            }  # fmt: skip
            yield room._kv_cache_gather_kernel, case, dtype, gather, room.LAUNCH


def shared_cases(capability: int):
    """What rooms share as kernels of their own: the rows' deltas and the merge of splits."""
    from attncourse._shared import kernel as shared

    for dtype, width in [("fp16", 64), ("fp16", 128), ("fp16", 256), ("fp32", 128), ("fp32", 256)]:
        for name, lse in (("", True), (", without dlse", False)):
            delta = {"DV": width, "BLOCK_T": 16, "BLOCK_DV": width, "LSE": lse}
            yield shared._row_delta_kernel, f"{dtype} d={width}{name}", dtype, delta, {"num_warps": 4}
    for dtype, width in [("fp16", 64), ("bf16", 512), ("fp32", 128)]:
        if dtype == "bf16" and capability < 80:
            continue
        merge = {"WIDTH": width, "BLOCK_N": 64, "BLOCK_W": 64}
        yield shared._merge_splits_kernel, f"{dtype} d={width}", dtype, merge, {"num_warps": 4}


CASES = {
    "shared": shared_cases,
    "latent": latent_cases,
    "softmax_attention": softmax_attention_cases,
    "additive": additive_cases,
    "hard_attention": hard_attention_cases,
    "sliding_window": sliding_window_cases,
    "block_sparse": block_sparse_cases,
    "global_local": global_local_cases,
    "linear_attention": linear_attention_cases,
    "kv_cache": kv_cache_cases,
    "grouped_query": grouped_query_cases,
}


def compile_room(room: str, capability: int) -> list[dict]:
    """What the record says of every case of a room on one chip, and the compiler where it says nothing."""
    record = read_record(room)
    return [record.get((task["key"], task["case"])) or _compile(task) for task in _tasks(room, capability)]


def first_of_each_kernel(capability: int, *, rooms: Iterable[str] = CASES) -> list[Compiled]:
    """Every kernel of these rooms compiled once on one chip, in this process, whatever is recorded.

    Raises:
        AssertionError: one asks for more shared memory than the chip has.
    """
    tasks = {}
    for room in rooms:
        for kernel, *case in CASES[room](capability):
            tasks.setdefault(kernel, (kernel, *case))
    found = [_task(*case, capability)["build"]() for case in tasks.values()]
    for c in found:
        assert c.shared <= SHARED_LIMIT[capability], f"{c.kernel}, {c.case}: too much shared memory, {c.shared} bytes"
    return found


def look_up_room(room: str) -> dict[int, list[dict] | None]:
    """What the record says of a room on every chip, None where it lacks a case; one entry is tried, drawn each time.

    Raises:
        AssertionError: the record does not say what the compiler does.
    """
    record, found, known = read_record(room), {}, []
    for capability in SHARED_LIMIT:
        tasks = [*_tasks(room, capability)]
        entries = [record.get((task["key"], task["case"])) for task in tasks]
        found[capability] = None if None in entries else entries
        known += [(task, entry) for task, entry in zip(tasks, entries, strict=True) if entry]
    if known:
        task, recorded = random.choice(known)
        compiled = _compile(task)
        assert compiled == recorded, f"recorded is {recorded}, and the compiler says {compiled}: {RECORD_ANEW}"
    return found


def _compile(task: dict) -> dict:
    entry = asdict(task["build"]())
    del entry["ptx"]  # megabytes, all kernels together
    return {"key": task["key"]} | entry


def _tasks(room: str, capability: int):
    return (_task(*case, capability) for case in CASES[room](capability))


def _task(kernel, case: str, dtype: str, known: dict, config: dict, capability: int) -> dict:
    """How to compile one case, and the key of all that the result depends on."""
    options = {k: v for k, v in config.items() if not k.isupper()}
    constants = {k: v for k, v in {**known, **config}.items() if k.isupper() and k in kernel.arg_names}
    arguments = dict(dtype=dtype, constants=constants)
    return {
        "key": _key(source_of(kernel, **arguments), options, capability),
        "case": case,
        "build": partial(compile_kernel, kernel, case=case, options=options, capability=capability, **arguments),
    }


def _key(source, options: dict, capability: int) -> str:
    """A hash of the kernel with all that it calls, its arguments and options, the chip, Triton and ptxas."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    from attncourse._shared import kernel as shared

    for module in (sys.modules[source.fn.__module__], shared):
        for function in vars(module).values():
            if isinstance(function, triton.JITFunction):
                function.starting_line_number = 0  # part of Triton's own hash: a line above the kernel would change it
    compiler = (triton.__version__, make_backend(GPUTarget("cuda", capability, 32)).hash())
    return hashlib.sha256(repr((source.hash(), sorted(options.items()), compiler)).encode()).hexdigest()[:32]


def read_record(room: str) -> dict[tuple[str, str], dict]:
    """What the compiler made of a room's kernels when they were recorded, by key and case: two cases may be one kernel."""
    path = RECORDS / f"{room}.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {(entry["key"], entry["case"]): entry for entry in entries}


def write_record(room: str) -> None:
    """Record what comes out of a room for every chip, a line a kernel, so that a diff shows what changed.

    What has an entry already is not compiled again: its key says that all is as it was.
    """
    entries = [entry for capability in SHARED_LIMIT for entry in _elsewhere(room, str(capability))]
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{room}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def compile_all(room: str, capability: int) -> list[Compiled]:
    """For a test: every case of a room on one chip, from the record where that has them all, else compiled.

    Triton 3.6 spills some bytes where newer ones spill none (48 in softmax attention's bwd_dkdv, float16, width 64, sm_80):
    slower there, and as right. So the test that asks is skipped with it.
    """
    if triton_is_old():
        pytest.skip("Triton 3.6 and older spill registers in configurations that are tuned for newer ones")
    return compiled_all(room, capability)


def compiled_all(room: str, capability: int) -> list[Compiled]:
    """What compile_all gives, with any Triton."""
    entries = _looked_up(room)[str(capability)] or _elsewhere(room, str(capability))
    return [compiled_from({k: v for k, v in entry.items() if k != "key"} | {"ptx": ""}) for entry in entries]


@cache
def _looked_up(room: str) -> dict[str, list[dict] | None]:
    return _elsewhere(room)


def _elsewhere(room: str, *chip: str):
    """What `python -m tests.compile_gate ROOM [CHIP]` prints, a process in which Triton compiles."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.compile_gate", room, *chip]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        raise AssertionError(f"{room} does not compile:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def print_table() -> None:
    """The resource table of every kernel on every chip."""
    print("| Kernel | Case | Chip | Registers | Shared bytes | Spilled bytes | Matrix product |")
    print("| --- | --- | --- | ---: | ---: | ---: | --- |")
    for room in CASES:
        for capability in SHARED_LIMIT:
            for c in compiled_all(room, capability):
                print(
                    f"| `{c.kernel}` | {c.case} | sm_{c.capability} | {c.registers} | {c.shared} | {c.spills} | {c.matrix} |"
                )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", *rooms]:
            for name in rooms or CASES:
                write_record(name)
        case ["first", name]:
            found = [c for capability in (80, 90) for c in first_of_each_kernel(capability, rooms=[name])]
            print(json.dumps([{k: v for k, v in asdict(c).items() if k != "ptx"} for c in found]))
        case [name]:
            print(json.dumps(look_up_room(name)))
        case [name, chip]:
            print(json.dumps(compile_room(name, int(chip))))
        case _:
            print_table()
