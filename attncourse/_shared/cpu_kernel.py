"""What kernels for processors share, as numba compiles them: a cache's vectors where they lie, products, online softmax.

As in a Triton kernel a tile of keys meets all queries of a group at once: queries as (rows, dk), scores as (rows, TILE),
outputs as (rows, dv). What lies next to each other in a row lies in the lanes of vectors (see `lanes`), so widths are padded
with zeros to whole vectors, and rows to whole blocks of them.
"""

import ctypes
import functools
import hashlib
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
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
from numba.extending import register_jitable

from .lanes import (
    COLUMNS,
    KEYS,
    LANES,
    ROWS,
    add,
    add_mixtures,
    add_products,
    address,
    at_least,
    copy,
    fill,
    largest,
    load,
    load_bfloat16,
    load_float16,
    load_fp8,
    load_int4,
    load_int8,
    load_mixtures,
    multiply,
    multiply_add,
    nearest,
    number,
    prefetch,
    spread,
    store,
    store_mixtures,
    subtract,
    total,
    two_to,
)
from .launch import check_dtype

TILE = 64  # keys that are scored, weighted and mixed before the next are read
FEW = 16  # values that are mixed at once: as many as the nearest cache holds some lines of, however far apart they are
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


# Into the code that calls it: a call would count, in an atomic step, who holds each of the arrays.
inlined = numba.njit(error_model="numpy", inline="always")


class Stream(NamedTuple):
    """One of a cache's streams as it lies: addresses, and how far apart vectors are; all in bytes."""

    codes: int  # where the first vector begins
    scale: int  # where its scales do, float32, one a group of entries; 0 where there are none
    zero: int  # the same of zero points
    strides: tuple[int, int, int]  # from one block, head, token to the next
    scale_strides: tuple[int, int, int]  # the same of scales, and of zero points
    codec: int
    width: int  # entries of a vector
    groups: int  # scales of a vector
    nbytes: int  # of a vector's codes


def stream_of(x: Tensor, scale: Tensor | None = None, zero: Tensor | None = None) -> Stream:
    """A stream (blocks, g, tokens, width) whose vectors' entries are neighbours, plain or coded, without a copy."""
    codec = CODECS[x.dtype]
    return Stream(
        x.data_ptr(),
        *(0 if s is None else s.data_ptr() for s in (scale, zero)),
        tuple(x.element_size() * n for n in x.stride()[:3]),
        (0, 0, 0) if scale is None else tuple(4 * n for n in scale.stride()[:3]),
        codec,
        x.shape[-1] * (2 if codec == INT4 else 1),
        1 if scale is None else scale.shape[-1],
        x.element_size() * x.shape[-1],
    )


