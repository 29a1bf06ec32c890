"""What a broken property looks like, where that says more than a sentence."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A picture is two small matrices of the same shape that show a broken property better than a sentence:
    got beside expected.

    For patterns (who saw whom, where weights went), never for the numbers of an answer.
    """

    got: Tensor
    expected: Tensor
    rows: str = "query"
    columns: str = "key"
