"""The house rules: what a room holds, who imports whom, one name for one mechanism."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from attncourse.check import UNITS
from attncourse.course.origin import course_notebooks
from attncourse.grade.imports import imported_names
from attncourse.rooms import rooms

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attncourse"

ROOMS = [*rooms()]
# From the top down: a file imports from its own level and from those below.
LEVELS = (
    {"__main__"},
    {"grade"},
    {"course"},
    {"check"},
    {"lessons"},
    {"models", "profile", "choose"},
    {*ROOMS},
    {"attncourse", "notebook", "masks", "positions", "rooms", "testing"},
    {"plot", "_shared"},
)
LAYERS = ("module", "reference", "blocked", "kernel")


def imported_modules(path: Path) -> set[str]:
    """Absolute names of everything a file imports, inside functions too."""
    return imported_names(path.read_text(encoding="utf-8"), path.relative_to(ROOT).parent.parts)


def arrows() -> dict[str, set[str]]:
    """Each file of the package, as a module's name, and the files that it imports."""
    files = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in PACKAGE.rglob("*.py")
    }
    return {name: (imported_modules(path) & files.keys()) - {name} for name, path in files.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle; none where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def level(module: str) -> int:
    """How far down a file stands."""
    first = (module.split(".")[1:] or [module])[0]
    levels = [number for number, names in enumerate(LEVELS) if first in names]
    assert levels, f"{module} is neither a room nor on a level"
    return levels[0]


def upward(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Pairs of files of which the first imports the second, which stands above it."""
    return {(one, other) for one, others in graph.items() for other in others if level(other) < level(one)}


def test_levels_look_down_only_and_no_files_import_each_other_in_a_circle():
    graph = arrows()
    assert upward(graph) == set()
    assert circle(graph) == []


@pytest.mark.parametrize("statement", ["{}", "def draw():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_a_circle_and_a_look_up_are_seen_wherever_the_import_stands(statement):
    graph, path = arrows(), ("attncourse", "plot")
    drawn = statement.format("from attncourse.check.drawing import png")
    graph["attncourse.plot.style"] |= imported_names(drawn, path) & graph.keys()
    assert ("attncourse.plot.style", "attncourse.check.drawing") in upward(graph)
    assert {"attncourse.plot.style", "attncourse.check.drawing"} <= {*circle(graph)}


def test_a_folder_with_a_definition_is_a_room_and_says_what_it_is():
    assert {path.parent.name for path in PACKAGE.glob("*/reference.py")} == {*ROOMS}
    assert {"softmax_attention", "additive", "latent"} < {*ROOMS}
    for name, room in rooms().items():
        assert room.title and room.kernels and room.papers, name
        assert (ROOT / "book" / f"{room.chapter}.ipynb").exists(), f"{name}: there is no chapter {room.chapter}"
        assert {*room.builds_on} <= {*ROOMS} - {name}
        for _, address in room.papers:
            assert address.startswith("https://arxiv.org/abs/")
            assert address in importlib.import_module(f"attncourse.{name}").__doc__, (
                f"attncourse.{name} names no {address}"
            )


def test_to_ask_for_the_rooms_loads_no_pytorch():
    code = "import sys; from attncourse.rooms import rooms; assert rooms(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_complete_under_one_name(room):
    parts = ["__init__", "reference", "kernel", *["module"] * rooms()[room].has_layer]
    expected = [
        *(PACKAGE / room / f"{part}.py" for part in parts),
        ROOT / "tests" / f"test_{room}.py",
        ROOT / "tests" / "banks" / f"{room}.py",
        ROOT / "solutions" / room / f"{room}.ipynb",
        ROOT / "exercises" / room / f"{room}.ipynb",
        PACKAGE / "check" / "units" / f"{room}.py",
    ]
    if "\n@triton.jit" in (PACKAGE / room / "kernel.py").read_text(encoding="utf-8"):
        expected += [ROOT / "tests" / "compiled" / f"{room}.py", ROOT / "tests" / "compiled" / f"{room}.json"]
    assert [path for path in expected if not path.exists()] == []
    package = importlib.import_module(f"attncourse.{room}")
    definition = room if room.endswith("attention") else f"{room}_attention"
    assert callable(getattr(package, definition)), f"attncourse.{room} exports no {definition}"
    assert UNITS[room].chapter == rooms()[room].chapter, "its exercises belong to its chapter"


def test_a_chapter_with_one_room_has_its_name():
    for chapter in {room.chapter for room in rooms().values()}:
        inside = [name for name, room in rooms().items() if room.chapter == chapter]
        assert len(inside) > 1 or inside == [chapter]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    modules = imported_modules(path)
    room, layer = path.parent.relative_to(PACKAGE).as_posix(), path.stem
    if (
        layer not in ("kernel", "language") and room != "profile"
    ):  # which asks for Triton's version, and for its compiler
        assert not any(m.split(".")[0] == "triton" for m in modules), "Triton is imported in kernel.py and nowhere else"
    if layer not in ("cpu_kernel", "lanes"):
        assert not any(m.split(".")[0] in ("numba", "llvmlite") for m in modules), "numba is imported in cpu_kernel.py"
    if room not in ROOMS:
        return
    used = {r for r in ROOMS for m in modules if m.startswith(f"attncourse.{r}") and r != room}
    assert used <= {*rooms()[room].builds_on}, f"a room imports a room: {used}"
    own = {m.split(".")[2] for m in modules if m.startswith(f"attncourse.{room}.")} & set(LAYERS)
    if layer in LAYERS[1:]:
        assert own - {layer} <= ({"reference"} if layer == "blocked" else set()), f"{layer}.py imports {own}"


KERNELS = [*PACKAGE.glob("*/*kernel.py"), *PACKAGE.glob("lessons/*/kernel.py")]


@pytest.mark.parametrize("path", sorted(KERNELS), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_a_kernel_takes_from_elsewhere_is_public(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("attncourse")):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert private == [], f"{private} of {node.module}"


@pytest.mark.parametrize("room", ROOMS)
def test_references_are_short_and_annotated(room):
    tree = ast.parse((PACKAGE / room / "reference.py").read_text(encoding="utf-8"))
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = function.end_lineno - body[0].lineno + 1
        assert lines < 40, f"{function.name} has {lines} lines"
        assert ast.get_docstring(function), f"{function.name} has no docstring"
        assert function.returns is not None, f"{function.name} does not say what it returns"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


CHECKS = [PACKAGE / "_shared" / "validate.py", *PACKAGE.glob("*/inputs.py")]


@pytest.mark.parametrize("path", CHECKS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_checks_format_nothing_when_they_pass(path):
    """Every call of every form goes through them, and most are right: what `require` is told is formatted first."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
            assert isinstance(node.args[1], ast.Constant), (
                f"{path.name}:{node.lineno}: write if ...: raise ValueError(...)"
            )


def test_no_axis_is_named_k_or_v():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
                continue
            if node.value.id in ("Float", "Bool", "Int") and isinstance(node.slice, ast.Tuple):
                axes = node.slice.elts[1]
                assert isinstance(axes, ast.Constant) and not {"k", "v"} & set(axes.value.split()), (
                    f"{path}:{node.lineno}"
                )


@pytest.mark.parametrize(
    "path", [*course_notebooks(ROOT), *(ROOT / "book").glob("*.md")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_readers_import_public_names_alone(path):
    """What a chapter or an exercise imports, its reader will: nothing of `_shared`, which rooms share among themselves."""
    assert (
        re.findall(
            r".*import.*attncourse.*\b_shared\b.*|.*attncourse.*\b_shared\b.*import.*", path.read_text(encoding="utf-8")
        )
        == []
    )


@pytest.mark.parametrize("folder", ["book", "solutions"])
def test_notebooks_keep_no_outputs_but_checked_text(folder):
    import nbformat

    for path in (path for path in course_notebooks(ROOT) if path.is_relative_to(ROOT / folder)):
        for cell in nbformat.read(path, as_version=4).cells:
            tags = cell.metadata.get("tags", [])
            if cell.cell_type == "code" and cell.outputs:
                assert {"nbval-check-output", "keep_output"} <= set(tags), f"{path}: {cell.id} keeps an output"
                assert all(set(o.get("data", {"text/plain": 0})) == {"text/plain"} for o in cell.outputs), (
                    f"{path}: {cell.id}"
                )
            if "nbval-check-output" in tags:
                assert cell.outputs, f"{path}: {cell.id} is compared with nothing"
