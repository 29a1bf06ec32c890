"""Which names a function of a notebook reaches, found by reading its cells: where a forbidden shortcut hides.

Names are resolved as Python resolves them: a parameter or a local variable hides a global one, a name stands for what
was bound to it last, `from m import a, b` binds two names. Nothing is run here. What a reader of the source cannot see
the worker's own guard still meets when it is called.
"""

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from attncourse.check.watch import forbidden_name

# Ways around the guard, which no exercise needs.
EVASIONS = ("DisableTorchFunction", "DisableTorchFunctionSubclass", "_disabled_torch_function_impl")

# What takes the name of something in a string, and what gives a table of names.
TAKE_NAMES = {"getattr", "attrgetter", "methodcaller", "import_module", "__import__", "__getattribute__", "__getattr__"}
TAKE_NAMES |= {"getattr_static", "resolve_name", "eval", "exec"}
NAME_TABLES = {"__dict__", "vars", "globals", "locals", "modules"}

# Methods that put their arguments into what they belong to.
FILLERS = {"append", "extend", "insert", "add", "update", "setdefault", "__setitem__"}

# Magics whose line or body is Python that they run.
RUN_THEIR_BODY = {"time", "timeit", "capture", "prun"}
DEEPEST_MAGIC, DEEPEST_SUM = 20, 100
LAST = float("inf")


def shortcut(sources: Iterable[str], function: str, forbids: tuple[str, ...]) -> str:
    """Return the first forbidden name that the function reaches; "" where it reaches none."""
    return Reading(sources).shortcut(function, forbids)


@dataclass(frozen=True, eq=False)
class Binding:
    """A binding gives a global name its meaning: the node that was evaluated, or the path that was imported.

    Args:
        at: its place among all bindings; what a statement reads was bound before it, what a function reads may be
            later.
        may_not_happen: it stands under a condition or adds to what is there, so what was bound before counts too.
    """

    at: int
    node: ast.AST | None = None
    path: str = ""
    may_not_happen: bool = False

    @property
    def reads_at(self) -> float:
        return LAST if isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else self.at


@dataclass
class Mentions:
    """Mentions are names that stand in a piece of source: dotted from what was imported, alone from what is not known."""

    foreign: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)