@inlined
def keys_of(split, splits, length, positions, window):
    """The keys begin..end of one of equal splits, in whole tiles, of what any query at these positions may see."""
    end = min(length, positions.max() + 1)
    begin = max(positions.min() - window + 1, 0)
    each = -(-max(end - begin, 0) // (splits * TILE)) * TILE
    begin = min(begin + split * each, end)
    return begin, min(begin + each, end)


@inlined
def hide(scores, key, count, rows, positions, window):
    """-inf where a tile of `count` keys ends, and where a query stands before one or too far behind it.

    Args:
        scores: (rows, TILE), flat.
        key: the tile's first.
        positions: (t,) of the queries; row i is at positions[i % t].
        window: more than any distance where there is none.
    """
    for row in range(rows):
        position = positions[row % len(positions)]
        for j in range(TILE):
            behind = position - (key + j)
            if j >= count or behind < 0 or behind >= window:
                scores[row * TILE + j] = -np.inf


@inlined
def locate(at, base, strides, pages, size, head, start, count):
    """Where the vectors of tokens start, start + 1, ... begin; after `count` of them the last one's, so that all can be read.

    Args:
        at: (TILE,) to be filled.
        base: where the first of all vectors begins.
        pages: blocks of the sequence, `size` tokens each.
    """
    page, slot, i = start // size, start % size, 0
    while i < count:
        here = base + pages[page] * strides[0] + head * strides[1] + slot * strides[2]
        last = min(count, i + size - slot)
        for n in range(i, last):
            at[n] = here + (n - i) * strides[2]
        page, slot, i = page + 1, 0, last
    for n in range(count, TILE):
        at[n] = at[count - 1]


@inlined
def move_on(at, next_at):
    """The next tile's vectors become this one's."""
    copy(address(at), address(next_at), 8 * TILE)


def _widening(entries: Callable, narrower: int) -> Callable:
    """Of codes that `entries` loads, and that are half as wide as float32 so many times: a tile of them as float32.

    Groups of whole vectors of LANES share a scale.
    """

    @numba.njit(error_model="numpy")
    def widen(tile, at, scale_at, stream, count):
        each, zero = stream.width // stream.groups, stream.zero - stream.scale
        for i in range(count):
            to = address(tile) + 4 * i * stream.width
            for group in range(stream.groups):
                step = spread(scale_at[i] + 4 * group) if stream.scale else fill(np.float32(1.0))
                origin = spread(scale_at[i] + zero + 4 * group) if stream.zero else fill(np.float32(0.0))
                for n in range(4 * group * each, 4 * (group + 1) * each, 4 * LANES):
                    store(to + n, multiply(subtract(entries(at[i] + (n >> narrower)), origin), step))

    return widen


widen_bfloat16, widen_float16 = _widening(load_bfloat16, 1), _widening(load_float16, 1)
widen_int8, widen_fp8, widen_int4 = _widening(load_int8, 2), _widening(load_fp8, 2), _widening(load_int4, 3)


@inlined
def widened(at, i, codec):
    """LANES entries from entry i on of a vector of codes, as float32, before scales."""
    if codec == INT8:
        return load_int8(at + i)
    if codec == INT4:
        return load_int4(at + i // 2)
    if codec == FP8:
        return load_fp8(at + i)
    if codec == FLOAT16:
        return load_float16(at + 2 * i)
    if codec == BFLOAT16:
        return load_bfloat16(at + 2 * i)
    return load(at + 4 * i)


@numba.njit(error_model="numpy")
def widen_any(tile, at, scale_at, stream, count):
    """Codes of any width and any groups, zeros beyond the width."""
    short = np.zeros(stream.nbytes + 4 * LANES, np.uint8)  # LANES of the last ones may be read beyond all memory
    each, zero = stream.width // stream.groups, stream.zero - stream.scale
    for i in range(count):
        first = i * padded(stream.width)
        copy(address(short), at[i], stream.nbytes)
        for n in range(0, stream.width, LANES):
            store(address(tile) + 4 * (first + n), widened(address(short), n, stream.codec))
        for n in range(stream.width):
            if stream.zero:
                tile[first + n] -= number(scale_at[i] + zero + 4 * (n // each))
            if stream.scale:
                tile[first + n] *= number(scale_at[i] + 4 * (n // each))


@inlined
def bring(at, tile, scale_at, stream, count):
    """Vectors as float32: where that is not what they are stored as, they are widened into the tile, and at[i] says where.

    Args:
        at, scale_at: (TILE,) where the codes and scales of `count` vectors begin.
        tile: room for TILE vectors of padded width, which a near cache holds.
    """
    codec, width = stream.codec, padded(stream.width)
    if stream.width // stream.groups % LANES != 0:
        widen_any(tile, at, scale_at, stream, count)
    elif codec == FLOAT32:
        return
    elif codec == FLOAT16:
        widen_float16(tile, at, scale_at, stream, count)
    elif codec == BFLOAT16:
        widen_bfloat16(tile, at, scale_at, stream, count)
    elif codec == INT8:
        widen_int8(tile, at, scale_at, stream, count)
    elif codec == FP8:
        widen_fp8(tile, at, scale_at, stream, count)
    else:
        widen_int4(tile, at, scale_at, stream, count)
    for i in range(TILE):
        at[i] = address(tile) + 4 * min(i, count - 1) * width


@register_jitable
def padded(n, step=LANES):
    """n and as many more as make it whole steps: a width of whole vectors, say."""
    return n + -n % step


@inlined
def asked_at_once(rows):
    """Vectors of the next tile that are asked for with a block of scores: after all blocks of KEYS keys, half as many."""
    return -(-KEYS // 2 * ROWS // rows)


@inlined
def new_places():
    """Room for where each vector of a tile begins."""
    return np.zeros(TILE, np.int64)


@inlined
def room(n):
    """n numbers that begin where a line of the cache does, so that a vector lies in one line."""
    numbers = np.empty(n + LINE // 4, np.float32)
    skipped = -(address(numbers) // 4) % (LINE // 4)
    return numbers[skipped : skipped + n]


@inlined
def ask_ahead(k, v, first, last, k_bytes, v_bytes):
    """Ask for the bytes of vectors first, ..., last - 1 of a tile of keys and values, or of any two streams."""
    for i in range(first, min(last, TILE)):
        ask(k[i], k_bytes)
        ask(v[i], v_bytes)


@inlined
def ask(at, nbytes):
    """Ask for so many bytes, four lines a turn: a turn for each line would cost more than what it asks for."""
    whole = nbytes - nbytes % (4 * LINE)
    for byte in range(0, whole, 4 * LINE):
        prefetch(at + byte)
        prefetch(at + byte + LINE)
        prefetch(at + byte + 2 * LINE)
        prefetch(at + byte + 3 * LINE)
    for byte in range(whole, nbytes, LINE):
        prefetch(at + byte)


@inlined
def add_all_products(sums, q, k, first, width):
    """`add_products` of whole vectors: ROWS queries from address q on, KEYS keys from k[first] on."""
    for offset in range(0, 4 * width, 4 * LANES):
        sums = add_products(sums, q + offset, 4 * width, k, first, offset)
    return sums


@inlined
def add_mixture(acc, weights, v, count, width, next_k, next_v, k_bytes, v_bytes):
    """acc += mixture of a tile's values: what ROWS rows mix of some of the values' entries stays in registers meanwhile.

    Args:
        acc: (rows, width).
        weights: (rows, TILE).
        v: where each value begins.
        count: of the tile's keys, those that exist: a weight of 0 times what may stand elsewhere could be NaN.
        next_k, next_v, k_bytes, v_bytes: the next tile, of which the second half is asked for meanwhile (`ask_ahead`).
    """
    rows, at_once = len(acc) // width, COLUMNS * LANES
    whole = width - width % at_once
    asked, blocks = TILE // 2, max(1, rows // ROWS * (whole // at_once) * (TILE // FEW))
    each = -(-asked // blocks)
    for first in range(0, count, FEW):
        last = min(first + FEW, count)
        for i in range(0, whole, at_once):
            for row in range(0, rows, ROWS):
                ask_ahead(next_k, next_v, asked, asked + each, k_bytes, v_bytes)
                asked += each
                to, weight = address(acc) + 4 * (row * width + i), address(weights) + 4 * row * TILE
                mixed = load_mixtures(to, 4 * width)
                for j in range(first, last):
                    mixed = add_mixtures(mixed, weight + 4 * j, 4 * TILE, v[j] + 4 * i)
                store_mixtures(to, 4 * width, mixed)
        for i in range(whole, width, LANES):
            for row in range(rows):
                to, weight = address(acc) + 4 * (row * width + i), address(weights) + 4 * row * TILE
                mixed = load(to)
                for j in range(first, last):
                    mixed = multiply_add(spread(weight + 4 * j), load(v[j] + 4 * i), mixed)
                store(to, mixed)


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
def online_softmax(scores, top, sums, acc):
    """One tile's step: scores become weights, 2 ** (score - top), under the new top; what was summed before shrinks to it.

    Args:
        scores: (rows, TILE), flat, exponents to base 2; -inf where a query does not look.
        top: (rows,) the largest so far, LOWEST before any.
        sums: (rows, LANES), flat; a row's add up to the sum of weights under it.
        acc: (rows, width), flat, the mixture of values under it.
    """
    vector, width = 4 * LANES, len(acc) // len(top)
    for row in range(len(top)):
        here, end = address(scores) + 4 * row * TILE, address(scores) + 4 * (row + 1) * TILE
        peaks = load(here)
        for at in range(here + vector, end, vector):
            peaks = at_least(peaks, load(at))
        before, top[row] = top[row], max(top[row], largest(peaks))
        highest, summed = fill(top[row]), load(address(sums) + vector * row)
        if top[row] > before:
            shrink = exp2(subtract(fill(before), highest))
            summed = multiply(summed, shrink)
            multiply_row(acc, row, width, shrink)
        for at in range(here, end, vector):
            weight = exp2(subtract(load(at), highest))
            store(at, weight)
            summed = add(summed, weight)
        store(address(sums) + vector * row, summed)


@inlined
def multiply_row(acc, row, width, factor):
    """A row of acc (rows, width) by what lies in all lanes of factor."""
    for i in range(row * width, (row + 1) * width, LANES):
        store(address(acc) + 4 * i, multiply(load(address(acc) + 4 * i), factor))


@inlined
def finish_softmax(acc, top, sums, lse):
    """Weights by their sum, and log-sum-exps to base 2; zeros and -inf for a query that saw nothing."""
    for row in range(len(top)):
        summed = total(load(address(sums) + 4 * row * LANES))
        lse[row] = top[row] + np.log2(summed)
        share = np.float32(1.0) / summed if summed != 0 else np.float32(0.0)
        multiply_row(acc, row, len(acc) // len(top), fill(share))


def ready(kernel: Callable, *arguments) -> Callable:
    """The kernel, compiled for such arguments; where it is not found on disk it says that it compiles."""
    if not kernel.signatures:  # so far nothing is compiled in this process, or read from disk
        with _telling(kernel.__name__):
            kernel(0, 0, *arguments)
    return kernel


def in_threads(kernel: Callable, items: int, *arguments) -> None:
    """kernel(first, last, *arguments) over all items, equal shares in as many threads as PyTorch uses."""
    ready(kernel, *arguments)
    threads = max(1, min(torch.get_num_threads(), items))
    edges = [items * i // threads for i in range(threads + 1)]
    if threads == 1:
        return kernel(0, items, *arguments)
    shares, failures = iter(range(threads)), []

    def work(_):
        try:
            for i in shares:
                kernel(edges[i], edges[i + 1], *arguments)
        except BaseException as error:  # on its way through C it would be lost
            failures.append(error)

    _in_team(work, threads)
    if failures:
        raise failures[0]


_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _in_team(work: Callable[[int | None], None], threads: int) -> None:
    """Call work in each of PyTorch's own threads: for a while after its last work they spin, and would slow down others."""
    parallel = _openmp()
    if parallel is not None:
        return parallel(_WORK(work), None, threads, 0)
    others = [threading.Thread(target=work, args=(None,)) for _ in range(threads - 1)]
    for other in others:
        other.start()
    work(None)
    for other in others:
        other.join()


@functools.cache
def _openmp() -> Callable | None:
    """What runs a function in all threads, of the OpenMP library that PyTorch has loaded; None where it has another."""
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    parallel.argtypes, parallel.restype = (_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


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


def padded_rows(x: Tensor) -> np.ndarray:
    """(items, rows, width) as float32 (items, rows * width) of whole blocks of rows and whole vectors: zeros beyond."""
    items, rows, width = x.shape
    out = np.zeros((items, padded(rows, ROWS), padded(width)), np.float32)
    out[:, :rows, :width] = x.numpy()
    return out.reshape(items, out.shape[1] * out.shape[2])


def pages_of(block_table: Tensor | None, *, b: int) -> np.ndarray:
    """The blocks of each sequence, in order: those of a table, or where there is none a single one for each."""
    return np.arange(b)[:, None] if block_table is None else integers(block_table)


def lengths_of(lengths: Tensor | None, *, b: int, capacity: int) -> np.ndarray:
    """(b,) tokens of each sequence: all that there is room for unless told."""
    return np.full(b, capacity) if lengths is None else integers(lengths)


def integers(x: Tensor) -> np.ndarray:
    """Of one dtype, and one after another: of other arrays a kernel would be compiled again."""
    return np.ascontiguousarray(x.numpy(), np.int64)


def run_splits(
    kernel: Callable, *arguments, sequences: int, splits: int, rows: int, width: int
) -> tuple[Tensor, Tensor]:
    """A kernel's items, all splits of all sequences, merged: outputs (sequences, rows, width) and log-sum-exps.

    Args:
        kernel: kernel(first, last, out, lse, rows, splits, *arguments) leaves of these items (rows * width) and, to base 2,
            (rows,), both of padded rows and widths.
        sequences: with heads of their own each counts as one.
    """
    items, all_rows, all_columns = sequences * splits, padded(rows, ROWS), padded(width)
    out = np.empty((items, all_rows * all_columns), np.float32)
    lse = np.empty((items, all_rows), np.float32)
    in_threads(kernel, items if rows else 0, out, lse, all_rows, splits, *arguments)
    if splits > 1:
        parts = out, lse, splits, all_columns
        ready(merge_kernel, *parts)(0, sequences, *parts)
    out = torch.from_numpy(out).view(sequences, splits, all_rows, all_columns)[:, 0, :rows, :width]
    return out, LN2 * torch.from_numpy(lse).view(sequences, splits, all_rows)[:, 0, :rows]


@compiled
def merge_kernel(first_sequence, last_sequence, out, lse, splits, width):
    """The parts of a sequence's splits as one, where the first split's was: as `merge_partial`, but log-sum-exps to base 2."""
    weights = np.empty(splits, np.float32)
    for first in range(first_sequence * splits, last_sequence * splits, splits):
        for row in range(lse.shape[1]):
            top, summed = np.float32(LOWEST), np.float32(0.0)  # of a row that saw nothing -inf - -inf would be NaN
            for split in range(splits):
                top = max(top, lse[first + split, row])
            for split in range(splits):
                weights[split] = np.exp2(lse[first + split, row] - top)
                summed += weights[split]
            lse[first, row] = top + np.log2(summed)
            for i in range(row * width, (row + 1) * width):
                mixed = np.float32(0.0)
                for split in range(splits):
                    mixed += weights[split] * out[first + split, i]
                out[first, i] = mixed / summed if summed != 0 else np.float32(0.0)
