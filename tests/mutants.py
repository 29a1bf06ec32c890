"""Mutation testing of the checks: each small change of a right solution must fail its check, or be explained.

    python -m tests.mutants                        every unit
    python -m tests.mutants latent --exercise latent.absorb --jobs 2

A mutant that passes on any of the seeds survives. It is killed by a better check, or stands in
tests/equivalent/<unit>.toml under its exercise with one sentence that says why it is no mistake. Mutation-testing
libraries run a test suite in a new process for each change of a file; here the subject is a notebook's cell, the judge
a check, and the changes those that attention is got wrong by, so that the syntax tree is changed directly.
"""

import argparse
import ast
import copy
import itertools
import linecache
import multiprocessing
import resource
import signal
import sys
import tomllib
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
import torch
from tabulate import tabulate
from tqdm import tqdm

from attncourse.check import CHECKS, run_check
from attncourse.check.core import Check

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).parent / "equivalent"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SECONDS, BYTES = 60, 3 << 30  # what one run of a check may take
WHOLE_KINDS = ("detach", "float32")  # kinds of change that one sentence can explain for a whole exercise

OPPOSITE = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
PAIRS = (
    "max min",
    "amax amin",
    "argmax argmin",
    "maximum minimum",
    "any all",
    "sum mean",
    "tril triu",
    "zeros ones",
    "zeros_like ones_like",
    "floor ceil",
    "log log2",
    "exp exp2",
    "softmax log_softmax",
    "cumsum cumprod",
)
NAMES = {a: b for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}


@dataclass(frozen=True)
class Mutant:
    """A mutant is one change: the exercise it belongs to, its kind,
    what it says ("before => after"), and the changed cell.
    """

    exercise: str
    kind: str
    change: str
    source: str


@dataclass(frozen=True)
class Result:
    """A result says how a mutant fared: the state of its check on each seed, and why it is no mistake where it passed."""

    mutant: Mutant
    states: tuple[str, ...]
    reason: str = ""

    @property
    def killed(self) -> bool:
        return "passed" not in self.states


def cells_of(unit: str) -> list[tuple[str, str]]:
    """Return (grade_id or "", source) of the code cells of a unit's solutions that define something."""
    notebook = nbformat.read(ROOT / "solutions" / unit / f"{unit}.ipynb", as_version=4)
    cells = [(c.metadata.get("nbgrader", {}), c) for c in notebook.cells if c.cell_type == "code"]
    skipped = {"bootstrap"}
    return [
        (about.get("grade_id", ""), cell.source)
        for about, cell in cells
        if not about.get("grade")
        and not skipped & set(cell.metadata.get("tags", []))
        and 'score_card("' not in cell.source
    ]


def solution_lines(source: str) -> set[int]:
    """Return the numbers of the lines between the marks of a solution; of all lines where there are no marks."""
    inside, lines = False, set()
    for number, line in enumerate(source.splitlines(), 1):
        if line.strip() in (BEGIN, END):
            inside = line.strip() == BEGIN
        elif inside:
            lines.add(number)
    return lines or set(range(1, source.count("\n") + 2))


def mutants_of(check: Check) -> list[Mutant]:
    """Return every mutant of an exercise's own solution, each different from the solution and from the others."""
    grade_id = check.name.replace(".", "-")
    source = dict(cells_of(check.unit))[grade_id]
    tree, lines = ast.parse(source), solution_lines(source)
    seen, found = {ast.unparse(tree)}, []
    for kind, change, changed in changes(tree, lines, check.function):
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text not in seen:
            seen.add(text)
            found.append(Mutant(check.name, kind, change, text))
    return found


