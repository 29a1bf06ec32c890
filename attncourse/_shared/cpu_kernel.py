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

import numpy as np
import torch
from torch import Tensor

try:
    import numba
except ImportError as error:
    raise ImportError("impl='numba' needs numba: pip install 'attncourse[cpu]', or pip install numba") from error
from numba import carray
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
    integer,
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
    pointer,
    prefetch,
    spread,
    store,
    store_mixtures,
    store_number,
    subtract,
    take,
    total,
    two_to,
)
from .launch import check_dtype

TILE = 64  # keys that are scored, weighted and mixed before the next are read
ITEMS_EACH = 2  # for a thread, where it can be chosen: who begins late or is slower does fewer
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


def compiled(work: np.dtype) -> Callable[[Callable], Callable[[], ctypes._CFuncPtr]]:
    """Make a kernel of what a thread does:
    called without arguments it is compiled, and what C calls with the address of its work.

    Numba looks at a function's own file to see whether what it keeps on disk is still right, and not at the files of
    what it calls. So it keeps it in a folder that is named after all of them.

    Args:
        work: the record that the kernel finds at the address.
    """
    signature = numba.void(numba.types.CPointer(numba.from_dtype(work)))

    def of(function):
        @functools.cache
        def entry():
            before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_cache_folder(function.__code__.co_filename))
            try:
                with _telling(function.__name__):
                    return numba.cfunc(signature, cache=True, error_model="numpy")(function).ctypes
            finally:
                numba.config.CACHE_DIR = before

        return entry

    return of


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


# One of a cache's streams as it lies: addresses, and how far apart vectors are; all in bytes.
STREAM = np.dtype(
    [
        ("codes", np.int64),  # where the first vector begins
        ("scale", np.int64),  # where its scales do, float32, one a group of entries; 0 where there are none
        ("zero", np.int64),  # the same of zero points
        ("strides", np.int64, 3),  # from one block, head, token to the next
        ("scale_strides", np.int64, 3),  # the same of scales, and of zero points
        ("codec", np.int64),
        ("width", np.int64),  # entries of a vector
        ("groups", np.int64),  # scales of a vector
        ("nbytes", np.int64),  # of a vector's codes
    ]
)


def stream_of(x: Tensor, scale: Tensor | None = None, zero: Tensor | None = None) -> tuple:
    """Return a STREAM (blocks, g, tokens, width) whose vectors' entries are neighbours, plain or coded, without a copy.

    Args:
        x: vectors, or their codes.
        scale, zero: what the codes are multiplied by, and what is added (default: none, the vectors are plain).
    """
    codec = CODECS[x.dtype]
    return (
        x.data_ptr(),
        *(0 if s is None else s.data_ptr() for s in (scale, zero)),
        tuple(x.element_size() * n for n in x.stride()[:3]),
        (0, 0, 0) if scale is None else tuple(4 * n for n in scale.stride()[:3]),
        codec,
        x.shape[-1] * (2 if codec == INT4 else 1),
        1 if scale is None else scale.shape[-1],
        x.element_size() * x.shape[-1],
    )


# What threads share of a step: who does what, where queries see which keys, and where results go. Rooms add their inputs.
STEP = [
    ("next", np.int64),  # where the number of the next item lies that nobody has taken
    ("finished", np.int64),  # where it lies how many of each sequence's splits are done
    ("sequences", np.int64),  # with heads of their own each counts as one
    ("splits", np.int64),  # of a sequence
    ("rows", np.int64),  # queries of a sequence
    ("width", np.int64),  # of an output
    ("parts", np.int64),  # (items, rows * width) mixtures of padded rows and widths
    ("part_lse", np.int64),  # (items, rows) their log-sum-exps to base 2
    ("out", np.int64),  # (sequences, rows, width) as they are
    ("lse", np.int64),  # (sequences, rows), natural
    ("t", np.int64),  # tokens of a sequence that ask
    ("lengths", np.int64),  # (b,) tokens that a sequence has; 0 where all have all that there is room for
    ("capacity", np.int64),
    ("tables", np.int64),  # (b, pages) blocks of each sequence; 0 where each has one
    ("pages", np.int64),
    ("size", np.int64),  # tokens of a block
]


@inlined
def work_at(address):
    """Return the record that a kernel was given."""
    return carray(address, 1)[0]


@inlined
def next_item(work):
    """Return an item that no thread has taken: the first sequence's splits, the next one's, ...;
    from sequences * splits on there is none.
    """
    return take(work.next)


@inlined
def length_of(work, batch):
    """Return how many tokens a sequence has."""
    return integer(work.lengths + 8 * batch) if work.lengths else work.capacity


@inlined
def load_rows(to, at, rows, width, factor):
    """Copy float32 rows, by a factor, to where each has its padded width."""
    for row in range(rows):
        for i in range(width):
            to[row * padded(width) + i] = number(at + 4 * (row * width + i)) * factor


