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
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import pytest

from attncourse._shared.launch import triton_is_old
from attncourse.profile.compiled import SHARED_LIMIT, Compiled, compile_kernel, compiled_from, source_of
from attncourse.rooms import rooms_with

RECORDS = Path(__file__).parent / "compiled"
RECORD_ANEW = "without its line in tests/compiled/ `python -m tests.compile_gate record` writes it anew"


def cases_of(room: str, capability: int) -> Iterator[tuple]:
    """Return what is compiled of a room for a chip, as its file in tests/compiled/ has it."""
    return import_module(f"{__package__}.compiled.{room}").cases(capability)


# What rooms share comes first: all others are compiled with it.
ROOMS = ("shared", *rooms_with("{}.py", root=RECORDS))


def compile_room(room: str, capability: int) -> list[dict]:
    """Return what the record says of every case of a room on one chip, and the compiler where it says nothing."""
    record = read_record(room)
    return [record.get((task["key"], task["case"])) or _compile(task) for task in _tasks(room, capability)]


def first_of_each_kernel(capability: int, *, rooms: Iterable[str] = ROOMS) -> list[Compiled]:
    """Return every kernel of these rooms compiled once on one chip, in this process, whatever is recorded.

    Raises:
        AssertionError: one asks for more shared memory than the chip has.
    """
    tasks = {}
    for room in rooms:
        for kernel, *case in cases_of(room, capability):
            tasks.setdefault(kernel, (kernel, *case))
    found = [_task(*case, capability)["build"]() for case in tasks.values()]
    for c in found:
        assert c.shared <= SHARED_LIMIT[capability], f"{c.kernel}, {c.case}: too much shared memory, {c.shared} bytes"
    return found


def look_up_room(room: str) -> dict[int, list[dict] | None]:
    """Return what the record says of a room on every chip, None where it lacks a case; one entry is tried, drawn each time.

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
    return (_task(*case, capability) for case in cases_of(room, capability))


def _task(kernel, case: str, dtype: str, known: dict, config: dict, capability: int) -> dict:
    """Return how to compile one case, and the key of all that the result depends on."""
    options = {k: v for k, v in config.items() if not k.isupper()}
    constants = {k: v for k, v in {**known, **config}.items() if k.isupper() and k in kernel.arg_names}
    arguments = dict(dtype=dtype, constants=constants)
    return {
        "key": _key(source_of(kernel, **arguments), options, capability),
        "case": case,
        "build": partial(compile_kernel, kernel, case=case, options=options, capability=capability, **arguments),
    }


def _key(source, options: dict, capability: int) -> str:
    """Return a hash of the kernel with all that it calls, its arguments and options, the chip, Triton and ptxas."""
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
    """Return what the compiler made of a room's kernels when they were recorded, by key and case: two cases may be one kernel."""
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
    """Return, for a test, every case of a room on one chip, from the record where that has them all, else compiled.

    Triton 3.6 spills some bytes where newer ones spill none (48 in softmax attention's bwd_dkdv, float16, width 64, sm_80):
    slower there, and as right. So the test that asks is skipped with it.
    """
    if triton_is_old():
        pytest.skip("Triton 3.6 and older spill registers in configurations that are tuned for newer ones")
    return compiled_all(room, capability)


def compiled_all(room: str, capability: int) -> list[Compiled]:
    """Return what compile_all gives, with any Triton."""
    entries = _looked_up(room)[str(capability)] or _elsewhere(room, str(capability))
    return [compiled_from({k: v for k, v in entry.items() if k != "key"} | {"ptx": ""}) for entry in entries]


@cache
def _looked_up(room: str) -> dict[str, list[dict] | None]:
    return _elsewhere(room)


def _elsewhere(room: str, *chip: str):
    """Return what `python -m tests.compile_gate ROOM [CHIP]` prints, a process in which Triton compiles."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.compile_gate", room, *chip]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        raise AssertionError(f"{room} does not compile:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def print_table() -> None:
    """Print the resource table of every kernel on every chip."""
    print("| Kernel | Case | Chip | Registers | Shared bytes | Spilled bytes | Matrix product |")
    print("| --- | --- | --- | ---: | ---: | ---: | --- |")
    for room in ROOMS:
        for capability in SHARED_LIMIT:
            for c in compiled_all(room, capability):
                print(
                    f"| `{c.kernel}` | {c.case} | sm_{c.capability} | {c.registers} | {c.shared} | {c.spills} | {c.matrix} |"
                )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", *rooms]:
            for name in rooms or ROOMS:
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
