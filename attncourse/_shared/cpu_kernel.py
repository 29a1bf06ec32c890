"""What kernels for processors share, as numba compiles them: a cache's vectors where they lie, products, online softmax.

As in a Triton kernel a tile of keys meets all queries of a group at once. The queries lie in the lanes of vectors (see
`lanes`): queries as (dk, LANES), scores as (tile, LANES), outputs as (dv, LANES). So a number of the cache, in every lane,
meets each query in one instruction, and no sum ever goes across lanes.
"""

import functools
import hashlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

try:
    import numba
except ImportError as error:
    raise ImportError("impl='numba' needs numba: pip install 'attncourse[cpu]', or pip install numba") from error
from numba.core import event

from .lanes import (
    LANES,
    ROWS,
    add,
    add_products,
    add_products_at,
    at_least,
    fill,
    load,
    load_bfloat16,
    load_block,
    load_float16,
    load_fp8,
    load_int4,
    load_int8,
    multiply,
    multiply_add,
    nearest,
    prefetch,
    spread,
    store,
    store_block,
    subtract,
    two_to,
)
from .launch import check_dtype
from .merge import merge_partial

TILE = 64  # keys that are scored, weighted and mixed before the next are read
FEW = 16  # values that are mixed at once: as many as the nearest cache holds a line of, however far apart they are
LINE = 64  # bytes of a cache line
FAR = 2**62  # more than any distance
LOWEST = -3.0e38  # what a maximum starts from: minus infinity less itself would be NaN
LOG2E, LN2 = 1 / math.log(2), math.log(2)
FLOAT32, FLOAT16, BFLOAT16, INT8, INT4, FP8 = range(6)
CODECS = {
    torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16,
    torch.int8: INT8, torch.uint8: INT4, torch.float8_e4m3fn: FP8,
}  # fmt: skip


def compiled(function: Callable) -> Callable:
    """Compile when it is first called, without the interpreter's lock, and keep what was compiled on disk.

    Numba looks at a function's own file to see whether what it keeps is still right, and not at the files of what it calls.
    So it keeps it in a folder that is named after all of them.
    """
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_cache_folder(function.__code__.co_filename))
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before


