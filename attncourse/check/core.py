"""What a check is: drawn inputs, a call of the learner's function, a judgement that names the broken property.

One definition serves the self-check in the notebook (in the learner's process, for speed), the marks (the
learner's function runs in a sandbox; only plain values come back) and the tests of the wrong-solution banks.
A check is a function `check(learner, rng)`. `learner(*args)` calls the learner's function, wherever it runs,
and returns plain values; the judgement is made on this side of that call.
"""

import contextlib
import inspect
import linecache
import os
import traceback
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from attncourse.profile import peak_memory

from .picture import Picture
from .watch import (
    READY_MADE_ATTENTION,
    Tally,
    arrays_reached,
    forbidden_name,
    functions_seen,
    is_record,
)

__all__ = ["CHECKS", "READY_MADE_ATTENTION", "UNITS", "Check", "LocalLearner", "exercise_check", "exercise_unit"]


class Broken(Exception):
    """A property does not hold. The message says which and where, never what the answer is; a picture may show it."""

    def __init__(self, message: str, picture: Picture | None = None):
        super().__init__(message)
        self.picture = picture


class Unsolved(Exception):
    """The exercise still holds its stub (`raise NotImplementedError`)."""


class Missing(Exception):
    """The function that the check calls does not exist."""


class Crashed(Exception):
    """The learner's function raised; the message is its own."""


class TimedOut(Exception):
    """The learner's function did not come back in time."""


class OutOfMemory(Exception):
    """The learner's function asked for more memory than it may have."""


class Tampered(Exception):
    """No honest run sends what came back."""


class Learner(Protocol):
    """A learner is the function that a learner wrote, called here or in a sandbox.

    Arguments and results are plain values: None, bool, int, float, str, torch.Tensor, and lists, tuples, dicts and
    simple objects of these. Every call raises Broken where the function changes an argument that is not its own to
    change.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function's result on copies of the arguments."""

    def grad(
        self, *args: Any, wrt: tuple[int, ...], cotangent: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, ...]:
        """Return gradients of (result * cotangent).sum() with respect to the arguments at positions `wrt`.

        Args:
            wrt: positions of arguments.
            cotangent: of the result's shape.
        """

    def peak(self, *args: Any, **kwargs: Any) -> tuple[Any, int]:
        """Return the function's result, and the bytes that the call held at its peak, buffers that it found included."""

    def operations(self, *args: Any, **kwargs: Any) -> tuple[Any, int]:
        """Return the function's result, and how many PyTorch operations the call dispatched."""


@dataclass(frozen=True)
class Check:
    """A check is one graded property set of one function: `name` is "<unit>.<exercise>";
    the rest as in `exercise_check`.
    """

    name: str
    function: str
    points: int
    judge: Callable[[Learner, torch.Generator], None]
    not_verified: str = ""
    seconds: float = 20.0
    section: str = ""
    forbids: tuple[str, ...] = ()
    may_change: tuple[int, ...] = ()
    kernel: bool | str = False
    difficulty: str = "medium"
    importance: str = "useful"

    @property
    def unit(self) -> str:
        return self.name.partition(".")[0]

    @property
    def read_again(self) -> tuple[str, str]:
        """The page and the section that teach what is asked: of the unit's chapter, where the check names no other."""
        chapter, _, section = self.section.rpartition("#")
        return chapter or UNITS[self.unit].chapter, section

    def learner(self, function: Any) -> "LocalLearner":
        """Return a learner's function in this process, under this check's rules."""
        return LocalLearner(function, self.function, self.forbids, self.may_change, self.kernel)