def changes(tree: ast.Module, lines: set[int], function: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Yield (kind, "before => after", changed tree) for each change of a node on the given lines."""
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno in lines]
    for statement in statements:
        for kind, path, replacement in _changes_within(statement):
            yield kind, *_changed(tree, statement, path, replacement)
        if not isinstance(
            statement, ast.Return | ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Pass
        ):
            yield "dropped statement", f"{head(statement)} => dropped", _replaced(tree, statement, ast.Pass())
    definitions = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    for definition, parameter in ((d, a.arg) for d in definitions for a in d.args.args):
        for kind, method in (("detach", "detach"), ("float32", "float")):
            changed = copy.deepcopy(tree)
            line = f"{parameter} = {parameter}.{method}() if hasattr({parameter}, 'is_floating_point') and {parameter}.is_floating_point() else {parameter}"
            twin = next(d for d in changed.body if isinstance(d, ast.FunctionDef) and d.name == definition.name)
            twin.body.insert(0, ast.parse(line).body[0])
            yield kind, f"{kind} {parameter}", changed


def head(statement: ast.stmt) -> str:
    """Return a statement's own line: of a compound one, what stands before its body."""
    shown = copy.copy(statement)
    for block in ("body", "orelse", "finalbody", "handlers"):
        if getattr(shown, block, None) and isinstance(getattr(shown, block), list):
            setattr(shown, block, [])
    return " ".join(ast.unparse(ast.fix_missing_locations(shown)).split()).removesuffix(" else:")


def _own_nodes(statement: ast.stmt) -> Iterator[tuple[tuple, ast.AST]]:
    """Yield (path, node) of the expressions of a statement, without those of statements inside it."""
    waiting = [((), statement)]
    while waiting:
        path, node = waiting.pop()
        if path:
            yield path, node
        if _called(node) == "manual_seed":
            continue  # any seed will do
        for name, value in ast.iter_fields(node):
            parts = enumerate(value) if isinstance(value, list) else ((None, value),)
            for index, part in parts:
                if isinstance(part, ast.AST) and not isinstance(part, ast.stmt | ast.expr_context | ast.arguments):
                    waiting.append(((*path, (name, index)), part))


def _at(node: ast.AST, path: tuple) -> ast.AST:
    for name, index in path:
        node = getattr(node, name) if index is None else getattr(node, name)[index]
    return node


def _put(root: ast.AST, path: tuple, replacement: ast.AST) -> None:
    parent, (name, index) = _at(root, path[:-1]), path[-1]
    if index is None:
        setattr(parent, name, replacement)
    else:
        getattr(parent, name)[index] = replacement


def _replaced(tree: ast.Module, statement: ast.stmt, replacement: ast.stmt) -> ast.Module:
    where = next(i for i, node in enumerate(ast.walk(tree)) if node is statement)
    twin_tree = copy.deepcopy(tree)
    twin = next(itertools.islice(ast.walk(twin_tree), where, None))
    for parent in ast.walk(twin_tree):
        for block in ("body", "orelse", "finalbody"):
            body = getattr(parent, block, None)
            if isinstance(body, list) and twin in body:
                body[body.index(twin)] = replacement
    return twin_tree


def _changed(tree: ast.Module, statement: ast.stmt, path: tuple, replacement: ast.AST) -> tuple[str, ast.Module]:
    twin = copy.deepcopy(statement)
    _put(twin, path, copy.deepcopy(replacement))
    return f"{head(statement)} => {head(twin)}", _replaced(tree, statement, twin)


def _changes_within(statement: ast.stmt) -> Iterator[tuple[str, tuple, ast.AST]]:
    """Yield (kind, path, what to put there) for each change of an expression of the statement."""
    for path, node in _own_nodes(statement):
        yield from ((kind, path, new) for kind, new in _changes_of(node))
        # a bound off by one: x[a:b], range(n)
        if path[-1][0] in ("lower", "upper") or (
            path[-1][0] == "args" and _called(_at(statement, path[:-1])) == "range"
        ):
            yield "off by one", path, ast.BinOp(node, ast.Add(), ast.Constant(1))
            yield "off by one", path, ast.BinOp(node, ast.Sub(), ast.Constant(1))


def _called(node: ast.AST) -> str:
    """Return the name of what a call calls; "" where the node is no call."""
    function = getattr(node, "func", None)
    return getattr(function, "id", "") or getattr(function, "attr", "")


def _changes_of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.BinOp):
        for opposite in OPPOSITE.get(type(node.op), ()):
            yield "operator", ast.BinOp(node.left, opposite(), node.right)
        yield "dropped operand", node.left
        yield "dropped operand", node.right
        if isinstance(node.op, ast.MatMult | ast.Sub | ast.Div | ast.FloorDiv):
            yield "swapped operands", ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            for opposite in OPPOSITE.get(type(op), ()):
                ops = [opposite() if i == index else o for i, o in enumerate(node.ops)]
                yield "comparison", ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield "operator", ast.BoolOp(OPPOSITE[type(node.op)][0](), node.values)
        yield from (("dropped operand", value) for value in node.values)
    elif isinstance(node, ast.UnaryOp):
        yield "dropped sign", node.operand
    elif isinstance(node, ast.IfExp):
        yield "condition", node.body
        yield "condition", node.orelse
    elif isinstance(node, ast.Constant):
        yield from (("constant", ast.Constant(value)) for value in _other_constants(node.value))
    elif isinstance(node, ast.Attribute):
        if node.attr == "inf":
            yield from (("mask fill", ast.Constant(value)) for value in (1e4, 1e9))
        if node.attr in NAMES:
            yield "function", ast.Attribute(node.value, NAMES[node.attr], ast.Load())
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield "function", ast.Name(NAMES[node.id], ast.Load())
    elif isinstance(node, ast.Call):
        yield from _changes_of_call(node)


