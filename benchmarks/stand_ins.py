"""What stands in for packages that a machine with a GPU may lack, so that what does not need them still runs.

A test that needs one is skipped by its name. Chapters need the classes in which IPython shows something, and no more of it.
"""

import importlib.util
import sys
from types import ModuleType

# Import names of what tests, chapters and `attncourse` may ask for beside what the package needs.
OPTIONAL = (
    "IPython", "beartype", "bs4", "distributed", "fla", "hypothesis", "nbclient", "nbformat", "nbgrader", "onnx", "pytest_timeout",
    "safetensors", "transformers", "xdist", "yaml",
)  # fmt: skip
# Of IPython.display, what chapters and the package end cells with.
SHOWN = ("HTML", "Markdown")


def absent() -> list[str]:
    """Return the optional packages that are not installed here."""
    return [name for name in OPTIONAL if name not in sys.modules and importlib.util.find_spec(name) is None]


def lacking(error: str) -> str | None:
    """Return the optional package for whose lack a ModuleNotFoundError of these words was raised;
    None where it is another fault.
    """
    _, said, rest = error.partition("No module named '")
    package = rest.partition("'")[0].partition(".")[0]
    return package if said and package in OPTIONAL else None


class _Drawn:
    """This is a strategy that draws nothing: whatever is asked of it is such a one again."""

    def __getattr__(self, name: str) -> "_Drawn":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **kwargs) -> "_Drawn":
        return self

    def __or__(self, other) -> "_Drawn":
        return self


class _Machine:
    """This is a state machine whose tests are none."""

    TestCase = type("TestCase", (), {"settings": None})


def _as_it_is(*args, **kwargs):
    """Return a decorator that changes nothing."""
    return lambda function: function


def _skip(*args, **kwargs):
    """Return a decorator of a test whose arguments nobody draws."""
    import pytest  # which chapters do without

    return pytest.mark.skip(reason="needs hypothesis")


def stand_in_for_hypothesis() -> None:
    """Skip tests that draw their arguments by hypothesis where it is not installed,
    so that the others of their file run.
    """
    if "hypothesis" not in absent():
        return
    drawn, module = _Drawn(), ModuleType("hypothesis")
    for name in ("settings", "example", "seed"):
        setattr(module, name, _as_it_is)
    module.given, module.strategies, module.HealthCheck = _skip, drawn, drawn
    module.stateful = ModuleType("hypothesis.stateful")
    module.stateful.RuleBasedStateMachine = _Machine
    for name in ("rule", "initialize", "invariant", "precondition"):
        setattr(module.stateful, name, _as_it_is)
    sys.modules |= {"hypothesis": module, "hypothesis.strategies": drawn, "hypothesis.stateful": module.stateful}


class _Shown:
    """This is what a cell ends with; nobody looks at it here."""

    def __init__(self, data=None, **how):
        self.data = data


def stand_in_for_ipython() -> None:
    """Put in the place of IPython, where it is not installed, the classes of its display that cells end with."""
    if "IPython" not in absent():
        return
    shown = ModuleType("IPython.display")
    for name in SHOWN:
        setattr(shown, name, type(name, (_Shown,), {}))
    # Without IPython itself: matplotlib takes a module of that name for a running IPython.
    sys.modules["IPython.display"] = shown
