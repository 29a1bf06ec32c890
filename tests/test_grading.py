"""Grading a class: what is marked again, what a kill leaves, the course's own units, the records, a sandbox that is not there."""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import attncourse.check
from attncourse.__main__ import main
from attncourse.grade.judge import Mark, mark
from attncourse.grade.one_submission import Settings, grade_bytes
from attncourse.grade.read.identity import Identity
from attncourse.grade.read.submission import Release, read_submission
from attncourse.grade.records import NOT_GRADED, read_record, record_of, record_path, still_valid, write_record
from attncourse.grade.run import Run, publish
from attncourse.grade.wall.sandbox import Limits, Sandbox, SandboxMissing, find_sandbox
from tests.toy_course import RIGHT, ROOT, grade, hand_in, messages, wrapped

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@needs_sandbox
def test_unchanged_submissions_are_not_marked_twice(course, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    hand_in(course, folder / "a.ipynb", **RIGHT)
    hand_in(course, folder / "b.ipynb")
    first = grade(course, folder, out)
    written = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    assert grade(course, folder, out) == first
    assert {path: path.stat().st_mtime_ns for path in written} == written
    hand_in(course, folder / "b.ipynb", double=RIGHT["double"])
    second = grade(course, folder, out)
    assert second["a"] == first["a"]
    assert (first["b"]["points"], second["b"]["points"]) == (0, 2)
    again = grade(course, folder, out, "--again")
    seeds = [check["seed"] for record in (first["a"], again["a"]) for check in record["checks"]]
    assert len(set(seeds)) == 6, "each check of each run draws its own inputs"
    assert {*(out / "records").iterdir()} == {record_path(out, "a.ipynb"), record_path(out, "b.ipynb")}


def test_a_record_is_kept_only_if_marking_again_would_repeat_it(tmp_path):
    record = record_of("a.ipynb", "digest", Identity("a"), "additive", Mark("marked"), "unconfined")
    write_record(tmp_path / "a.json", record)
    assert still_valid(read_record(tmp_path / "a.json"), "digest", "unconfined")
    older = "the digest of other checks"
    for change in ({"content": "another"}, {"sandbox": "bubblewrap"}, {"version": older}, {"state": NOT_GRADED}):
        assert not still_valid(record | change, "digest", "unconfined"), change
    for text in ("half a rec", "[]", "{}", "3"):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert not still_valid(read_record(tmp_path / "a.json"), "digest", "unconfined"), text


def test_the_version_of_a_unit_s_checks_changes_with_all_that_they_call_and_with_nothing_else(tmp_path):
    """After a mistake in one unit's check is mended, that unit is marked again and the others are not."""
    shutil.copytree(ROOT / "attncourse", tmp_path / "attncourse")
    # a process that has imported all and asked nothing; each line is answered by a copy of it, which remembers nothing
    ask = """
import os, sys
from attncourse.grade.records import version_of
for _ in sys.stdin:
    if (copy := os.fork()) == 0:
        try:
            print(*map(version_of, ("additive", "multiplicative", "why_attention")), flush=True)
        finally:
            os._exit(0)
    os.waitpid(copy, 0)
    print("that is all", flush=True)
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-P", "-c", ask], cwd="/", env=environment, **pipes) as process:

        def versions() -> list[str]:
            process.stdin.write("\n")
            first = process.stdout.readline()
            assert first and process.stdout.readline() == "that is all\n", first
            return first.split()

        def changed_by(path: str) -> list[bool]:
            before, file = versions(), tmp_path / "attncourse" / path
            file.write_text(file.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
            return [new != old for new, old in zip(versions(), before, strict=True)]

        assert changed_by("plot/heatmap.py") == [False, False, False]
        assert changed_by("check/units/additive.py") == [True, False, False]
        assert changed_by("additive/reference.py") == [True, False, False]
        assert changed_by("_shared/masks.py") == [True, True, False]
        assert changed_by("check/expect.py") == [True, True, True]


def answers_of(unit: str) -> dict[str, str]:
    """What the solution's notebook writes into each solution cell."""
    cells = nbformat.read(ROOT / "solutions" / unit / f"{unit}.ipynb", as_version=4).cells
    marks = [(cell, cell.metadata.get("nbgrader", {})) for cell in cells]
    return {m["grade_id"].removeprefix(f"{unit}-"): cell.source for cell, m in marks if m.get("solution")}


@needs_sandbox
def test_the_course_s_own_units_are_marked(tmp_path):
    """Each unit with all solutions filled in; every fourth with all but the first, every fourth untouched."""
    units = sorted(path.stem for path in (ROOT / "exercises").glob("*/*.ipynb"))
    for unit in units:
        answers = answers_of(unit)
        hand_in(ROOT, tmp_path / "in" / f"{unit}-all.ipynb", unit=unit, **answers)
    for unit in units[2::4]:
        hand_in(ROOT, tmp_path / "in" / f"{unit}-none.ipynb", unit=unit)
    for unit in units[::4]:
        _, *others = answers = answers_of(unit)
        hand_in(ROOT, tmp_path / "in" / f"{unit}-some.ipynb", unit=unit, **{name: answers[name] for name in others})
    grade(ROOT, tmp_path / "in", tmp_path / "out", "--checks", "attncourse.check")
    for unit in units:
        checks = [check for check in attncourse.check.CHECKS.values() if check.unit == unit]
        possible = sum(check.points for check in checks)
        for name, points in (("all", possible), *[("none", 0)] * (unit in units[2::4])):
            record = read_record(record_path(tmp_path / "out", f"{unit}-{name}.ipynb"))
            assert (record["learner"], record["unit"], record["state"]) == (name, unit, "marked"), record["notes"]
            assert (record["points"], record["possible"]) == (points, possible), messages(record)
    for unit in units[::4]:
        record, first = read_record(record_path(tmp_path / "out", f"{unit}-some.ipynb")), next(iter(answers_of(unit)))
        some = {check["check"].removeprefix(f"{unit}."): check["state"] for check in record["checks"]}
        assert some == {name: "unsolved" if name == first else "passed" for name in answers_of(unit)}


def test_names_that_are_no_text_or_too_long_do_not_stop_the_run(course, tmp_path):
    hand_in(course, tmp_path / "in" / "plain.ipynb")
    text = (tmp_path / "in" / "plain.ipynb").read_bytes()
    names = [b"caf\xe9.ipynb", b"caf\xe8.ipynb", b"x" * 249 + b".ipynb", "größe.ipynb".encode()]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "in"), name))).write_bytes(text)
    records = grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")
    assert set(records) == {"plain", "caf\\xe9", "caf\\xe8", "x" * 249, "größe"}
    assert len((tmp_path / "out" / "grades.csv").read_text(encoding="utf-8").splitlines()) == 6


