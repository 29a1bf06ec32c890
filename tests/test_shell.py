"""What every command does when its surroundings fail: one sentence, an exit code, never a traceback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attncourse.__main__ import FAILED, UNREAD, UNUSABLE, lacking, main

ROOT = Path(__file__).parents[1]
# runs several commands in one process, since each would import PyTorch anew
WITHOUT_EXTRAS = """
import contextlib, io, json, sys
absent, calls = json.loads(sys.argv[1])
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent)
from attncourse.__main__ import main
said = []
for call in calls:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(call)
        except SystemExit as end:
            code = end.code
    said.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(said))
"""
ABSENT = [
    "nbgrader",
    "nbformat",
    "nbclient",
    "IPython",
    "safetensors",
    "jinja2",
    "distributed",
    "ipykernel",
    "transformers",
]


def run_without_extras(folder: Path, *calls: list[str]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of commands as an installation without any extra has them."""
    command = [sys.executable, "-c", WITHOUT_EXTRAS, json.dumps([ABSENT, calls])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def test_without_an_extra_its_commands_name_it_and_the_others_run(tmp_path):
    lame = [["grade", "in", "--out", "out"], ["record", "out", "ada"], ["bootstrap", "--root", str(ROOT)],
            ["release", "--root", str(ROOT)], ["assign", "additive", "--out", "a"]]  # fmt: skip
    sound = [["--help"], ["grade", "--help"], ["cache", "--list"], ["exercises", "additive"]]
    results = run_without_extras(tmp_path, *lame, *sound)
    for call, (code, _, said) in zip(lame, results, strict=False):
        assert code == UNUSABLE and said.count("\n") == 1, call
        assert "which is not installed: pip install 'attncourse[grade]'" in said, call
    for call, (code, shown, said) in zip(sound, results[len(lame) :], strict=True):
        assert code == 0 and shown and not said, call


def test_a_module_of_the_course_that_is_missing_is_no_extra():
    error = ModuleNotFoundError("No module named 'attncourse.gone'", name="attncourse.gone")
    with pytest.raises(ModuleNotFoundError) as raised:
        lacking(error)
    assert raised.value is error


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["compare", "before.json", "after.json"], "before.json: No such file"),
        (["cache", "--config", "config.json"], "config.json"),
        (["record", "grades", "ada"], "grades holds no records"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_says_which_file_is_missing(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == UNUSABLE and said in error and error.count("\n") == 1


@pytest.mark.parametrize("other_project", [False, True])
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["assign", "additive", "--out", "assignment"], "--root"),
        (["bootstrap"], "--root"),
        (["grade", ".", "--out", "grades"], "--exercises"),
        (["new-exercise", "windows", "--chapter", "short_history"], "--root"),
        (["point-at", "--repository", "https://github.com/a/b", "--tag", "t"], "--root"),
        (["release"], "--root"),
        (["where", "latent"], "--root"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_that_needs_a_checkout_says_so(tmp_path, monkeypatch, capsys, arguments, option, other_project):
    if other_project:
        (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, option, "."])
    error = capsys.readouterr().err
    assert ended.value.code == UNUSABLE and error.count("\n") == 1
    assert re.fullmatch(
        rf"attncourse: this needs [\w. ]+ of a checkout of the course, and {re.escape(str(tmp_path))} holds none: "
        rf"clone your fork and run this in it, or say {option} FOLDER\n",
        error,
    )
    assert not (tmp_path / "assignment").exists()


def test_a_file_that_fails_a_command_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path), str(tmp_path)])
    assert ended.value.code == FAILED and capsys.readouterr().err == f"attncourse: {tmp_path}: Is a directory\n"


def test_a_command_whose_output_nobody_reads_ends_in_silence():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        command = [sys.executable, "-m", "attncourse", "exercises"]
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (UNREAD, b"")


LOADED = """
import contextlib, io, sys
from attncourse.__main__ import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(*sys.modules)
"""


def loaded(*arguments: str) -> set[str]:
    """Modules that Python has imported when a command is done."""
    command = [sys.executable, "-c", LOADED, *arguments]
    return {*subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()}


@pytest.mark.parametrize("arguments", [["--help"], ["grade", "--help"]], ids=" ".join)
def test_help_does_not_wait_for_pytorch(arguments):
    assert {"torch", "numpy", "matplotlib"}.isdisjoint(loaded(*arguments))


def test_what_a_cache_costs_is_told_without_other_rooms_and_exercises():
    parts = {name.split(".")[1] for name in loaded("cache", "--list") if name.startswith("attncourse.")}
    assert parts == {"__main__", "_shared", "kv_cache", "softmax_attention"}
