"""How `test_every_form` builds and calls a layer: each room's tests say it of theirs, in LAYERS."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

BATCH, TOKENS, D_MODEL = 2, 7, 16  # of what the layers are given


@dataclass(frozen=True)
class Layer:
    """A layer here says how one is built and called; `masks` where it takes a mask."""

    make: Callable[..., nn.Module]
    masks: bool = False
    call: Callable[..., Tensor] = lambda layer, x, **options: layer(x, **options)

    @property
    def impls(self) -> tuple[str, ...]:
        """Return all that it has."""
        return tuple(type(self.make()).forms)


def beside(layer, x, **options):
    """Return a layer that reads a memory, here the tokens themselves."""
    return layer(x, x, **options)