def _changes_of_call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    for i in range(len(node.args) - 1):
        swapped = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
        yield "swapped arguments", ast.Call(node.func, swapped, node.keywords)
    if isinstance(node.func, ast.Attribute):
        yield "dropped call", node.func.value  # x.f(...) becomes x
    if len(node.args) == 1:
        yield "dropped call", node.args[0]  # f(x) becomes x
    for i, keyword in enumerate(node.keywords):
        if keyword.arg:
            yield "dropped keyword", ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])


def _other_constants(value) -> list:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        if value == 0:
            return [1.0]
        return [-1e4 if value < 0 else 1e4, -1e9] if abs(value) > 1e30 else [2 * value, value / 2, -value]
    if value == "-inf":
        return ["-1e4", "-1e9"]
    return []


def states_of(mutant: Mutant, seeds: range) -> tuple[str, ...]:
    """Return the state of a mutant's check on each seed, in a process of its own that may crash, hang or take memory."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_judge, args=(mutant, seeds, there), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(SECONDS * len(seeds) + 30) else ("timed out",)
    except EOFError:
        return ("ended",)
    finally:
        process.kill()
        process.join()
        here.close()


def _judge(mutant: Mutant, seeds: range, answers) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + BYTES,) * 2)
    check = CHECKS[mutant.exercise]
    namespace = _notebook(check, mutant.source)
    states = []
    for seed in seeds:
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.alarm(SECONDS)
        try:
            learner = check.learner(namespace.get(check.function))
            states.append(run_check(check, learner, torch.Generator().manual_seed(seed)).state)
        except BaseException as error:
            states.append(f"raised {type(error).__name__}")
        signal.alarm(0)
    answers.send(tuple(states))
    answers.close()


def _out_of_time(*_) -> None:
    raise KeyboardInterrupt  # which no learner's `except Exception` takes


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _notebook(check: Check, source: str) -> dict:
    """Return the namespace of a unit's notebook in which one solution's cell is another."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    for number, (grade_id, text) in enumerate(cells_of(check.unit)):
        text = source if grade_id == check.name.replace(".", "-") else text
        filename = f"<cell {number} of {check.unit}>"
        # Triton and tracebacks read a function's source by its file's name
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        try:
            exec(compile(text, filename, "exec"), module.__dict__)
        except Exception:
            if grade_id == check.name.replace(".", "-"):
                break  # the changed cell itself fails: its function is missing
            raise
    return module.__dict__