class Reading:
    """A reading is the cells of a notebook as they are read, one by one."""

    def __init__(self, sources: Iterable[str] = ()):
        self._bindings: dict[str, list[Binding]] = {}
        self._own: set[str] = set()
        self._count = 0
        for source in sources:
            self.add(source)

    def add(self, source: str) -> None:
        """Read one more cell; one that is no Python defines nothing."""
        for statement in statements_of(source):
            self._bind(statement, False)
            self._own |= set(_names_given(statement))

    def shortcut(self, function: str, forbids: tuple[str, ...]) -> str:
        """Return the first forbidden name that the function reaches; "" where it reaches none."""
        if not forbids:
            return ""
        mentions = self.reached(function)
        # an attribute of something of the learner's own may be called like one of PyTorch's
        loose = mentions.attributes - self._own
        for name in sorted({part for path in mentions.foreign for part in path.split(".")} | loose):
            known = name in mentions.foreign or name not in loose or _in_pytorch(name)
            if name in EVASIONS or (known and forbidden_name(name, forbids)):
                return name
        return ""

    def reached(self, function: str) -> Mentions:
        """Return all that the function's code mentions, and the code of what it reaches by global names."""
        mentions, seen = Mentions(), set()
        waiting = [(function, LAST)]
        while waiting:
            bindings = self._meaning(*waiting.pop())
            for binding in (b for b in bindings if b not in seen):
                seen.add(binding)
                if binding.path:
                    mentions.foreign.add(binding.path)
                else:
                    waiting += self._read(binding, mentions)
        return mentions

    def _meaning(self, name: str, at: float) -> list[Binding]:
        """Return what the name may stand for at that place: what was bound to it last, and what may have been since."""
        before = [binding for binding in self._bindings.get(name, []) if binding.at < at]
        sure = [number for number, binding in enumerate(before) if not binding.may_not_happen]
        return before[sure[-1] :] if sure else before

    def _read(self, binding: Binding, mentions: Mentions) -> list[tuple[str, float]]:
        """Note what a binding's source mentions, and return the global names that it reads,
        each with the place where it does.
        """
        global_names, at, reads = _global_names(binding.node), binding.reads_at, []
        for part in ast.walk(binding.node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in global_names:
                reads.append((part.id, at))
                if not self._meaning(part.id, at) and not hasattr(builtins, part.id):
                    mentions.foreign.add(part.id)  # by `from m import *`
            elif isinstance(part, ast.Attribute):
                self._note_attribute(part, global_names, at, mentions)
            elif isinstance(part, ast.Import | ast.ImportFrom):
                mentions.foreign |= set(_imports(part).values())
            else:
                mentions.foreign |= {name for text in self._names_in_strings(part, at) for name in text.split(".")}
        return reads

    def _note_attribute(self, part: ast.Attribute, global_names: set[str], at: float, mentions: Mentions) -> None:
        root, attributes = part.value, [part.attr]
        while isinstance(root, ast.Attribute):
            attributes.insert(0, root.attr)
            root = root.value
        bindings = self._meaning(root.id, at) if isinstance(root, ast.Name) and root.id in global_names else []
        if bindings and all(binding.path for binding in bindings):
            mentions.foreign |= {".".join([binding.path, *attributes]) for binding in bindings}
        else:
            mentions.attributes |= set(attributes)

    def _names_in_strings(self, part: ast.AST, at: float) -> Iterator[str]:
        """Yield strings that name something: getattr(module, "name"), vars(module)["name"]."""
        if isinstance(part, ast.Call) and _last_name(part.func) in TAKE_NAMES:
            texts = part.args
        elif isinstance(part, ast.Subscript) and _last_name(part.value) in NAME_TABLES:
            texts = [part.slice]
        else:
            return
        for text in texts:
            if found := self._folded(text, at, 0):
                yield found

    def _folded(self, node: ast.AST, at: float, depth: int) -> str:
        """Return the string that an expression of constants makes; "" where it is no such thing."""
        if depth > DEEPEST_SUM:
            return ""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else ""
        if isinstance(node, ast.Name):
            values = [binding.node for binding in self._meaning(node.id, at) if isinstance(binding.node, ast.expr)]
            return next((text for value in values if (text := self._folded(value, at, depth + 1))), "")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            pieces = [node.left, node.right]
        elif isinstance(node, ast.JoinedStr):
            pieces = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
        elif isinstance(node, ast.Call) and _last_name(node.func) == "join" and len(node.args) == 1:
            pieces = getattr(node.args[0], "elts", [])
        elif isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "::-1":
            return self._folded(node.value, at, depth + 1)[::-1]
        else:
            return ""
        between = self._folded(node.func.value, at, depth + 1) if isinstance(node, ast.Call) else ""
        return between.join(self._folded(piece, at, depth + 1) for piece in pieces)

    def _bind(self, statement: ast.stmt, may_not_happen: bool) -> None:
        """Note the global names that a statement at the top level gives a meaning."""
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._note(statement.name, statement, may_not_happen)
            for name in {n for part in ast.walk(statement) if isinstance(part, ast.Global) for n in part.names}:
                self._note(name, statement, True)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for name, path in _imports(statement).items():
                self._count += 1
                self._bindings.setdefault(name, []).append(Binding(self._count, None, path, may_not_happen))
        else:
            for target, value in _assignments(statement):
                self._bind_target(target, value, may_not_happen)
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                break
            for inner in getattr(statement, block, []):
                parts = inner.body if isinstance(inner, ast.excepthandler | ast.match_case) else [inner]
                for part in parts:
                    self._bind(part, not isinstance(statement, ast.With | ast.AsyncWith) or may_not_happen)

    def _bind_target(self, target: ast.AST, value: ast.AST, may_not_happen: bool) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            values = getattr(value, "elts", [])
            paired = len(values) == len(target.elts) and not any(
                isinstance(x, ast.Starred) for x in [*target.elts, *values]
            )
            for number, part in enumerate(target.elts):
                self._bind_target(part, values[number] if paired else value, may_not_happen)
        elif isinstance(target, ast.Name):
            self._note(target.id, value, may_not_happen)
        else:
            # of table["a"] = f, table.a = f and *rest the table is what later code mentions
            while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
                target = target.value
            if isinstance(target, ast.Name):
                self._note(target.id, value, True)

    def _note(self, name: str, node: ast.AST, may_not_happen: bool) -> None:
        self._count += 1
        self._bindings.setdefault(name, []).append(Binding(self._count, node, "", may_not_happen))


def statements_of(source: str, depth: int = 0) -> list[ast.stmt]:
    """Return the statements of a cell, those inside its magics too;
    none where it is no Python even as IPython reads it.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        statements = ast.parse(TransformerManager().transform_cell(source)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = []
    for statement in statements:
        python = _run_by_magic(statement)
        found += statements_of(python, depth + 1) if python and depth < DEEPEST_MAGIC else [statement]
    return found


def _run_by_magic(statement: ast.stmt) -> str:
    """Return the Python that `%time` or `%%capture` runs; "" of any other statement."""
    call = getattr(statement, "value", None)
    if isinstance(call, ast.Call) and _last_name(call.func) in ("run_line_magic", "run_cell_magic"):
        arguments = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if arguments and arguments[0] in RUN_THEIR_BODY and isinstance(arguments[-1], str):
            return arguments[-1]
    return ""


def _assignments(statement: ast.stmt) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield pairs of (target, value) of a statement that is neither a definition nor an import,
    without those of its blocks.
    """
    if isinstance(statement, ast.Assign):
        yield from ((target, statement.value) for target in statement.targets)
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield statement.target, statement.value
    elif isinstance(statement, ast.AugAssign):
        yield ast.Starred(statement.target), statement.value
    elif isinstance(statement, ast.For | ast.AsyncFor):
        yield statement.target, statement.iter
    elif isinstance(statement, ast.With | ast.AsyncWith):
        yield from ((i.optional_vars, i.context_expr) for i in statement.items if i.optional_vars is not None)
    elif (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and _last_name(statement.value) in FILLERS
    ):
        # table.append(f), table.update(a=f)
        yield statement.value.func, statement.value
    heads = [getattr(statement, head, None) for head in ("value", "test", "iter", "subject")]
    for walrus in (part for head in heads if head is not None for part in ast.walk(head)):
        if isinstance(walrus, ast.NamedExpr):
            yield walrus.target, walrus.value


def _imports(statement: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Return the path that each bound name stands for."""
    if isinstance(statement, ast.Import):
        return {
            a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
            for a in statement.names
        }
    module = statement.module or ""
    return {a.asname or a.name: f"{module}.{a.name}" for a in statement.names if a.name != "*"}


def _names_given(statement: ast.stmt) -> Iterator[str]:
    """Yield names that learners give to functions, methods and attributes of their own."""
    for part in ast.walk(statement):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield part.attr


def _global_names(node: ast.AST) -> set[str]:
    """Return names that a piece of source reads and that are not its own local ones, as Python's compiler sees it."""
    try:
        table = symtable.symtable(ast.unparse(node), "<cell>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    waiting = table.get_children()
    while waiting:
        inner = waiting.pop()
        waiting += inner.get_children()
        found |= {symbol.get_name() for symbol in inner.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return found


def _last_name(node: ast.AST) -> str:
    """Return f of f, a.f, f(...) and a.f(...)."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _in_pytorch(name: str) -> bool:
    """Return whether it is the name of one of PyTorch's own functions, methods or modules."""
    import torch
    from torch.nn import functional

    places = (torch, torch.Tensor, torch.nn, functional, torch._C._nn, torch.ops.aten)
    return any(hasattr(place, name) for place in places)