def test_grading_leaves_this_process_s_own_limits_as_they_were(course, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_AS)
    hand_in(course, tmp_path / "in" / "a.ipynb")
    grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_judge_that_asks_for_absurd_memory_fails_alone():
    """Two long thin results whose difference would fill the machine; in a process of its own, which stays limited."""
    code = """
import torch
from attncourse.check.core import Check, LocalLearner, run_check
from attncourse.grade.one_submission import _prepare_process
_prepare_process("attncourse.check")
greedy = Check("toy.greedy", "f", 1, lambda learner, rng: learner().T - learner())
verdict = run_check(greedy, LocalLearner(lambda: torch.zeros(100_000, 1), "f"), torch.Generator())
assert verdict.state == "wrong" and "can't allocate memory" in verdict.message, verdict
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def toy_settings(course: Path, **options) -> Settings:
    return Settings(Release.read(course / "exercises", {"toy"}), "tests.toy_checks", **options)


def test_a_worker_that_does_not_start_is_the_grader_s_trouble_and_no_mark(course, tmp_path, monkeypatch):
    data = hand_in(course, tmp_path / "a.ipynb", **RIGHT).read_bytes()
    settings = toy_settings(course, unconfined=True)
    monkeypatch.setattr("attncourse.grade.one_submission._prepare_process", lambda checks: None)
    assert grade_bytes("a.ipynb", data, "", settings)["points"] == 6
    broken = [sys.executable, "-c", "raise SystemExit('no room')"]
    monkeypatch.setattr(Sandbox, "start", lambda self, *_: self.run(broken))
    record = grade_bytes("a.ipynb", data, "", settings)
    assert record["state"] == NOT_GRADED and "no room" in record["notes"][0]
    assert not still_valid(record, record["content"], settings.confinement)


def test_what_could_not_be_graded_is_said_and_tried_again(course, tmp_path, capsys):
    hand_in(course, tmp_path / "in" / "a.ipynb", **RIGHT)
    record = grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")["a"]
    run = Run(submissions=tmp_path / "in", out=tmp_path / "out", exercises=course / "exercises")
    lost = record | {"state": NOT_GRADED, "notes": ["its worker died 3 times"]}
    assert publish([lost], 1, run) == 1
    assert "a.ipynb: not graded, so no mark is entered" in capsys.readouterr().err
    assert "its worker died 3 times" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    write_record(record_path(tmp_path / "out", "a.ipynb"), lost)
    assert grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")["a"]["state"] == "marked"


def marked_with(limits: Limits, course: Path, path: Path, **answers: str):
    """The mark of one submission under other limits, and the states of its checks."""
    release = Release.read(course / "exercises", {"toy"})
    submission = read_submission(hand_in(course, path, **answers).read_bytes(), release)
    result = mark(submission, release, find_sandbox(limits=limits))
    return result, [judged.verdict.state for judged in result.checks]


@needs_sandbox
def test_a_cell_that_never_ends_costs_its_own_part_only(course, tmp_path):
    endless = RIGHT["rows"] + "\nwhile True:\n    pass"
    result, each = marked_with(Limits(cell_seconds=2), course, tmp_path / "a.ipynb", **RIGHT | {"rows": endless})
    assert (result.state, each) == ("timed out", ["passed", "timed out", "passed"])
    assert result.notes == ["the cell toy-rows failed: it did not come back in time"]


@needs_sandbox
def test_a_submission_cannot_take_longer_than_its_share(course, tmp_path):
    slow = wrapped("double", "import time\ntime.sleep(600)")
    limits = Limits(submission_seconds=2)
    result, each = marked_with(limits, course, tmp_path / "a.ipynb", **RIGHT | {"double": slow})
    assert (result.state, each) == ("timed out", ["timed out"] * 3) and result.seconds < 120
    assert result.checks[2].verdict.message == "the submission used up its 2 s"


def test_without_bubblewrap_grading_is_refused_with_advice(course, tmp_path, monkeypatch, capsys):
    hand_in(course, tmp_path / "in" / "a.ipynb", **RIGHT)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["grade", tmp_path / "in", "--out", tmp_path / "out", "--exercises", course / "exercises"]
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "apt install bubblewrap" in said and "--unconfined" in said
    assert not list((tmp_path / "out").rglob("*.json"))
    assert grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")["a"]["sandbox"] == "unconfined"


def test_a_bubblewrap_that_does_not_work_is_refused_with_its_own_words(tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxMissing, match="No permissions to create new namespace"):
        find_sandbox()


@pytest.mark.parametrize(
    "prepare, words",
    [
        (lambda folder: None, "is not there: name a folder or a zip"),
        (lambda folder: folder.mkdir(), "holds no notebook"),
    ],
)
def test_nothing_to_grade_is_a_usage_error(course, tmp_path, capsys, prepare, words):
    prepare(tmp_path / "in")
    with pytest.raises(SystemExit) as end:
        main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--exercises", str(course / "exercises")])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_no_formula_reaches_a_spreadsheet(course, tmp_path):
    hand_in(course, tmp_path / "in" / "=cmd()|calc.ipynb", **RIGHT)
    grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")
    rows = (tmp_path / "out" / "grades.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].startswith("'=cmd()")


@needs_sandbox
def test_a_run_that_is_killed_is_completed_by_the_next(course, tmp_path):
    """kill -9 in the middle: what is marked stays, nothing half-written is taken for a record, no process is left."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(6):
        hand_in(course, folder / f"learner-{number}.ipynb", **RIGHT)
    command = [sys.executable, "-m", "attncourse", "grade", folder, "--out", out, "--exercises", course / "exercises"]
    command += ["--checks", "tests.toy_checks", "--workers", "2"]
    run = subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(list((out / "records").glob("*.json"))) < 2:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    kept = {path: path.stat().st_mtime_ns for path in (out / "records").glob("*.json")}
    assert 2 <= len(kept) < 6
    (out / "records" / ".learner-0.ipynb.json.1.partial").write_text('{"half', encoding="utf-8")
    for _ in range(100):
        if not processes_of_session(run.pid):
            break
        time.sleep(0.1)
    assert processes_of_session(run.pid) == []
    records = grade(course, folder, out)
    assert {record["points"] for record in records.values()} == {6} and len(records) == 6
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was marked before the kill is kept"
    rows = list(csv.DictReader((out / "grades.csv").read_text(encoding="utf-8").splitlines()))
    assert sorted(row["learner"] for row in rows) == sorted(records)
    assert not list((out / "records").glob(".*"))


