"""`make quick`: the house rules, and of every test file the functions that fit into its share of time, the fastest first.

As a plugin of pytest it leaves out what `tests/left_out.txt` names. `python -m tests.quick` writes that list from what the last
`make test` measured. A function that the list does not know is new, and runs.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("left_out.txt")
MEASURED = ROOT / "_build" / "tests.xml"
SHARE = 1.5  # seconds a file
WHOLE = ("tests/test_rooms.py",)  # the house rules
# Fixtures that are made once for a file, in more than its share, whichever test asks first: a class that is graded, the chapters
# as `make chapters` executed them.
DEAR = {"marked_class", "executed_chapters"}


def left_out() -> set[str]:
    """Return the functions that do not fit, as pytest names them: tests/test_x.py::test_y."""
    return set(LIST.read_text(encoding="utf-8").split())


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out what does not fit."""
    slow = left_out()
    fits = [item.nodeid.partition("[")[0] not in slow and DEAR.isdisjoint(item.fixturenames) for item in items]
    config.hook.pytest_deselected(items=[item for item, fit in zip(items, fits, strict=True) if not fit])
    items[:] = [item for item, fit in zip(items, fits, strict=True) if fit]


def pytest_terminal_summary(terminalreporter) -> None:
    """Say what was left out, and what runs it."""
    files = Counter(function.partition("::")[0] for function in left_out())
    most = ", ".join(f"{Path(file).stem} {n}" for file, n in files.most_common(8))
    terminalreporter.section("not run by make quick")
    terminalreporter.write_line(
        f"{files.total()} slow test functions of {len(files)} files (most: {most}), what is asked of the class of hostile "
        "submissions, and the chapters of the book.\n"
        "make test runs them all; make book builds the book."
    )


def do_not_fit(seconds: dict[str, float]) -> Iterator[str]:
    """Yield the functions beyond their file's share, of the seconds that each took."""
    files = defaultdict(list)
    for function, took in seconds.items():
        files[function.partition("::")[0]].append((took, function))
    for functions in (functions for file, functions in files.items() if file not in WHOLE):
        spent = 0.0
        for took, function in sorted(functions):
            spent += took
            if spent > SHARE:
                yield function


def measured(report: Path) -> tuple[dict[str, float], set[str]]:
    """Return the seconds that each function took in a JUnit report, all its cases together;
    and the functions of which a case was skipped.
    """
    seconds, skipped = defaultdict(float), set()
    for case in ElementTree.parse(report).iter("testcase"):
        parts = case.get("classname").split(".")
        file = next(i for i, part in enumerate(parts, 1) if part.startswith("test_"))
        name = case.get("name").partition("[")[0]
        function = "::".join(["/".join(parts[:file]) + ".py", *parts[file:], name])
        seconds[function] += float(case.get("time"))
        if case.find("skipped") is not None:
            skipped.add(function)
    return seconds, skipped


def main() -> int:
    """Write the list anew; what was skipped, and so was not measured, keeps its place."""
    seconds, skipped = measured(MEASURED)
    slow = {*do_not_fit(seconds), *(left_out() & skipped)}
    LIST.write_text("".join(f"{function}\n" for function in sorted(slow)), encoding="utf-8")
    print(f"{len(slow)} of {len(seconds)} functions are left out of make quick: {LIST.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