def explanations(unit: str) -> dict[str, dict[str, str]]:
    """Return by exercise: "before => after", or a kind that one sentence explains whole, and why it is no mistake."""
    path = EQUIVALENT / f"{unit}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def explained(mutant: Mutant) -> str:
    """Return why a mutant is no mistake; "" where nothing is said of it."""
    said = explanations(CHECKS[mutant.exercise].unit).get(mutant.exercise.partition(".")[2], {})
    return said.get(mutant.change, "") or (said.get(mutant.kind, "") if mutant.kind in WHOLE_KINDS else "")


def run(mutants: list[Mutant], *, seeds: range = range(3), jobs: int = 1, quiet: bool = False) -> list[Result]:
    """Judge mutants, `jobs` at a time."""
    torch.set_num_threads(1)
    for check in {CHECKS[mutant.exercise].unit: CHECKS[mutant.exercise] for mutant in mutants}.values():
        _notebook(check, "")  # what the notebooks import is then there in every fork

    def judged(mutant: Mutant) -> Result:
        return Result(mutant, states_of(mutant, seeds), explained(mutant))

    with ThreadPoolExecutor(jobs) as pool:
        return list(tqdm(pool.map(judged, mutants), total=len(mutants), unit=" mutants", disable=quiet))


def stale(unit: str, results: list[Result]) -> list[str]:
    """Return explanations of what is not made, or is killed."""
    exercises = {r.mutant.exercise for r in results}
    survived = {(r.mutant.exercise, key) for r in results if not r.killed for key in (r.mutant.change, r.mutant.kind)}
    return [
        f"{unit}.{exercise}: {change}"
        for exercise, said in explanations(unit).items()
        for change in said
        if f"{unit}.{exercise}" in exercises and (f"{unit}.{exercise}", change) not in survived
    ]


def report(results: list[Result]) -> str:
    """Return a table by unit, then every survivor without a sentence, as lines for its file."""
    units = sorted({CHECKS[r.mutant.exercise].unit for r in results})
    rows = []
    for unit in units:
        own = [r for r in results if CHECKS[r.mutant.exercise].unit == unit]
        killed = sum(r.killed for r in own)
        equivalent = sum(not r.killed and bool(r.reason) for r in own)
        rows.append([unit, len(own), killed, equivalent, len(own) - killed - equivalent])
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, 5))])
    lines = [tabulate(rows, ["unit", "made", "killed", "equivalent", "surviving"])]
    for exercise, group in itertools.groupby(
        (r for r in results if not r.killed and not r.reason), key=lambda r: r.mutant.exercise
    ):
        lines.append(f"\n[{exercise.partition('.')[2]}]    # tests/equivalent/{CHECKS[exercise].unit}.toml")
        for r in group:
            lucky = "" if set(r.states) == {"passed"} else f"    # {', '.join(r.states)}"
            quote = '"' if "'" in r.mutant.change else "'"
            lines.append(f'{quote}{r.mutant.change}{quote} = ""{lucky}    # {r.mutant.kind}')
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    units = sorted({check.unit for check in CHECKS.values()})
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("units", nargs="*", metavar="UNIT", help=f"units to test: {', '.join(units)} (default: all)")
    parser.add_argument("--exercise", action="append", default=[], help="only this one, as in latent.absorb")
    parser.add_argument("--seeds", type=int, default=3, help="draws of inputs for each mutant (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants judged at the same time (default: 1)")
    chosen = parser.parse_args(argv)
    if unknown := {*chosen.units} - {*units} | {*chosen.exercise} - CHECKS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; units are {', '.join(units)}")
    wanted = [
        check
        for check in CHECKS.values()
        if (not chosen.units or check.unit in chosen.units) and (not chosen.exercise or check.name in chosen.exercise)
    ]
    mutants = [mutant for check in wanted for mutant in mutants_of(check)]
    results = run(mutants, seeds=range(chosen.seeds), jobs=chosen.jobs)
    print(report(results))
    old = [line for unit in {check.unit for check in wanted} for line in stale(unit, results)]
    if old:
        print("\nexplained, though killed or not made any more:", *old, sep="\n  ")
    return int(bool(old) or any(not r.killed and not r.reason for r in results))


if __name__ == "__main__":
    sys.exit(main())
