"""What is asked of attention: how long, how many, on what, and what must not be lost."""

import math
from dataclasses import dataclass

from attncourse._shared.validate import check_widths, require
from attncourse.profile.device_facts import PRINTED
from attncourse.profile.limits import Limits
from attncourse.profile.record import Record
from attncourse.profile.roofline import Roofline

PHASES = ("training", "decoding")
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model whose layers are all alike, each attention and two matrices of a feed-forward.

    By default, width, heads and layers are those of Llama 3.1 8B (Grattafiori et al. 2024,
    https://arxiv.org/abs/2407.21783, table 3).

    Args:
        n_kv_heads: of grouped-query attention; a quarter of the heads, or one where that is no whole number.
        kv_lora_rank, qk_rope_head_dim: of latent attention; 4 heads' widths and half a head's, as in DeepSeek-V2
            (https://arxiv.org/abs/2405.04434, section 3.1.2).
        d_feed: width between the two matrices of the feed-forward (default: 4 d_model).

    Raises:
        ValueError: a size below 1, or heads that do not divide.
    """

    d_model: int = 4096
    n_heads: int = 32
    n_layers: int = 32
    n_kv_heads: int | None = None
    kv_lora_rank: int | None = None
    qk_rope_head_dim: int | None = None
    d_feed: int | None = None

    def __post_init__(self):
        check_widths(d_model=self.d_model, n_heads=self.n_heads, n_layers=self.n_layers)
        require(self.d_model % self.n_heads == 0, f"the {self.n_heads} heads must divide the d_model of {self.d_model}")
        defaults = {
            "n_kv_heads": self.n_heads // 4 if self.n_heads % 4 == 0 else 1,
            "kv_lora_rank": 4 * self.head_dim,
            "qk_rope_head_dim": max(self.head_dim // 2, 1),
            "d_feed": 4 * self.d_model,
        }
        for name, size in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, size)
        check_widths(**{name: getattr(self, name) for name in defaults})
        require(
            self.n_heads % self.n_kv_heads == 0,
            f"the {self.n_kv_heads} key/value heads must divide the {self.n_heads} query heads",
        )

    @property
    def head_dim(self) -> int:
        """Return the width of a head."""
        return self.d_model // self.n_heads


@dataclass(frozen=True)
class Job:
    """One use of attention, as `choose` is told of it."""

    length: int
    batch: int
    phase: str
    source_length: int | None
    causal: bool
    locality: int | None
    exact: bool
    may_share: int | None
    tensor_parallel: int
    memory: float | None
    latency: float | None
    shape: Shape
    dtype: str
    roofline: Roofline

    def __post_init__(self):
        told = {"source_length": self.source_length, "locality": self.locality, "may_share": self.may_share}
        sizes = {"length": self.length, "batch": self.batch, "tensor_parallel": self.tensor_parallel}
        check_widths(**sizes, **{name: size for name, size in told.items() if size is not None})
        require(self.phase in PHASES, f"phase must be one of {', '.join(PHASES)}, got {self.phase!r}")
        require(self.causal or self.phase == "training", "decoding is causal: it writes what is not there yet")
        require(
            self.locality is None or self.source_length is None,
            "locality is a distance within one sequence: leave it out where another sequence is read",
        )
        require(
            self.tensor_parallel == 1 or self.phase == "decoding",
            f"only decoding is counted on several devices, got tensor_parallel={self.tensor_parallel} in training",
        )
        require(
            self.shape.n_heads % self.tensor_parallel == 0,
            f"the {self.tensor_parallel} devices must divide the {self.shape.n_heads} heads",
        )
        for name, unit in (("memory", "bytes"), ("latency", "seconds")):
            bound = getattr(self, name)
            require(bound is None or bound > 0, f"{name} must be positive, in {unit}, got {bound}")

    @property
    def itemsize(self) -> int:
        """Return the bytes of a number."""
        return ITEMSIZE[self.dtype]

    @property
    def rows(self) -> int:
        """Return the tokens that one step computes: all of the batch in training, one per sequence in decoding."""
        return self.batch * (self.length if self.phase == "training" else 1)

    @property
    def queries(self) -> int:
        """Return the tokens of a sequence that one step computes."""
        return self.length if self.phase == "training" else 1

    @property
    def n_kv_heads(self) -> int:
        """Return the key/value heads of grouped-query attention: the shape's, or more where fewer heads may share one."""
        heads = self.shape.n_heads
        most = heads if self.may_share is None else min(self.may_share, heads)
        share = max(share for share in range(1, most + 1) if heads % share == 0)
        return max(self.shape.n_kv_heads, heads // share)

    @property
    def near(self) -> int:
        """Return how far designs that leave pairs out see directly: as far as needed, or the root of the length."""
        return min(self.length, math.isqrt(self.length - 1) + 1 if self.locality is None else self.locality)


def roofline_of(device: Roofline | Limits | Record | str, *, dtype: str) -> Roofline:
    """Return what a device reaches: measured limits as they are, or the peaks that its vendor prints, by a part of its name.

    Raises:
        ValueError: a name that is not in the table, or a dtype whose rate is not known.
    """
    require(dtype in ITEMSIZE, f"dtype must be one of {', '.join(ITEMSIZE)}, got {dtype!r}")
    if isinstance(device, Roofline):
        return device
    if isinstance(device, Record):
        device = device.limits
    if isinstance(device, str):
        require(device in PRINTED, f"device must be one of {', '.join(PRINTED)}, or measured limits, got {device!r}")
        bandwidth, rates = PRINTED[device].bandwidth, PRINTED[device].matmul
    else:
        bandwidth, rates = device.read, device.matmul
    require(dtype in rates, f"the rate of matrix products is known for {', '.join(rates)}, got dtype={dtype!r}")
    return Roofline(bandwidth, rates[dtype])
