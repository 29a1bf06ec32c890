"""The page for instructors: its commands are ones that the shell takes, its numbers those that hold."""

import re
import shlex
from pathlib import Path

import pytest

from attncourse.__main__ import COMMANDS, build_parser, main
from attncourse.check.core import Check
from attncourse.grade.wall.sandbox import Limits

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "for_instructors.md").read_text(encoding="utf-8")
OTHERS = {"apt", "dask", "git", "make", "pip"}


def commands(text: str) -> list[list[str]]:
    """Each command of the console blocks, as the shell would split it."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines() if line.startswith("$ ")]
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]


def ours(text: str) -> list[list[str]]:
    """The arguments of those commands that are the course's."""
    return [command[1:] for command in commands(text) if command[0] == "attncourse"]


def examples() -> list[list[str]]:
    """The examples that each command's --help ends with."""
    found = []
    for name in COMMANDS:
        (subparsers,) = [action for action in build_parser(name)._actions if action.choices]
        assert {*subparsers.choices} == {*COMMANDS}, f"{name} stands beside a command that --help does not list"
        parser = subparsers.choices[name]
        lines = re.findall(r"(?:python -m )?attncourse (.+?)(?:   .*)?$", parser.epilog or "", flags=re.MULTILINE)
        assert any(line.split()[0] == name for line in lines), f"{name} --help shows no example of it"
        found += [shlex.split(line) for line in lines]
    return found


@pytest.mark.parametrize(
    "arguments", [*ours(PAGE), *ours((ROOT / "README.md").read_text(encoding="utf-8")), *examples()], ids=" ".join
)
def test_the_shell_takes_every_command(arguments, capsys):
    if "--help" in arguments:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0 and "example" in capsys.readouterr().out
    else:
        build_parser(arguments[0]).parse_args(arguments)


def test_a_command_that_the_shell_does_not_take_is_noticed(capsys):
    for arguments in (["grade", "submissions", "--ot", "grades"], ["mark", "submissions"]):
        with pytest.raises(SystemExit):
            build_parser(arguments[0]).parse_args(arguments)


def test_every_other_command_is_a_known_program():
    programs = {next(word for word in command if word != "sudo") for command in commands(PAGE)}
    assert programs - {"attncourse"} <= OTHERS
    assert len(ours(PAGE)) >= 15


def test_its_limits_are_those_of_the_sandbox():
    limits, text = Limits(), " ".join(PAGE.split())
    seconds = f"{limits.cell_seconds:.0f} seconds for a cell, {Check.seconds:.0f} for a check and {limits.submission_seconds:.0f} for a submission"
    assert f"with {limits.memory_bytes >> 30} GiB of memory, {seconds}" in text


def test_its_arithmetic_is_right():
    seconds, submissions = 1.5, 10_000
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) (hours|minutes) \|$", PAGE, flags=re.MULTILINE)
    assert f"With $S = {seconds}$ and $n = 10\\,000$" in PAGE and len(rows) == 3
    for workers, time, unit in rows:
        exact = submissions * seconds / int(workers) / {"hours": 3600, "minutes": 60}[unit]
        assert abs(float(time) - exact) <= 0.06 * exact


def test_each_part_of_the_work_has_its_section():
    sections = re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    wanted = [
        "Choose and assign",
        "Collect",
        "Grade",
        "Feedback and class report",
        "Regrade after a mistake in a check",
    ]
    assert sections[:5] == wanted
    assert {"Appeal", "What the sandbox holds and does not", "Privacy", "nbgrader", "A class of 10,000"} <= {*sections}
