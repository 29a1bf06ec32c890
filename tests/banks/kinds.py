"""What a bank is made of."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Wrong:
    """A plausible mistake, and the fragment of the check's message that names the property it breaks."""

    function: Callable
    says: str


@dataclass(frozen=True)
class Bank:
    """Of one exercise: solutions written differently that are right, and mistakes that are not.

    Args:
        stateful: the first argument is what the solution itself returned last, so no other one could take it.
    """

    right: list[Callable]
    wrong: list[Wrong]
    stateful: bool = False
