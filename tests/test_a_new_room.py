"""CONTRIBUTING's page is enough to add a room: what it says is done in a copy of the checkout, and the room is found everywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".*", "_build", "_static", "measurements", "__pycache__")

# What the copy says of its rooms after `make exercises bootstrap`, which the first lines do in its place.
ASKED = """
import json, sys
from pathlib import Path
from attncourse.course.origin import write_generated
from attncourse.course.release import release_exercises
root = Path()
changed = [*release_exercises(root), *write_generated(root)]

from attncourse.check import CHECKS, UNITS
from attncourse.course.where import belonging
from attncourse.grade.imports import parts_with_answers
from attncourse.profile.cases import CASES
from attncourse.rooms import rooms
from benchmarks import kernels
from benchmarks.promises import measured_row
from tests import compile_gate
from tests.test_every_form import LAYERS
found = {
    "changed": sorted(map(str, changed)),
    "rooms": [*rooms()],
    "units": [*UNITS],
    "checks": [name for name in CHECKS if name.startswith("cosine.")],
    "profile": [*CASES],
    "compile gate": [*compile_gate.ROOMS],
    "kernels": [kernel.__name__ for kernel, *_ in compile_gate.cases_of("cosine", 80)],
    "on a GPU": [*kernels.TESTS],
    "dry": [name for name, _ in kernels.shares("cpu", 2)],
    "promises": [*measured_row.ROOMS],
    "withheld": sorted(parts_with_answers()),
    "layers": [*LAYERS],
    "where": [*belonging("cosine", root)],
}
json.dump(found, open("found.json", "w"))

import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/test_rooms.py", "-k", "cosine or levels or chapter_with or what_it_is"]))
"""


def steps() -> list[str]:
    """The lines of the script with which CONTRIBUTING's page begins a room, without those of make, which installs first."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add a mechanism")[2]
    script = re.search(r"```bash\n(.*?)```", page, flags=re.DOTALL)[1]
    lines = [line.strip() for line in script.strip().splitlines()]
    assert lines.pop() == "make format exercises bootstrap"
    return lines


def room_in_a_copy(root: Path) -> dict:
    """What a copy of the checkout in this folder answers when a room has been added to it."""
    shutil.copytree(ROOT, root, ignore=NOT_COPIED)
    subprocess.run(["bash", "-eu", "-c", "\n".join(steps())], cwd=root, check=True)
    promises = root / "benchmarks" / "promises"
    shutil.copy(promises / "sliding_window.py", promises / "cosine.py")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", ASKED], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads((root / "found.json").read_text(encoding="utf-8"))


def test_a_room_that_is_added_by_the_page_is_found_wherever_rooms_are(tmp_path):
    """One test, since the copy takes half a minute."""
    root = tmp_path / "course"
    found = room_in_a_copy(root)
    for place in ("rooms", "units", "profile", "compile gate", "promises", "withheld", "layers"):
        assert "cosine" in found[place], place
    for place in ("rooms", "units"):  # in the book's order
        i = found[place].index("cosine")
        assert found[place][i - 1 : i + 2] == ["additive", "cosine", "multiplicative"], place
    assert "test_cosine" in found["on a GPU"] and "test_cosine" in found["dry"]
    assert found["kernels"] and all("cosine" in name for name in found["kernels"])
    assert found["checks"]
    pages = {
        "README.md": "](attncourse/cosine)",
        "book/exercises.md": "`cosine.",
        "book/index.md": "](exercises.md#cosine-attention-exercises)",
    }
    assert found["changed"] == [*pages, "exercises/cosine/cosine.ipynb"]
    for page, says in pages.items():
        assert says in (root / page).read_text(encoding="utf-8"), page
    files = ("attncourse/cosine", "tests/test_cosine.py", "tests/compiled/cosine.py", "solutions/cosine/cosine.ipynb")
    assert {*files, "book/short_history.ipynb", "benchmarks/promises/cosine.py"} <= {*found["where"]}