@dataclass(frozen=True)
class Unit:
    """A unit is one notebook of exercises: its title, the chapter it belongs to (a page of the book), what it takes."""

    name: str
    title: str
    chapter: str
    minutes: int
    prerequisites: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A verdict is the outcome of one check: state is passed, or one of the values of STATES."""

    check: str
    state: str
    points: int
    possible: int
    message: str = ""
    picture: Picture | None = None

    @property
    def passed(self) -> bool:
        return self.state == "passed"

    def __str__(self) -> str:
        mark = "passed" if self.passed else self.state
        line = f"{self.check}: {mark}, {self.points} of {self.possible} points"
        return f"{line}\n  {self.message}" if self.message else line

    __repr__ = __str__

    def _repr_png_(self) -> bytes | None:
        """Return the picture, where a notebook shows the verdict and there is one."""
        from .drawing import expected_beside_got, png  # which needs matplotlib

        return None if self.picture is None else png(expected_beside_got(self.picture))


DIFFICULTIES = ("easy", "medium", "hard")
IMPORTANCES = ("core", "useful", "extra")

CHECKS: dict[str, Check] = {}
UNITS: dict[str, Unit] = {}

STATES: dict[type[BaseException], str] = {
    Broken: "wrong",
    Unsolved: "unsolved",
    Missing: "missing",
    Crashed: "crashed",
    TimedOut: "timed out",
    OutOfMemory: "out of memory",
    Tampered: "tampered",
}


def exercise_unit(name: str, *, title: str, chapter: str, minutes: int, prerequisites: tuple[str, ...] = ()) -> Unit:
    """Register a unit of exercises.

    Args:
        name: the folder of its notebook, and the part of its checks' names before the dot.
        title: what the notebook is headed.
        chapter: the page of the book that it belongs to, without ending: "short_history".
        minutes: what a learner who read the chapter needs for all of it.
        prerequisites: units that it builds on.
    """
    if name in UNITS:
        raise ValueError(f"a unit named {name!r} exists already")
    UNITS[name] = Unit(name, title, chapter, minutes, prerequisites)
    return UNITS[name]


def exercise_check(
    name: str,
    *,
    function: str,
    points: int,
    not_verified: str = "",
    seconds: float = 20.0,
    section: str = "",
    forbids: tuple[str, ...] = (),
    may_change: tuple[int, ...] = (),
    kernel: bool | str = False,
    difficulty: str = "medium",
    importance: str = "useful",
):
    """Register the decorated `judge(learner, rng)` as the check of an exercise.

    Args:
        name: "<unit>.<exercise>".
        function: the name that the learner's notebook gives the function.
        points: what a pass is worth; a check is all or nothing, credit is partial by check.
        not_verified: what neither the self-check nor the marks can see here; the score card prints it.
        seconds: wall-clock limit of the whole check when graded.
        section: heading in the unit's chapter where to read again, as in the page's address: "who-may-look-where"; of
            another chapter with its name before it: "mechanism_or_implementation#the-online-softmax".
        forbids: shortcuts that the exercise asks to write, by parts of their names: READY_MADE_ATTENTION.
        may_change: positions of arguments that the function may change in place: what it is to fill, or its own state.
        kernel: the work is to be done by Triton kernels of the learner's, which stay inside their tensors; "merged":
            PyTorch may go on from what these wrote, and from nothing else.
        difficulty: among the exercises of the course, one of DIFFICULTIES.
        importance: one of IMPORTANCES: what later chapters stand on is "core", what goes further "extra".
    """
    for value, allowed in ((difficulty, DIFFICULTIES), (importance, IMPORTANCES)):
        if value not in allowed:
            raise ValueError(f"exercise {name!r} must be one of {', '.join(allowed)}, and says {value!r}")

    def register(judge):
        if name in CHECKS:
            raise ValueError(f"a check named {name!r} exists already")
        CHECKS[name] = Check(
            name,
            function,
            points,
            judge,
            not_verified,
            seconds,
            section,
            forbids,
            may_change,
            kernel,
            difficulty,
            importance,
        )
        return judge

    return register


def run_check(check: Check, learner: Learner, rng: torch.Generator) -> Verdict:
    """Judge one learner's function by a check; the verdict carries the state and the message.

    Args:
        check: what judges.
        learner: the function.
        rng: what draws the inputs.
    """
    try:
        check.judge(learner, rng)
    except tuple(STATES) as outcome:
        picture = getattr(outcome, "picture", None)
        return Verdict(check.name, STATES[type(outcome)], 0, check.points, str(outcome), picture)
    except Exception as error:
        # A list where a tensor belongs, or shapes that do not go together, stop the judge before it can say so itself.
        message = f"what came back is not of the kind that the exercise asks for ({type(error).__name__}: {error})"
        return Verdict(check.name, "wrong", 0, check.points, message)
    return Verdict(check.name, "passed", check.points, check.points)


def fresh_rng() -> tuple[torch.Generator, int]:
    """Return a generator that nobody can predict, and its seed; torch's own generator is left as it is."""
    seed = int.from_bytes(os.urandom(7), "little")
    return torch.Generator().manual_seed(seed), seed