@inlined
def keys_of(split, splits, length, positions, window):
    """Return the keys begin..end of one of equal splits, in whole tiles, of what any query at these positions may see."""
    end = min(length, positions.max() + 1)
    begin = max(positions.min() - window + 1, 0)
    each = -(-max(end - begin, 0) // (splits * TILE)) * TILE
    begin = min(begin + split * each, end)
    return begin, min(begin + each, end)


@inlined
def hide(scores, key, count, rows, positions, window):
    """Write -inf where a tile of `count` keys ends, and where a query stands before one or too far behind it.

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
def locate(at, base, strides, work, batch, head, start, count):
    """Find where the vectors of tokens start, start + 1, ... begin;
    after `count` of them the last one's, so that all can be read.

    Args:
        at: (TILE,) to be filled.
        base: where the first of all vectors begins.
        batch: the sequence, whose blocks lie anywhere.
    """
    size = work.size
    page, slot, i = start // size, start % size, 0
    while i < count:
        block = integer(work.tables + 8 * (batch * work.pages + page)) if work.tables else batch
        here = base + block * strides[0] + head * strides[1] + slot * strides[2]
        last = min(count, i + size - slot)
        for n in range(i, last):
            at[n] = here + (n - i) * strides[2]
        page, slot, i = page + 1, 0, last
    for n in range(count, TILE):
        at[n] = at[count - 1]


@inlined
def move_on(at, next_at):
    """Let the next tile's vectors become this one's."""
    copy(address(at), address(next_at), 8 * TILE)


def _widening(entries: Callable, narrower: int) -> Callable:
    """Return what makes float32 of a tile of codes that `entries` loads, so many times `narrower` than float32.

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
    """Return LANES entries from entry i on of a vector of codes, as float32, before scales."""
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
    """Widen codes of any width and any groups, with zeros beyond the width."""
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
    """Bring vectors as float32: where they are stored otherwise they are widened into the tile, and at[i] says where.

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
    """Return n and as many more as make it whole steps: a width of whole vectors, say."""
    return n + -n % step


@inlined
def asked_at_once(rows):
    """Return how many vectors of the next tile are asked for with a block of scores:
    after all blocks of KEYS keys, half as many.
    """
    return -(-KEYS // 2 * ROWS // rows)


@inlined
def new_places():
    """Return room for where each vector of a tile begins."""
    return np.zeros(TILE, np.int64)


@inlined
def room(n):
    """Return room for n numbers that begins where a line of the cache does, so that a vector lies in one line."""
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
    """Add the products of whole vectors, as `add_products`: ROWS queries from address q on, KEYS keys from k[first] on."""
    for offset in range(0, 4 * width, 4 * LANES):
        sums = add_products(sums, q + offset, 4 * width, k, first, offset)
    return sums


@inlined
def add_mixture(acc, weights, v, count, width, next_k, next_v, k_bytes, v_bytes):
    """Add to acc the mixture of a tile's values:
    what ROWS rows mix of some of the entries stays in registers meanwhile.

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
    """Return 2 ** x in each lane, x <= 0:
    a power of two for the nearest whole number, seven terms of a series for the rest.
    """
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
    """Take one tile's step: scores become weights, 2 ** (score - top), under the new top;
    what was summed before shrinks to it.

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
    """Multiply a row of acc (rows, width) by what lies in all lanes of factor."""
    for i in range(row * width, (row + 1) * width, LANES):
        store(address(acc) + 4 * i, multiply(load(address(acc) + 4 * i), factor))


@inlined
def finish_softmax(acc, top, sums, lse):
    """Divide the mixtures by the sum of weights, and write log-sum-exps to base 2;
    a query that saw nothing gets zeros and -inf.
    """
    for row in range(len(top)):
        summed = total(load(address(sums) + 4 * row * LANES))
        lse[row] = top[row] + np.log2(summed)
        share = np.float32(1.0) / summed if summed != 0 else np.float32(0.0)
        multiply_row(acc, row, len(acc) // len(top), fill(share))


def in_threads(kernel: Callable[[], Callable], work: np.ndarray) -> None:
    """Run the kernel on this work in as many threads as PyTorch uses, which take item after item.

    PyTorch's own threads: for a while after their last work they spin, and would slow down others.

    Args:
        kernel: what `compiled` made.
        work: one record of the kernel's type.
    """
    call, threads, parallel = kernel(), torch.get_num_threads(), _openmp()
    if threads > 1 and parallel is not None:
        parallel(call, work.ctypes.data, threads, 0)
    else:
        others = [threading.Thread(target=call, args=(work.ctypes.data,)) for _ in range(threads - 1)]
        for other in others:
            other.start()
        call(work.ctypes.data)
        for other in others:
            other.join()


@functools.cache
def _openmp() -> Callable | None:
    """Return what runs a function in all threads, of the OpenMP library that PyTorch has loaded;
    None where it has another.
    """
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


class _telling(event.Listener):
    """Inside it, a kernel that is compiled, and not found on disk, says so."""

    def __init__(self, name: str):
        self.name, self.began = name, None

    def __enter__(self):
        event.register("numba:run_pass", self)

    def __exit__(self, *_):
        event.unregister("numba:run_pass", self)
        if self.began is not None:
            print(f"{time.monotonic() - self.began:.0f} s", file=sys.stderr)

    def on_start(self, what):
        if self.began is None:
            self.began = time.monotonic()
            print(f"compiling {self.name} for this processor, once ...", end=" ", file=sys.stderr, flush=True)

    def on_end(self, what):
        pass


def check_on_processor(name: str, x: Tensor) -> None:
    """Check that a kernel for processors takes this dtype, and that the tensor is on one.

    Args:
        name: of the launcher, for the message.
        x: a tensor that it was given.

    Raises:
        ValueError: another dtype or device.
    """
    check_dtype(name, x)
    if x.device.type != "cpu":
        raise ValueError(f"{name} runs on processors, got {x.device}: use impl='triton' there")


def address_of(x: Tensor | None) -> int:
    """Return the address of the first number of x; 0 for None."""
    return 0 if x is None else x.data_ptr()


def integers(x: Tensor | None) -> Tensor | None:
    """Return x as a kernel reads integers: of 64 bits, one after another."""
    return None if x is None else x.to(torch.int64).contiguous()


def numbers(x: Tensor) -> Tensor:
    """Return x as a kernel reads queries: float32, one after another."""
    return x.float().contiguous()


def run_step(
    kernel: Callable[[], Callable],
    dtype: np.dtype,
    inputs: tuple,
    *,
    sequences: int,
    splits: int,
    rows: int,
    width: int,
    t: int,
    lengths: Tensor | None,
    capacity: int,
    block_table: Tensor | None,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Return all splits of all sequences, merged: outputs (sequences, rows, width) and log-sum-exps (sequences, rows).

    Args:
        kernel: what `compiled` made.
        dtype, inputs: the record that the kernel takes, and what stands in it after the fields of STEP.
        sequences, splits, rows, width, t: sequences times key/value heads; parts of each; query rows, their width;
            queries.
        lengths: integers, tokens of each sequence (default: capacity).
        capacity: tokens for which there is room.
        block_table: integers, which block holds which part of a sequence; None where each lies in one piece.
        size: tokens of a block.

    Raises:
        MemoryError: a thread had no room for a tile.
    """
    lengths, block_table = integers(lengths), integers(block_table)
    counters = np.zeros(1 + sequences, np.int64)
    empty = functools.partial(torch.empty, dtype=torch.float32, device="cpu")  # begins where a cache line does
    parts = empty(sequences * splits, padded(rows, ROWS), padded(width))
    part_lse = empty(sequences * splits, padded(rows, ROWS))
    out, lse = empty(sequences, rows, width), empty(sequences, rows)
    if out.numel() == 0:
        return out, lse
    work = np.array(
        (
            counters.ctypes.data, counters[1:].ctypes.data, sequences, splits, rows, width,
            parts.data_ptr(), part_lse.data_ptr(), out.data_ptr(), lse.data_ptr(),
            t, address_of(lengths), capacity, address_of(block_table),
            0 if block_table is None else block_table.shape[1], max(size, 1), *inputs,
        ),
        dtype,
    )  # fmt: skip
    in_threads(kernel, work)
    if (counters[1:] != splits).any():
        raise MemoryError(
            f"a thread had no room for its tiles: {counters[1:].sum()} of {sequences * splits} splits were done"
        )
    return out, lse


@inlined
def part_of(work, item):
    """Return an item's mixture (rows * width) and log-sum-exps (rows,), of padded rows and widths."""
    rows = padded(work.rows, ROWS)
    numbers = rows * padded(work.width)
    part = carray(pointer(work.parts + 4 * item * numbers), numbers, np.float32)
    return part, carray(pointer(work.part_lse + 4 * item * rows), rows, np.float32)


@inlined
def hand_in(work, item):
    """Mark the item as done; where it was the last one of its sequence's, all of them are merged."""
    sequence = item // work.splits
    if take(work.finished + 8 * sequence) == work.splits - 1:
        merge(work, sequence)


@numba.njit(error_model="numpy")
def merge(work, sequence):
    """Merge the parts of a sequence's splits, as `merge_partial`, but with log-sum-exps to base 2."""
    rows, width, first = work.rows, work.width, sequence * work.splits
    for row in range(rows):
        here = sequence * rows + row
        out = carray(pointer(work.out + 4 * here * width), width, np.float32)
        top, summed = np.float32(LOWEST), np.float32(0.0)  # of a row that saw nothing -inf - -inf would be NaN
        for item in range(first, first + work.splits):
            top = max(top, part_of(work, item)[1][row])
        for item in range(first, first + work.splits):
            summed += np.exp2(part_of(work, item)[1][row] - top)
        out[:] = 0.0
        for item in range(first, first + work.splits):
            part, lse = part_of(work, item)
            weight = np.exp2(lse[row] - top) / summed if summed != 0 else np.float32(0.0)
            for i in range(width):
                out[i] += weight * part[row * padded(width) + i]
        store_number(work.lse + 4 * here, np.float32(LN2) * (top + np.log2(summed)))
