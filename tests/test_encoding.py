"""Text files are read and written in UTF-8 on every system: no call leaves the encoding to the reader's locale."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attncourse.__main__ import main

ROOT = Path(__file__).parents[1]
METHODS = {"read_text": 0, "write_text": 1, "open": 1, "NamedTemporaryFile": 1, "TemporaryFile": 1}  # encoding's place
# whose `open` and `read_text` take no encoding
NOT_FILES = {"os", "archive", "zipfile", "webbrowser", "distribution"}
SOURCES = [p for folder in ("attncourse", "tests", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]
NOTEBOOKS = sorted(path for folder in ("book", "solutions") for path in (ROOT / folder).rglob("*.ipynb"))


def left_to_the_locale(source: str) -> Iterator[int]:
    """The lines that open a text file without saying in which encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        said = {word.arg: word.value for word in node.keywords}
        if name in METHODS and "encoding" not in said and not _is_something_else(node, name, said):
            yield node.lineno


def _is_something_else(node: ast.Call, name: str, said: dict[str, ast.expr]) -> bool:
    """Whether a call is of no file, of one in bytes, or of the course's own function of the same name."""
    method = isinstance(node.func, ast.Attribute)
    if method and isinstance(node.func.value, ast.Name) and node.func.value.id in NOT_FILES:
        return True
    if name in ("read_text", "write_text"):
        return not method or "held_out" in said  # attncourse.models.text.read_text
    places = node.args[0 if method or name != "open" else 1 :]
    mode = said.get("mode", places[0] if places else None)
    mode = mode.value if isinstance(mode, ast.Constant) else ("w+b" if "Temporary" in name else "r")
    return "b" in mode


def code_of(path: Path) -> str:
    """The code cells of a notebook, without magics."""
    cells = [c["source"] for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell).splitlines()]
    return "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def test_every_text_file_is_opened_with_its_encoding():
    found = [f"{p}:{n}" for p in SOURCES for n in left_to_the_locale(p.read_text(encoding="utf-8"))]
    found += [f"{p}:{n}" for p in NOTEBOOKS if "open(" in (code := code_of(p)) for n in left_to_the_locale(code)]
    assert found == []


@pytest.mark.parametrize(
    "source, lines",
    [
        ("p.read_text()\np.write_text(x)\nopen(p)\nopen(p, 'w')\np.open()\np.open('a')\nopen(p, mode='r')", 7),
        ("p.read_text(encoding='utf-8')\nopen(p, 'wb')\np.open('rb')\nos.open(p, 1)\narchive.open(m)", 0),
    ],
)
def test_the_rule_sees_what_it_is_about(source, lines):
    assert len(list(left_to_the_locale(source))) == lines


def test_an_assignment_made_under_another_locale_is_the_same(tmp_path):
    """Python without its UTF-8 mode, in the C locale: what it opens without an encoding is ASCII."""

    def arguments(name: str) -> list[str]:
        return ["assign", "additive", "--root", str(ROOT), "--out", str(tmp_path / name), "--title", "Größe Ω"]

    assert main(arguments("here")) == 0
    ask = f"import sys; from attncourse.__main__ import main; sys.exit(main({arguments('there')!a}))"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    here, there = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file() and p.suffix != ".zip"}
        for name in ("here", "there")
    )
    assert here == there and "Größe Ω".encode() in here["index.html"]
