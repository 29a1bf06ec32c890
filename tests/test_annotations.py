"""The annotations say the truth: the rooms' own tests run once more with every annotation checked at run time.

jaxtyping's import hook wraps what is imported after it, so this is a process of its own. Kernels stay out of it
(what Triton compiles must not be wrapped), and so do tests that ask for a ValueError, since a wrong shape would
meet the annotation first.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attncourse.rooms import rooms

ROOT = Path(__file__).parents[1]
PARTS = ("reference", "blocked", "module", "patterns")
# what lessons annotate with shapes: their models and tasks
LESSONS = [
    path for path in ROOT.glob("attncourse/lessons/*/*.py") if "from jaxtyping" in path.read_text(encoding="utf-8")
]


def hooked_modules() -> list[str]:
    rooms = [f"attncourse.{p.parent.name}.{p.stem}" for part in PARTS for p in ROOT.glob(f"attncourse/*/{part}.py")]
    models = [f"attncourse.models.{p.stem}" for p in ROOT.glob("attncourse/models/[a-z]*.py")]
    shared = [p for p in ROOT.glob("attncourse/_shared/*.py") if "from jaxtyping" in p.read_text(encoding="utf-8")]
    lessons = (f"attncourse.lessons.{p.parent.name}.{p.stem}" for p in LESSONS)
    return sorted([*rooms, *models, *lessons, *(f"attncourse._shared.{p.stem}" for p in shared)])


def run_hooked(*arguments: str) -> subprocess.CompletedProcess:
    hook = "--jaxtyping-packages=" + ",".join([*hooked_modules(), "beartype.beartype"])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not bad_input", hook, *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


TESTS = {
    "rooms": [f"tests/test_{room}.py" for room in rooms()],
    "models": [
        *(str(path) for path in ROOT.glob("tests/test_models*.py")),
        *(f"tests/test_{name}.py" for name in ("checkpoints", "layer", "rope", "rope_scaling", "shared")),
    ],
    "lessons": [
        str(path)
        for chapter in {path.parent.name for path in LESSONS}
        for path in ROOT.glob(f"tests/lessons/{chapter}/*.py")
        if path.stem != "test_figures"
    ],
}


@pytest.mark.parametrize("of", TESTS)
def test_every_annotation_holds(of):
    # Triton's kernels are not annotated by jaxtyping, and torch.compile cannot look through its checks. What measures, and what
    # repeats the same calls until something is learned or a mean is sure, shows no shape that the others do not.
    without = ("-k", "not kernel and not compiles and not triton and not memory and not learns and not dropout_drops")
    # every line of every test, not every case: shapes go wrong by the line, and the cases' numbers are looked at elsewhere
    done = run_hooked("-p", "tests.few_cases", *without, *sorted(TESTS[of]))
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


def test_the_hook_would_have_caught_a_lie(tmp_path):
    """A call that contradicts an annotation fails under the hook, so the runs above mean something."""
    lie = tmp_path / "test_lie.py"
    lie.write_text(
        "import torch\n"
        "from attncourse.softmax_attention.reference import mix_values\n"
        "def test_lie():\n"
        "    mix_values(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 4, 5))\n",
        encoding="utf-8",
    )
    done = run_hooked(str(lie))
    assert done.returncode == 1
    assert "TypeCheckError" in done.stdout