def processes_of_session(session: int) -> list[str]:
    """Command lines of all processes that belong to a session."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text(encoding="utf-8").rpartition(")")[2].split()[3]) == session:
                found.append(status.with_name("cmdline").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


@needs_sandbox
def test_an_interrupted_run_says_how_to_go_on(course, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    hand_in(course, folder / "quick.ipynb", **RIGHT)
    hand_in(course, folder / "slow.ipynb", **RIGHT | {"rows": wrapped("rows", "import time\ntime.sleep(60)")})
    command = [sys.executable, "-m", "attncourse", "grade", folder, "--out", out, "--exercises", course / "exercises"]
    command += ["--checks", "tests.toy_checks", "--workers", "2"]
    run = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which what runs in a shell's background ignores
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not record_path(out, "quick.ipynb").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=200)
    assert run.returncode == 130 and "interrupted" in said and "Traceback" not in said
    assert "quick,toy,6" in (out / "grades.csv").read_text(encoding="utf-8")


def test_options_that_make_no_sense_are_refused(course, tmp_path, capsys):
    hand_in(course, tmp_path / "in" / "a.ipynb")
    for options, words in (
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--checks", "no.such.module"], "'no.such.module' cannot be imported"),
        (["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers at"),
    ):
        with pytest.raises(SystemExit) as end:
            grade(course, tmp_path / "in", tmp_path / "out", "--unconfined", *options)
        assert end.value.code == 2 and words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["grade", str(tmp_path / "in")])
    assert "attncourse grade SUBMISSIONS --out DIR" in capsys.readouterr().err


def test_an_assignment_s_points_count_and_its_units_alone(tmp_path, capsys):
    """The course's own units, handed out by `assign` with points of their own."""
    assign = ["assign", "additive", "--points", "additive.score=8", "--points", "additive.cost=0.5"]
    assert main([*assign, "--root", str(ROOT), "--out", str(tmp_path / "handed-out")]) == 0
    answers = answers_of("additive")
    some = {name: answers[name] for name in ("score", "cost")}
    hand_in(ROOT, tmp_path / "in" / "ada.ipynb", unit="additive", **some)
    hand_in(ROOT, tmp_path / "in" / "bob.ipynb", unit="why_attention")
    out, handed_out = tmp_path / "out", tmp_path / "handed-out"
    options = ["--assignment", handed_out / "assignment.json", "--exercises", handed_out / "exercises", "--unconfined"]
    grade(ROOT, tmp_path / "in", out, "--checks", "attncourse.check", *map(str, options))
    rows = {
        row["learner"]: row for row in csv.DictReader((out / "grades.csv").read_text(encoding="utf-8").splitlines())
    }
    assert (rows["ada"]["points"], rows["ada"]["possible"]) == ("8.5", "13.5")
    assert rows["bob"]["state"] == "unknown unit", "a unit that was not handed out"
    assert read_record(record_path(out, "ada.ipynb"))["points"] == 5, "a record holds the course's own points"
    assert "8.5" in (out / "canvas.csv").read_text(encoding="utf-8") and "8.5" in (
        out / "feedback" / "ada.html"
    ).read_text(encoding="utf-8")


