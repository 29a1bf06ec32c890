"""Which tiles of keys the room's kernel loads, and what the compiler makes of it for a chip that is not here."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import attncourse
from attncourse._shared.launch import chip_of
from attncourse.profile.compiled import Build, Compiled, compile_elsewhere
from attncourse.sliding_window.kernel import launch_config, sliding_window_attention_triton


def tile_sides(q: Tensor) -> tuple[int, int]:
    """Return how many queries and how many keys a tile of the forward kernel has, for inputs like q on this device."""
    config = launch_config("fwd", **chip_of(q, width=q.shape[-1]))
    return config["BLOCK_T"], config["BLOCK_S"]


def tiles_loaded(
    q: Float[Tensor, "1 1 n d"], k: Float[Tensor, "1 1 n d"], v: Float[Tensor, "1 1 n d"], *, window: int
) -> Bool[Tensor, "query_blocks key_blocks"]:
    """Return which tile of keys each program of the kernel loads, a program per block of queries.

    The values of one tile after another are poisoned with NaN, a tile per sequence of a batch. Even a weight of 0 times
    NaN is NaN, so a program's output is NaN exactly if it loaded the tile.

    Args:
        q, k, v: one head whose length both sides of a tile divide.
        window: keys that a query sees.
    """
    rows, columns = tile_sides(q)
    n = q.shape[2]
    poisoned = v.repeat(n // columns, 1, 1, 1)
    for tile, values in enumerate(poisoned):
        values[:, tile * columns : (tile + 1) * columns] = torch.nan
    device = attncourse.device()
    same = (x.expand(len(poisoned), -1, -1, -1).contiguous().to(device) for x in (q, k))
    out = sliding_window_attention_triton(*same, poisoned.to(device), window=window)
    return out[:, 0].isnan().any(dim=-1).view(len(poisoned), n // rows, rows).any(dim=-1).T.cpu()


def compiled_window(capability: int) -> tuple[Compiled, tuple[int, int]]:
    """Return the forward kernel for heads of width 64 in float16, compiled for a chip, and the sides of its tiles."""
    config = launch_config("fwd", width=64, bits=16, capability=capability)
    sizes = {name: size for name, size in config.items() if name.startswith("BLOCK")}
    known = {"GROUP": 1, "DK": 64, "DV": 64, "BLOCK_DK": 64, "BLOCK_DV": 64, "LENGTHS": False} | sizes
    options = {name: size for name, size in config.items() if name not in sizes}
    kernel = "attncourse.sliding_window.kernel:_sliding_window_fwd_kernel"
    (built,) = compile_elsewhere([Build(kernel, "window", "fp16", known, options, capability)])
    return built, (config["BLOCK_T"], config["BLOCK_S"])
