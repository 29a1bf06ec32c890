"""What a check is: drawn inputs, a call of the learner's function, a judgement that names the broken property.

One definition serves the self-check in the notebook (in the learner's process, for speed), the marks (the
learner's function runs in a sandbox; only plain values come back) and the tests of the wrong-solution banks.
A check is a function `check(learner, rng)`. `learner(*args)` calls the learner's function, wherever it runs,
and returns plain values; the judgement is made on this side of that call.
"""

import linecache
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from attncourse.profile import peak_memory

# What PyTorch has of attention ready-made: for `forbids`, where the exercise is to write it.
READY_MADE_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention")


@dataclass(frozen=True)
class Picture:
    """Two small matrices of the same shape that show a broken property better than a sentence: got beside expected.

    For patterns (who saw whom, where weights went), never for the numbers of an answer.
    """

    got: torch.Tensor
    expected: torch.Tensor
    rows: str = "query"
    columns: str = "key"


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
    """What came back is nothing that an honest run sends."""


class Learner(Protocol):
    """The learner's function, called here or in a sandbox. Arguments and results are plain values:
    None, bool, int, float, str, torch.Tensor, and lists, tuples and dicts (with str keys) of these."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result on copies of the arguments."""

    def grad(
        self, *args: Any, wrt: tuple[int, ...], cotangent: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, ...]:
        """Gradients of (result * cotangent).sum() with respect to the arguments at positions `wrt`."""

    def peak(self, *args: Any, **kwargs: Any) -> int:
        """Bytes that a call held at its peak beyond what was held before."""


@dataclass(frozen=True)
class Check:
    """One graded property set of one function: `name` is "<unit>.<exercise>"."""

    name: str
    function: str
    points: int
    judge: Callable[[Learner, torch.Generator], None]
    not_verified: str = ""
    seconds: float = 20.0
    section: str = ""
    forbids: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Unit:
    """One notebook of exercises: its title, the chapter it belongs to (a page of the book), what it takes."""

    name: str
    title: str
    chapter: str
    minutes: int
    prerequisites: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check: state is passed, or one of the values of STATES."""

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


CHECKS: dict[str, Check] = {}
UNITS: dict[str, Unit] = {}

STATES = {
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
):
    """Register the decorated `judge(learner, rng)` as the check of an exercise.

    Args:
        name: "<unit>.<exercise>".
        function: the name that the learner's notebook gives the function.
        points: what a pass is worth; a check is all or nothing, credit is partial by check.
        not_verified: what neither the self-check nor the marks can see here; the score card prints it.
        seconds: wall-clock limit of the whole check when graded.
        section: heading in the unit's chapter where to read again, as in the page's address: "who-may-look-where".
        forbids: shortcuts that the exercise asks to write, by their last name: ("scaled_dot_product_attention",).
    """

    def register(judge):
        if name in CHECKS:
            raise ValueError(f"a check named {name!r} exists already")
        CHECKS[name] = Check(name, function, points, judge, not_verified, seconds, section, forbids)
        return judge

    return register


def run_check(check: Check, learner: Learner, rng: torch.Generator) -> Verdict:
    """Judge one learner's function; the verdict carries the state and the message."""
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
    """A generator that nobody can predict, and its seed; torch's own generator is left as it is."""
    seed = int.from_bytes(os.urandom(7), "little")
    return torch.Generator().manual_seed(seed), seed


def plain(value: Any) -> Any:
    """A detached copy of a value made of plain kinds only; Broken where it is of another kind."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().clone().cpu()
    if type(value).__module__ == "numpy":
        return _from_numpy(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    raise Broken(f"returned a {type(value).__name__}; return tensors, numbers, strings, or lists and dicts of them")


def _from_numpy(value: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(value).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Broken(f"returned a NumPy value that is no tensor: {error}") from error


@dataclass(frozen=True)
class LocalLearner:
    """The learner's function in this process: the self-check and the banks' tests."""

    function: Callable | None
    name: str
    forbids: tuple[str, ...] = ()

    def __call__(self, *args, **kwargs):
        return plain(self._run(plain(args), plain(kwargs)))

    def peak(self, *args, **kwargs):
        copies = plain(args), plain(kwargs)
        return peak_memory(lambda: self._run(*copies))

    def grad(self, *args, wrt, cotangent, **kwargs):
        args = list(plain(args))
        for position in wrt:
            args[position].requires_grad_()
        out = self._run(args, plain(kwargs))
        return differentiate(out, [args[position] for position in wrt], cotangent)

    def _run(self, args, kwargs):
        if self.function is None:
            raise Missing(f"no function named {self.name} is defined: run the cell that defines it, then this one")
        with WithoutShortcuts(self.name, self.forbids):
            return call_learner(self.function, args, kwargs)


class WithoutShortcuts(TorchFunctionMode):
    """Within it, a call of one of the named PyTorch functions, however it is reached, breaks the exercise's rule."""

    def __init__(self, caller: str, forbids: tuple[str, ...]):
        super().__init__()
        self._caller, self._forbids = caller, forbids

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self._forbids:
            raise Broken(shortcut_taken(self._caller, name))
        return func(*args, **(kwargs or {}))


def shortcut_taken(caller: str, name: str) -> str:
    """What a learner is told who calls what the exercise asks to write."""
    return f"{caller} uses {name}, which is what this exercise asks you to write"


def call_learner(function: Callable, args, kwargs) -> Any:
    """Call, and sort what can go wrong: unsolved, out of memory, or crashed with the learner's own message."""
    try:
        return function(*args, **kwargs)
    except tuple(STATES):
        raise
    except (Exception, SystemExit) as error:
        raise describe_error(error) from error


def describe_error(error: BaseException) -> Unsolved | OutOfMemory | Crashed:
    """The outcome that an exception of the learner's code stands for."""
    # the stub raises it bare; PyTorch raises it with a message, of an operation that it lacks
    if isinstance(error, NotImplementedError) and not error.args:
        return Unsolved("not solved yet")
    # PyTorch reports a failed allocation as a RuntimeError
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory(f"{type(error).__name__}: {error}".removesuffix(": "))
    return Crashed("\n".join([*traceback.format_exception_only(error)]).strip() + learner_lines(error))


def learner_lines(error: BaseException, most: int = 3) -> str:
    """The innermost lines of the traceback that the learner wrote: notebook cells run as the module `__main__`."""
    frames = [f for f in traceback.walk_tb(error.__traceback__) if f[0].f_globals.get("__name__") == "__main__"]
    lines = []
    for frame, number in frames[-most:]:
        text = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
        lines.append(f"\n  line {number} of {frame.f_code.co_name}: {text}".rstrip(": "))
    return "".join(lines)


def differentiate(out: Any, inputs: list[torch.Tensor], cotangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """d (out * cotangent).sum() / d inputs, with Broken where nothing can flow back."""
    if not isinstance(out, torch.Tensor) or out.grad_fn is None:
        raise Broken("no gradient flows back to the inputs: was the result detached, or computed outside torch?")
    if out.shape != cotangent.shape:
        raise Broken(f"the result has shape {tuple(out.shape)}, expected {tuple(cotangent.shape)}")
    grads = torch.autograd.grad(out, inputs, cotangent.to(out.dtype), allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True))