def test_a_roster_or_assignment_that_is_none_is_refused_before_anything_is_marked(course, tmp_path, capsys):
    hand_in(course, tmp_path / "in" / "a.ipynb")
    (tmp_path / "no.csv").write_text("Name,Grade\nAda,1\n", encoding="utf-8")
    (tmp_path / "no.json").write_text("{}", encoding="utf-8")
    for option, file, words in (
        ("--roster", "no.csv", "has no column"),
        ("--assignment", "no.json", "must name the format"),
    ):
        with pytest.raises(SystemExit) as end:
            grade(course, tmp_path / "in", tmp_path / "out", "--unconfined", option, str(tmp_path / file))
        assert end.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_roster_of_moodle_fills_moodle_s_table(course, tmp_path, capsys):
    hand_in(course, tmp_path / "in" / "Ada Lovelace_77_assignsubmission_file_" / "toy.ipynb", **RIGHT)
    hand_in(course, tmp_path / "in" / "Nobody_99_assignsubmission_file_" / "toy.ipynb", **RIGHT)
    roster = tmp_path / "roster.csv"
    header = "Identifier,Full name,Email address,Grade,Maximum grade,Last modified (grade),Feedback comments"
    roster.write_text(f"{header}\nParticipant 77,Ada Lovelace,a@example.org,,6.00,-,\n", encoding="utf-8")
    grade(course, tmp_path / "in", tmp_path / "out", "--unconfined", "--roster", str(roster))
    (row,) = csv.DictReader((tmp_path / "out" / "moodle.csv").read_text(encoding="utf-8").splitlines())
    assert (row["Identifier"], row["Grade"]) == ("Participant 77", "6")
    assert "Nobody: not in the roster" in capsys.readouterr().err
