"""A launch in two steps: a plan, which checks and decides, and its runs, which do neither.

FlashInfer has the same cut (Ye et al. 2025, https://arxiv.org/abs/2501.01005, section 3.4): what depends on shapes is done
once, and what is done for every token and layer is launches alone, which a CUDA graph can hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A layout says how a tensor lies: what a plan was made for."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def fits(self, x: Tensor | None) -> bool:
        """Return whether x lies so."""
        return (
            x is not None
            and x.shape == self.shape
            and x.stride() == self.strides
            and x.dtype == self.dtype
            and x.device == self.device
        )

    def __str__(self) -> str:
        return f"{self.shape} with strides {self.strides}, {self.dtype} on {self.device}"


def layout_of(x: Tensor | None) -> Layout | None:
    """Return the layout of x; None where x is None."""
    return None if x is None else Layout(tuple(x.shape), x.stride(), x.dtype, x.device)


@dataclass(frozen=True)
class Plan:
    """A plan is a checked launch, for tensors that lie as those that it was made of.

    Buffers between kernels are the plan's own. So runs follow one another on one stream, and who captures a run in a
    CUDA graph keeps the plan as long as the graph. What a run returns is new each time.

    Attributes:
        name: of the launcher.
        launch: the kernels, by the tensors' names.
        layouts: of each tensor that the launcher takes, in its order; None for one that was not given.
    """

    name: str
    launch: Callable[..., Any]
    layouts: Mapping[str, Layout | None]

    def run(self, *tensors: Tensor, **named: Tensor | None) -> Any:
        """Run the kernels on these tensors: no value is checked, nothing decided on the host, nothing read back.

        Args:
            tensors, named: what the launcher takes, in its order or by name.

        Raises:
            ValueError: a tensor lies otherwise than the plan was made for, or is there where none was, or is missing.
        """
        given = dict.fromkeys(self.layouts) | dict(zip(self.layouts, tensors, strict=False)) | named
        for name, x in given.items():
            if name not in self.layouts:
                raise ValueError(f"{self.name} takes {', '.join(self.layouts)}, got {name}")
            planned = self.layouts[name]
            if not (x is None if planned is None else planned.fits(x)):
                raise ValueError(
                    f"this plan of {self.name} was made for {name} {planned}, got {layout_of(x)}: make another plan"
                )
        return self.launch(**given)


def plan_of(name: str, launch: Callable, **tensors: Tensor | None) -> Plan:
    """Return the plan of a launcher for tensors that lie as these.

    Args:
        name: of the launcher.
        launch: the kernels, by the tensors' names.
        tensors: what the launcher takes, in its order; None for one that is not given.
    """
    return Plan(name, launch, {which: layout_of(x) for which, x in tensors.items()})