def _cache_folder(file: str) -> Path:
    sources = (Path(file), Path(__file__), Path(__file__).with_name("lanes.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = base / "attncourse" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that is not there, or not ours
        folder = Path(tempfile.gettempdir()) / "attncourse" / digest
    return folder


inlined = numba.njit(error_model="numpy")


class Stream(NamedTuple):
    """One of a cache's streams as it lies: flat memory, and where the vectors of each block and head begin in it."""

    codes: np.ndarray  # bytes, of any dtype
    scale: np.ndarray  # float32, one a group of entries
    zero: np.ndarray
    strides: tuple[int, int, int]  # bytes from one block, head, token to the next
    scale_strides: tuple[int, int, int]  # the same in scales
    codec: int
    width: int  # entries of a vector
    groups: int  # scales of a vector
    nbytes: int  # of a vector's codes


def stream_of(x: Tensor, scale: Tensor | None = None, zero: Tensor | None = None) -> Stream:
    """A stream (blocks, g, tokens, width) whose vectors' entries are neighbours, plain or coded, without a copy."""
    codec = CODECS[x.dtype]
    data = x.detach().view(torch.uint8)
    groups = 1 if scale is None else scale.shape[-1]
    return Stream(
        _flat(data),
        *(np.empty(0, np.float32) if s is None else _flat(s.detach()) for s in (scale, zero)),
        data.stride()[:3],
        (0, 0, 0) if scale is None else scale.stride()[:3],
        codec,
        x.shape[-1] * (2 if codec == INT4 else 1),
        groups,
        data.shape[-1],
    )


def _flat(x: Tensor) -> np.ndarray:
    """All memory from a tensor's first entry to its last."""
    span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    return torch.as_strided(x, (span,), (1,)).numpy()


@inlined
def keys_of(split, splits, length, positions, window):
    """The keys begin..end of one of equal splits, in whole tiles, of what any query at these positions may see."""
    end = min(length, positions.max() + 1)
    begin = max(positions.min() - window + 1, 0)
    each = -(-max(end - begin, 0) // (splits * TILE)) * TILE
    begin = min(begin + split * each, end)
    return begin, min(begin + each, end)


@inlined
def hide(scores, key, count, block, rows, positions, window):
    """-inf where a tile of `count` keys ends, and where a query of this block of lanes stands before one or too far behind.

    Args:
        scores: (TILE, LANES), flat; lane `lane` of block `block` is row block * LANES + lane, of `rows` rows.
        key: the tile's first.
        positions: (t,) of the queries; row i is at positions[i % t].
        window: more than any distance where there is none.
    """
    if count == TILE and key + TILE - 1 <= positions.min() and key > positions.max() - window:
        return  # all see all, and what lies in lanes without a row is not read
    for j in range(TILE):
        for lane in range(LANES):
            row = block * LANES + lane
            behind = positions[row % len(positions)] - (key + j)
            if j >= count or row >= rows or behind < 0 or behind >= window:
                scores[j * LANES + lane] = -np.inf


@inlined
def locate(at, strides, pages, size, head, start, count):
    """Where the vectors of tokens start, start + 1, ... begin; after `count` of them the last one's, so that all can be read.

    Args:
        at: (TILE,) to be filled.
        pages: blocks of the sequence, `size` tokens each.
    """
    page, slot = start // size, start % size
    here = pages[page] * strides[0] + head * strides[1] + slot * strides[2]
    for i in range(count):
        at[i] = here
        slot, here = slot + 1, here + strides[2]
        if slot == size and i + 1 < count:
            page, slot = page + 1, 0
            here = pages[page] * strides[0] + head * strides[1]
    for i in range(count, len(at)):
        at[i] = at[count - 1]


@inlined
def widen(tile, to, codes, at, width, codec):
    """A vector's codes from codes[at] on as float32 from tile[to] on, before scales; the last LANES of them may be done twice."""
    for first in range(0, width, LANES):
        i = max(min(first, width - LANES), 0)
        if codec == INT8:
            x = load_int8(codes, at + i)
        elif codec == INT4:
            x = load_int4(codes, at + i // 2)
        elif codec == FP8:
            x = load_fp8(codes, at + i)
        elif codec == FLOAT16:
            x = load_float16(codes, at + 2 * i)
        else:
            x = load_bfloat16(codes, at + 2 * i)
        store(tile, to + i, x)


@inlined
def scale_back(tile, to, scale, zero, at, groups, each):
    """(code - zero) * scale of each group of `each` neighbours; codes of floats have no zeros."""
    for group in range(groups):
        step, first = scale[at + group], to + group * each
        origin = zero[at + group] if len(zero) > 0 else np.float32(0.0)
        whole = each - each % LANES
        for i in range(0, whole, LANES):
            store(tile, first + i, multiply(subtract(load(tile, first + i), fill(origin)), fill(step)))
        for i in range(whole, each):
            tile[first + i] = (tile[first + i] - origin) * step


@inlined
def bring(tile, own, at, scale_at, stream, count):
    """`count` vectors as float32: (flat memory, where each begins in it).

    What is stored so is read where it lies. All else is widened into the tile (`new_tile`), which the nearest cache holds.

    Args:
        own: (TILE,) to be filled where the vectors begin.
        at, scale_at: where their codes and scales begin.
    """
    if stream.codec == FLOAT32:
        for i in range(len(at)):
            own[i] = at[i] // 4
        return stream.codes.view(np.float32), own
    codes, width, codec = stream.codes, stream.width, stream.codec
    if width < LANES:  # a vector of LANES would reach beyond the memory
        short = np.zeros(4 * LANES, np.uint8)
        for i in range(count):
            short[: stream.nbytes] = codes[at[i] : at[i] + stream.nbytes]
            widen(tile, i * width, short, 0, width, codec)
    else:
        for i in range(count):
            widen(tile, i * width, codes, at[i], width, codec)
    scale, zero, groups = stream.scale, stream.zero, stream.groups
    if len(scale) > 0:
        each = width // groups
        for i in range(count):
            scale_back(tile, i * width, scale, zero, scale_at[i], groups, each)
    for i in range(len(own)):
        own[i] = min(i, count - 1) * width
    return tile, own


@inlined
def new_tile(width):
    """Room for TILE vectors; what is stored of the last one may reach beyond it."""
    return np.empty(TILE * width + LANES, np.float32)


@inlined
def prefetch_vector(stream, at):
    """Ask for the codes of the vector that begins at `at`."""
    for byte in range(0, stream.nbytes, LINE):
        prefetch(stream.codes, at + byte)


@inlined
def add_scores(scores, q, k, at, width, ahead, ahead_at, wanted):
    """scores += products of a tile's keys and queries: an entry of the queries meets ROWS keys at a time.

    Args:
        scores: (TILE, LANES), flat.
        q: (width, LANES), flat.
        k, at: flat memory, and where each key begins in it.
        ahead, ahead_at: the stream whose vectors are needed next, and where they lie.
        wanted: whether to ask for them meanwhile.
    """
    for j in range(0, TILE, ROWS):
        rows = load_block(scores, j * LANES)
        for part in range(ROWS):  # a processor waits for few lines at once: so they are asked for here and there
            if wanted:
                prefetch_vector(ahead, ahead_at[j + part])
            for i in range(width * part // ROWS, width * (part + 1) // ROWS):
                rows = add_products_at(rows, k, at, j, i, load(q, i * LANES))
        store_block(scores, j * LANES, rows)


@inlined
def add_mixture(acc, weights, v, at, count, width, ahead, ahead_at, wanted):
    """acc += mixture of a tile's values: a key's weights meet ROWS entries of its value at a time.

    Args:
        acc: (width, LANES), flat.
        weights: (TILE, LANES), flat.
        count: of the tile's keys, those that exist: a weight of 0 times what may stand elsewhere could be NaN.
        v, at, ahead, ahead_at, wanted: as of `add_scores`.
    """
    whole = width - width % ROWS
    for first in range(0, count, FEW):
        last = min(first + FEW, count)
        few = last - first
        for i in range(0, whole, ROWS):
            if wanted:
                for j in range(first + few * i // whole, first + few * (i + ROWS) // whole):
                    prefetch_vector(ahead, ahead_at[j])
            rows = load_block(acc, i * LANES)
            for j in range(first, last):
                rows = add_products(rows, v, at[j] + i, load(weights, j * LANES))
            store_block(acc, i * LANES, rows)
        for i in range(whole, width):
            row = load(acc, i * LANES)
            for j in range(first, last):
                row = multiply_add(spread(v, at[j] + i), load(weights, j * LANES), row)
            store(acc, i * LANES, row)


@inlined
def exp2(x):
    """2 ** x in each lane, x <= 0: a power of two for the nearest whole number, seven terms of a series for the rest."""
    x = at_least(x, fill(np.float32(-127.0)))  # of which and of less it is 0
    n = nearest(x)
    rest = subtract(x, n)
    p = fill(np.float32(LN2**7 / 5040))
    p = multiply_add(p, rest, fill(np.float32(LN2**6 / 720)))
    p = multiply_add(p, rest, fill(np.float32(LN2**5 / 120)))
    p = multiply_add(p, rest, fill(np.float32(LN2**4 / 24)))
    p = multiply_add(p, rest, fill(np.float32(LN2**3 / 6)))
    p = multiply_add(p, rest, fill(np.float32(LN2**2 / 2)))
    p = multiply_add(p, rest, fill(np.float32(LN2)))
    return multiply(multiply_add(p, rest, fill(np.float32(1.0))), two_to(n))


@inlined
def online_softmax(scores, top, total, acc):
    """One tile's step: scores become weights, 2 ** (score - top), under the new top; what was summed before shrinks to it.

    Args:
        scores: (TILE, LANES), flat, exponents to base 2; -inf where a query does not look.
        top, total: (LANES,) the largest so far (LOWEST before any), and the sum of weights under it.
        acc: (dv, LANES), flat, the mixture of values under it.
    """
    before = load(top, 0)
    highest = before
    for j in range(TILE):
        highest = at_least(highest, load(scores, j * LANES))
    store(top, 0, highest)
    shrink = exp2(subtract(before, highest))
    grown = multiply(load(total, 0), shrink)
    for j in range(TILE):
        weight = exp2(subtract(load(scores, j * LANES), highest))
        store(scores, j * LANES, weight)
        grown = add(grown, weight)
    store(total, 0, grown)
    for i in range(0, len(acc), LANES):
        store(acc, i, multiply(load(acc, i), shrink))


@inlined
def finish_softmax(acc, top, total, lse):
    """Weights by their sum, and log-sum-exps to base 2; zeros and -inf for a query that saw nothing."""
    for lane in range(LANES):
        lse[lane] = top[lane] + np.log2(total[lane])
        total[lane] = np.float32(1.0) / total[lane] if total[lane] != 0 else np.float32(0.0)
    share = load(total, 0)
    for i in range(0, len(acc), LANES):
        store(acc, i, multiply(load(acc, i), share))


def in_threads(kernel: Callable, items: int, *arguments) -> None:
    """kernel(first, last, *arguments) over all items, in as many threads as PyTorch uses, equal shares each."""
    if not kernel.signatures:  # so far nothing is compiled in this process, or read from disk
        with _telling(kernel.__name__):
            kernel(0, 0, *arguments)
    threads = max(1, min(torch.get_num_threads(), items))
    edges = [items * i // threads for i in range(threads + 1)]
    others = [_pool(os.getpid()).submit(kernel, edges[i], edges[i + 1], *arguments) for i in range(1, threads)]
    kernel(edges[0], edges[1], *arguments)
    for other in others:
        other.result()


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a fork has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count())


class _telling(event.Listener):
    """Inside it, what is compiled and not found on disk says so."""

    def __init__(self, name: str):
        self.name, self.depth = name, 0

    def __enter__(self):
        event.register("numba:compile", self)
        return self

    def __exit__(self, *_):
        event.unregister("numba:compile", self)

    def on_start(self, what):
        if self.depth == 0:
            self.began = time.monotonic()
            print(f"compiling {self.name} for this processor, once ...", end=" ", file=sys.stderr, flush=True)
        self.depth += 1

    def on_end(self, what):
        self.depth -= 1
        if self.depth == 0:
            print(f"{time.monotonic() - self.began:.0f} s", file=sys.stderr)


def check_on_processor(name: str, x: Tensor) -> None:
    """The kernel takes these dtypes, on a processor."""
    check_dtype(name, x)
    if x.device.type != "cpu":
        raise ValueError(f"{name} runs on processors, got {x.device}: use impl='triton' there")


def lanes_of(rows: Tensor) -> np.ndarray:
    """(items, rows, width) as float32 (items, blocks, width * LANES): rows in lanes, zeros where there is no row."""
    items, n, width = rows.shape
    blocks = -(-n // LANES)
    padded = rows.new_zeros(items, blocks * LANES, width, dtype=torch.float32)
    padded[:, :n] = rows
    return padded.unflatten(1, (blocks, LANES)).transpose(2, 3).contiguous().flatten(2).numpy()


def rows_of(lanes: np.ndarray, *, rows: int) -> Tensor:
    """`lanes_of` undone: (..., blocks, width * LANES) to (..., rows, width)."""
    x = torch.from_numpy(lanes).unflatten(-1, (-1, LANES)).transpose(-1, -2)
    return x.flatten(-3, -2)[..., :rows, :]


def pages_of(block_table: Tensor | None, *, b: int) -> np.ndarray:
    """The blocks of each sequence, in order: those of a table, or where there is none a single one for each."""
    return (torch.arange(b)[:, None] if block_table is None else block_table).to(torch.int32).contiguous().numpy()


def run_splits(
    kernel: Callable, *arguments, sequences: int, splits: int, rows: int, width: int
) -> tuple[Tensor, Tensor]:
    """A kernel's items, all splits of all sequences, merged: outputs (sequences, rows, width) and log-sum-exps.

    Args:
        kernel: kernel(first, last, out, lse, rows, splits, *arguments) leaves of these items (blocks, width * LANES) and,
            to base 2, (blocks, LANES).
        sequences: with heads of their own each counts as one.
    """
    items, blocks = sequences * splits, -(-rows // LANES)
    out = np.empty((items, blocks, width * LANES), np.float32)
    lse = np.empty((items, blocks, LANES), np.float32)
    in_threads(kernel, items if rows else 0, out, lse, rows, splits, *arguments)
    parts, part_lse = (rows_of(x, rows=rows).unflatten(0, (sequences, splits)).unbind(1) for x in (out, lse))
    part_lse = [LN2 * x[..., 0] for x in part_lse]
    return functools.reduce(lambda a, b: merge_partial(*a, *b), zip(parts, part_lse, strict=True))
