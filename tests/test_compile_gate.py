"""The compile gate's record: its key holds all that the compiler's result depends on, and a false entry is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import compile_gate

ROOT = Path(__file__).parents[1]
KERNEL = """
import triton
import triton.language as tl

@triton.jit
def helper(x):
    return x + {added}

@triton.jit
def double_kernel(x_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x_ptr + at, helper(tl.load(x_ptr + at)) {operator} 2)
"""
SCRIPT = """
import importlib, sys
from attncourse.profile.compiled import source_of
from tests.compile_gate import _key

def key(module, block=16, chip=80, warps=4, dtype="fp16"):
    kernel = importlib.import_module(module).double_kernel
    return _key(source_of(kernel, dtype=dtype, constants={"BLOCK": block}), {"num_warps": warps}, chip)

same = key("plain")
assert key("moved") == same
others = [key("other_body"), key("other_helper"), key("plain", block=32), key("plain", chip=90), key("plain", warps=8)]
assert len({same, key("plain", dtype="fp32"), *others}) == 7
"""
STRIDES = """
from attncourse.lessons.write_the_kernel import kernel
from attncourse.profile.compiled import source_of

lesson = kernel._attention_in_registers_kernel
source = source_of(lesson, dtype="fp16", constants={n: 64 for n in lesson.arg_names if n.isupper()})
told = {lesson.arg_names[place[0]] for place in source.attrs}
assert {"q_ptr", "q_h", "q_t", "out_t"} <= told and not {"t", "s", "scale"} & told, told
"""
FALSE_RECORD = """
import json, pathlib, sys
from tests import compile_gate

false = [entry | {"registers": entry["registers"] + 1} for entry in compile_gate.read_record("kv_cache").values()]
compile_gate.RECORDS = pathlib.Path(sys.path[0])
(compile_gate.RECORDS / "kv_cache.json").write_text(json.dumps(false), encoding="utf-8")
try:
    compile_gate.look_up_room("kv_cache")
except AssertionError as error:
    assert "the compiler says" in str(error)
else:
    raise SystemExit("a false record was taken")
"""


def run(script: str, folder: Path) -> None:
    """Run a script where kernels are compiled functions and modules of the folder can be imported."""
    (folder / "script.py").write_text(script, encoding="utf-8")
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, folder / "script.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_key_holds_what_the_result_depends_on_and_not_where_the_kernel_stands(tmp_path):
    for name, lines, operator, added in [
        ("plain", 0, "*", 1), ("moved", 9, "*", 1), ("other_body", 0, "-", 1), ("other_helper", 0, "*", 3),
    ]:  # fmt: skip
        source = lines * "\n" + KERNEL.format(operator=operator, added=added)
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    run(SCRIPT, tmp_path)


def test_the_compiler_is_told_of_strides_that_stand_alone_too(tmp_path):
    run(STRIDES, tmp_path)


def test_a_record_that_the_compiler_contradicts_is_refused(tmp_path):
    run(FALSE_RECORD, tmp_path)


@pytest.mark.parametrize("old", [True, False])
def test_a_gate_is_skipped_where_triton_is_old_and_only_there(old, monkeypatch):
    monkeypatch.setattr(compile_gate, "triton_is_old", lambda: old)
    monkeypatch.setattr(compile_gate, "compiled_all", lambda room, capability: (room, capability))
    if not old:
        assert compile_gate.compile_all("latent", 80) == ("latent", 80)
        return
    with pytest.raises(pytest.skip.Exception, match="Triton 3.6 and older spill"):
        compile_gate.compile_all("latent", 80)