def plain(value: Any) -> Any:
    """Return a detached copy of a value made of plain kinds only; Broken where it is of another kind.

    NamedTuples and objects that merely hold values keep their kind: they are a learner's state.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().clone().cpu()
    if type(value).__module__ == "numpy":
        return _from_numpy(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        items = [plain(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, dict):
        return {plain_key(key): plain(item) for key, item in value.items()}
    if is_record(value):
        copy = object.__new__(type(value))
        vars(copy).update({name: plain(item) for name, item in vars(value).items()})
        return copy
    raise Broken(f"returned a {type(value).__name__}; return tensors, numbers, strings, or lists and dicts of them")


def plain_key(key: Any) -> Any:
    """Return a dict's key, if it is one that a plain value can have: a number, a string, or a tuple of them."""
    if isinstance(key, tuple) and type(key) is tuple:
        return tuple(map(plain_key, key))
    if key is None or type(key) in (bool, int, float, str):
        return key
    raise Broken(f"returned a dict with a {type(key).__name__} as key; use strings or numbers")


def _from_numpy(value: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(value).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Broken(f"returned a NumPy value that is no tensor: {error}") from error


def alike(one: Any, other: Any) -> bool:
    """Return whether one plain value is the same as the other to the last bit; NaN is like NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same_kind = (one.dtype, one.shape) == (other.dtype, other.shape)
        return same_kind and torch.equal(*(x.detach().contiguous().flatten().view(torch.uint8) for x in (one, other)))
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return alike(vars(one), vars(other)) if is_record(one) else one == other or one != one


@dataclass(frozen=True)
class LocalLearner:
    """The function is called in this process: by the self-check, by the banks' tests, and inside the sandbox.

    Args:
        function: what to call; anything that cannot be called counts as missing.
        name: the name that the exercise gives it.
        forbids, may_change, kernel: the check's rules, as in `exercise_check`.
    """

    function: Any
    name: str
    forbids: tuple[str, ...] = ()
    may_change: tuple[int, ...] = ()
    kernel: bool | str = False

    def __call__(self, *args, **kwargs):
        return plain(self._run(plain(args), plain(kwargs)))

    def grad(self, *args, wrt, cotangent, **kwargs):
        args = list(plain(args))
        for position in wrt:
            args[position].requires_grad_()
        out = self._run(tuple(args), plain(kwargs))
        return differentiate(out, [args[position] for position in wrt], cotangent)

    def peak(self, *args, **kwargs):
        copies = plain(args), plain(kwargs)
        tally, measured = Tally(copies), []

        def measure(call):
            def run():
                with tally, _python_allocations() as python_peak:
                    measured.append(call())
                    measured.append(python_peak())

            # PyTorch's own allocations, then NumPy's and Python's, which tracemalloc counts
            measured[1:] = [peak_memory(run) + measured[1]]
            return measured[0]

        result = self._run(*copies, measure)
        return plain(result), measured[1] + tally.held_bytes + arrays_reached(self.function)

    def operations(self, *args, **kwargs):
        copies = plain(args), plain(kwargs)
        tally = Tally(copies)

        def measure(call):
            with tally:
                return call()

        result = self._run(*copies, measure)
        return plain(result), tally.operations

    def _run(self, args, kwargs, measure=lambda call: call()):
        """Return the function's own result; the rules of the exercise hold meanwhile, and `measure` makes the call."""
        if not callable(self.function):
            raise Missing(self._why_missing())
        before = plain(tuple(args)), plain(kwargs)
        taken: list[str] = []

        def see(name):
            if forbidden_name(name, self.forbids):
                taken.append(name)
                raise Broken(shortcut_taken(self.name, name))

        with contextlib.ExitStack() as watched:
            kernels = watched.enter_context(self._own_kernels()) if self.kernel else None
            if self.forbids:
                watched.enter_context(functions_seen(see))
            try:
                result = measure(lambda: call_learner(self.function, args, kwargs))
            except Crashed:
                # what the learner's code made of a rule's exception does not matter
                self._say_what_was_broken(taken, kernels and kernels.refused)
                raise
        self._say_what_was_broken(taken, kernels and (kernels.refused or kernels.missing))
        self._expect_unchanged(before, (tuple(args), kwargs))
        return result

    def _own_kernels(self):
        from .kernel import OwnKernels  # which needs Triton

        return OwnKernels(getattr(self.function, "__module__", ""), merges=self.kernel == "merged")

    def _say_what_was_broken(self, shortcuts: list[str], kernel_rule: str | None) -> None:
        if shortcuts:
            raise Broken(shortcut_taken(self.name, shortcuts[0]))
        if kernel_rule:
            raise Broken(f"{self.name}: {kernel_rule}")

    def _why_missing(self) -> str:
        again = "run the cell that defines it, then this one"
        if self.function is None:
            return f"no function named {self.name} is defined: {again}"
        return f"{self.name} is a {type(self.function).__name__} and no function: {again}"

    def _expect_unchanged(self, before, after) -> None:
        positions = [i for i, pair in enumerate(zip(before[0], after[0], strict=True)) if not alike(*pair)]
        changed = [self._parameter(i) for i in positions if i not in self.may_change]
        changed += [name for name in before[1] if not alike(before[1][name], after[1][name])]
        if changed:
            raise Broken(f"{self.name} changes its argument {changed[0]} in place, and the caller still needs it")

    def _parameter(self, position: int) -> str:
        with contextlib.suppress(TypeError, ValueError, IndexError):
            return list(inspect.signature(self.function).parameters)[position]
        return f"number {position + 1}"


@contextlib.contextmanager
def _python_allocations():
    """Count Python's and NumPy's allocations within it; it gives a function that tells their peak in bytes."""
    outermost = not tracemalloc.is_tracing()
    if outermost:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        yield lambda: max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        if outermost:
            tracemalloc.stop()


def shortcut_taken(caller: str, name: str) -> str:
    """Return what a learner is told whose function `caller` calls `name`, which the exercise asks to write."""
    return f"{caller} uses {name}, which is what this exercise asks you to write"


def call_learner(function: Callable, args, kwargs) -> Any:
    """Call the function with these args and kwargs, and sort what can go wrong: unsolved, out of memory, or crashed."""
    try:
        return function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        raise describe_error(error) from error


def describe_error(error: BaseException) -> Unsolved | OutOfMemory | Crashed:
    """Return the outcome that an error of the learner's code stands for."""
    # the stub raises it bare; PyTorch raises it with a message, of an operation that it lacks
    if isinstance(error, NotImplementedError) and not error.args:
        return Unsolved("not solved yet")
    # PyTorch reports a failed allocation as a RuntimeError
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory(f"{type(error).__name__}: {error}".removesuffix(": "))
    return Crashed("\n".join([*traceback.format_exception_only(error)]).strip() + learner_lines(error))


def learner_lines(error: BaseException, most: int = 3) -> str:
    """Return the innermost lines (at `most` so many) of an error's traceback that the learner wrote,
    as the module `__main__`.
    """
    frames = [f for f in traceback.walk_tb(error.__traceback__) if f[0].f_globals.get("__name__") == "__main__"]
    lines = []
    for frame, number in frames[-most:]:
        text = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
        lines.append(f"\n  line {number} of {frame.f_code.co_name}: {text}".rstrip(": "))
    return "".join(lines)


def differentiate(out: Any, inputs: list[torch.Tensor], cotangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return d (out * cotangent).sum() / d inputs, with Broken where nothing can flow back."""
    if not isinstance(out, torch.Tensor) or out.grad_fn is None:
        raise Broken("no gradient flows back to the inputs: was the result detached, or computed outside torch?")
    if out.shape != cotangent.shape:
        raise Broken(f"the result has shape {tuple(out.shape)}, expected {tuple(cotangent.shape)}")
    grads = torch.autograd.grad(out, inputs, cotangent.to(out.dtype), allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True))
