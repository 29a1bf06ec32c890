"""What kernels for processors share, as numba compiles them: a cache's vectors where they lie, products, online softmax.

As in a Triton kernel a tile of keys meets all queries of a group: queries as (rows, dk), scores as (rows, TILE), outputs as
(rows, dv). So many rows as fit meet a key `together`, in the lanes of one vector (see `lanes`): of one row alone a vector has
LANES entries, of LANES rows one entry each. So widths are padded with zeros to whole vectors, and rows to whole groups.
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
    address,
    any_larger,
    at_least,
    copy,
    fill,
    integer,
    keys_of_block,
    largest_of_each,
    load,
    load_bfloat16,
    load_float16,
    load_fp8,
    load_int4,
    load_int8,
    mixtures_of,
    multiply,
    multiply_add,
    nearest,
    number,
    parts_of_block,
    place,
    pointer,
    prefetch,
    products_of,
    spread,
    store,
    store_number,
    store_place,
    subtract,
    take,
    two_to,
)
from .launch import check_dtype

TILE = 64  # keys that are scored, weighted and mixed before the next are read
ITEMS_EACH = 2  # for a thread, where it can be chosen: who begins late or is slower does fewer
FEW = 16  # values that are mixed at once: as many as the nearest cache holds some lines of, however far apart they are
LINE = 64  # bytes of a cache line
LEAD = 8192  # bytes of a stream that are asked for before they are needed: two pages of memory
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


def compiled_apart(*told: object) -> Callable[[Callable], Callable]:
    """Compile a function on its own, under a name that says what it was made for.

    Numba tells functions of one name apart by counting them, in each process anew. What two processes kept on disk, and a
    third one loads, must not be taken for each other.

    Args:
        told: what the function was made for, where several are made in one place.
    """

    def of(function):
        function.__qualname__ = "_".join(map(str, (function.__qualname__, *told)))
        return numba.njit(error_model="numpy")(function)

    return of


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


def stream_of(x: Tensor, scale: Tensor | None = None) -> tuple:
    """Return the STREAM of vectors like these, but for addresses.

    Args:
        x: vectors (blocks, g, tokens, width), or their codes; entries are neighbours.
        scale: what codes are multiplied by (default: the vectors are plain). Zero points lie as scales do.
    """
    codec = CODECS[x.dtype]
    return (
        *(0, 0, 0),
        tuple(x.element_size() * n for n in x.stride()[:3]),
        (0, 0, 0) if scale is None else tuple(4 * n for n in scale.stride()[:3]),
        codec,
        x.shape[-1] * (2 if codec == INT4 else 1),
        1 if scale is None else scale.shape[-1],
        x.element_size() * x.shape[-1],
    )


# What threads share of a step: who does what, where queries see which keys, and where results go. Rooms add their inputs.
# All fields are of 64 bits.
STEP = [
    ("next", np.int64),  # where the number of the next item lies that nobody has taken
    ("merged", np.int64),  # where it lies how many sequences are done
    ("finished", np.int64),  # where it lies how many of each sequence's splits are
    ("sequences", np.int64),  # with heads of their own each counts as one
    ("splits", np.int64),  # of a sequence
    ("rows", np.int64),  # queries of a sequence
    ("together", np.int64),  # rows that meet a key at once
    ("width", np.int64),  # of an output
    ("parts", np.int64),  # (items, rows * width) mixtures of padded rows and widths
    ("part_lse", np.int64),  # (items, rows) their log-sum-exps to base 2
    ("out", np.int64),  # (sequences, rows, width) as they are
    ("lse", np.int64),  # (sequences, rows), natural
    ("t", np.int64),  # tokens of a sequence that ask
    ("lengths", np.int64),  # (b,) tokens that a sequence has; 0 where all have all that there is room for
    ("capacity", np.int64),
    ("block_table", np.int64),  # (b, pages) blocks of each sequence; 0 where each has one
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
    """Return how many tokens a sequence has; a length that nobody checked is cut to what there is room for."""
    return min(integer(work.lengths + 4 * batch), work.capacity) if work.lengths else work.capacity


@compiled_apart()
def load_rows(to, at, rows, width, together, factor):
    """Copy float32 rows, by a factor, to where `score` reads them:
    of each group of rows the first entries, the next ones, ...
    """
    each = LANES // together
    for row in range(rows):
        group, lane = row // together * together * padded(width), row % together * each
        for i in range(width):
            to[group + i // each * LANES + lane + i % each] = number(at + 4 * (row * width + i)) * factor


@inlined
def keys_of(split, splits, length, positions, window):
    """Return the keys begin..end of one of equal splits, in whole tiles, of what any query at these positions may see."""
    end = min(length, positions.max() + 1)
    begin = max(positions.min() - window + 1, 0)
    each = -(-max(end - begin, 0) // (splits * TILE)) * TILE
    begin = min(begin + split * each, end)
    return begin, min(begin + each, end)


@compiled_apart()
def hide(scores, key, count, together, positions, window):
    """Write -inf where a tile of `count` keys ends, and where a query stands before one or too far behind it.

    Args:
        scores: (rows, TILE), as `score` leaves them.
        key: the tile's first.
        positions: (t,) of the queries; row i is at positions[i % t].
        window: more than any distance where there is none.
    """
    for row in range(len(scores) // TILE):
        first, position = first_score(row, together), positions[row % len(positions)]
        for j in range(TILE):
            behind = position - (key + j)
            if j >= count or behind < 0 or behind >= window:
                scores[first + score_of(j, together)] = -np.inf


@inlined
def first_score(row, together):
    """Return where among a tile's scores a row's first one is."""
    return row // together * together * TILE + row % together * (LANES // together)


@inlined
def score_of(j, together):
    """Return how far behind a row's first score that of the tile's key j is: LANES / together keys share a vector."""
    return j * together - j % (LANES // together) * (together - 1)


@inlined
def place_of(token, work):
    """Return the page that holds a token, and the token's place in it."""
    if work.block_table:
        return token // work.size, token % work.size
    return 0, token


@inlined
def locate(at, base, strides, work, batch, head, start, count):
    """Find where the vectors of tokens start, start + 1, ... begin;
    after `count` of them the last one's, so that all can be read.

    Args:
        at: (TILE,) to be filled.
        base: where the first of all vectors begins.
        batch: the sequence, whose blocks lie anywhere.
    """
    i, (page, slot) = 0, place_of(start, work)
    while i < count:
        block = integer(work.block_table + 4 * (batch * work.pages + page)) if work.block_table else batch
        here = base + block * strides[0] + head * strides[1] + slot * strides[2]
        last = min(count, i + work.size - slot)
        for n in range(i, last):
            at[n] = here + (n - i) * strides[2]
        page, slot, i = page + 1, 0, last
    for n in range(count, TILE):
        at[n] = at[count - 1]


@inlined
def note_runs(runs, n, at, stream, work, start, first, last):
    """Note where vectors first, ..., last - 1 of a tile lie, for `ask`; return how many runs are noted.

    Args:
        runs: three places for what `ask` remembers, then begin and end of each run of bytes, flat.
        n: how many there are already.
        at: (TILE,) where the tile's vectors begin.
        start: the token of the first one.
    """
    i, (_, slot) = first, place_of(start + first, work)
    while i < last:
        together = min(last - i, work.size - slot) if stream.strides[2] == stream.nbytes else 1
        runs[3 + 2 * n], runs[4 + 2 * n] = at[i], at[i] + together * stream.nbytes
        n, i, slot = n + 1, i + together, slot + together
        if slot == work.size:
            slot = 0
    return n


@inlined
def move_on(at, next_at):
    """Let the next tile's vectors become this one's."""
    copy(address(at), address(next_at), 8 * TILE)


def _widening(codec: str, entries: Callable, narrower: int, times: float = 1.0) -> Callable:
    """Return what makes float32 of a tile of codes.

    Groups of whole vectors of LANES share a scale.

    Args:
        codec: how codes are called.
        entries: loads codes.
        narrower: how many times halved float32 is as wide as a code.
        times: factor on what is loaded.
    """

    @compiled_apart(codec)
    def widen(tile, at, scale_at, stream, count):
        each, zero = stream.width // stream.groups, stream.zero - stream.scale
        for i in range(count):
            to = address(tile) + 4 * i * stream.width
            for group in range(stream.groups):
                step, origin = fill(np.float32(times)), fill(np.float32(0.0))
                if stream.scale:
                    step = multiply(step, spread(scale_at[i] + 4 * group))
                if stream.zero:
                    origin = multiply(spread(scale_at[i] + zero + 4 * group), subtract(origin, step))
                for n in range(4 * group * each, 4 * (group + 1) * each, 4 * LANES):
                    store(to + n, multiply_add(entries(at[i] + (n >> narrower)), step, origin))

    return widen


widen_bfloat16, widen_float16 = _widening("bfloat16", load_bfloat16, 1), _widening("float16", load_float16, 1)
widen_int8, widen_int4 = _widening("int8", load_int8, 2), _widening("int4", load_int4, 3)
widen_fp8 = _widening("fp8", load_fp8, 2, 256.0)


@inlined
def widened(at, i, codec):
    """Return LANES entries from entry i on of a vector of codes, as float32, before scales."""
    if codec == INT8:
        return load_int8(at + i)
    if codec == INT4:
        return load_int4(at + i // 2)
    if codec == FP8:
        return multiply(load_fp8(at + i), fill(np.float32(256.0)))
    if codec == FLOAT16:
        return load_float16(at + 2 * i)
    if codec == BFLOAT16:
        return load_bfloat16(at + 2 * i)
    return load(at + 4 * i)


@compiled_apart()
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
def bring(at, tile, tile_at, scale_at, stream, count):
    """Bring vectors as float32, and return the address of their places:
    where they are stored otherwise they are widened into the tile.

    Args:
        at, scale_at: (TILE,) where the codes and scales of `count` vectors begin.
        tile: room for TILE vectors of padded width, which a near cache holds.
        tile_at: (TILE,) where each of them begins.
    """
    codec = stream.codec
    if stream.width // stream.groups % LANES != 0:
        widen_any(tile, at, scale_at, stream, count)
    elif codec == FLOAT32:
        return address(at)
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
    return address(tile_at)


@register_jitable
def padded(n, step=LANES):
    """Return n and as many more as make it whole steps: a width of whole vectors, say."""
    return n + -n % step


@inlined
def new_places():
    """Return room for where each vector of a tile begins."""
    return np.zeros(TILE, np.int64)


@inlined
def places_in(tile, width):
    """Return where each vector of a tile of this padded width begins."""
    return address(tile) + 4 * width * np.arange(TILE)


@inlined
def room(n):
    """Return room for n numbers that begins where a line of the cache does, so that a vector lies in one line."""
    numbers = np.empty(n + LINE // 4, np.float32)
    skipped = -(address(numbers) // 4) % (LINE // 4)
    return numbers[skipped : skipped + n]


@inlined
def begin_asking(runs, n):
    """Let `ask` begin with the first of n runs; return how many turns they take."""
    runs[0], runs[1], runs[2], runs[3 + 2 * n] = 0, 0, address(runs) + 24, 0
    turns = n
    for run in range(n):
        turns += (runs[4 + 2 * run] - runs[3 + 2 * run]) // (4 * LINE)
    return turns


@compiled_apart()
def ask(runs, turns):
    """Ask for more of the runs: four lines a turn, since a turn for each would cost more than what it asks for."""
    at, end = place(runs), place(runs + 8)
    for _ in range(turns):
        if end - at >= 4 * LINE:
            prefetch(at)
            prefetch(at + LINE)
            prefetch(at + 2 * LINE)
            prefetch(at + 3 * LINE)
            at += 4 * LINE
        else:
            for line in range(at, end, LINE):
                prefetch(line)
            run = place(runs + 16)
            at, end = place(run), place(run + 8)
            if at == 0:
                break
            store_place(runs + 16, run + 16)
    store_place(runs, at)
    store_place(runs + 8, end)


@compiled_apart()
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


def _phases(together: int) -> tuple[Callable, Callable, Callable]:
    """Return what is done with a tile where so many rows meet a key at once: `score`, `weigh` and `mix`."""
    each, rows_at_once, vector = LANES // together, min(together, ROWS), 4 * LANES
    no_products, add_part, add_parts, store_sums = products_of(together)
    keys_at_once, step = keys_of_block(together), parts_of_block(together) * each
    load_mixtures, add_mixtures, store_mixtures = mixtures_of(rows_at_once, 4 * each)
    largest = largest_of_each(together)

    @inlined
    def add_all_products(sums, q, keys, width, runs, turns):
        for i in range(0, width, step):
            ask(runs, turns)
            if i + step <= width:
                sums = add_parts(sums, q + 4 * together * i, keys, 4 * i)
            else:
                for n in range(i, width, each):
                    sums = add_part(sums, q + 4 * together * n, keys, 4 * n)
        return sums

    @compiled_apart(together)
    def score(scores, groups, q, keys, width, more_q, more_keys, more_width, runs, turns):
        pieces = TILE // keys_at_once * groups * (-(-width // step) - (-more_width // step))
        turns = -(-turns // pieces)
        for j in range(0, TILE, keys_at_once):
            for group in range(groups):
                row = 4 * group * together
                sums = add_all_products(no_products(), q + row * width, keys + 8 * j, width, runs, turns)
                sums = add_all_products(sums, more_q + row * more_width, more_keys + 8 * j, more_width, runs, turns)
                store_sums(scores + row * TILE + 4 * together * j, sums)

    @compiled_apart(together)
    def weigh(scores, groups, top, sums, acc, width):
        for group in range(groups):
            here, end = scores + 4 * TILE * together * group, scores + 4 * TILE * together * (group + 1)
            peaks = load(here)
            for at in range(here + vector, end, vector):
                peaks = at_least(peaks, load(at))
            before, summed = load(top + vector * group), load(sums + vector * group)
            highest = at_least(largest(peaks), before)
            if any_larger(highest, before):
                shrink = exp2(subtract(before, highest))
                summed = multiply(summed, shrink)
                store(top + vector * group, highest)
                store(sums + vector * group, shrink)  # where each row's factor is found
                for row in range(together):
                    factor = spread(sums + vector * group + 4 * each * row)
                    multiply_row(acc + 4 * width * (group * together + row), width, factor)
            for at in range(here, end, vector):
                weight = exp2(subtract(load(at), highest))
                store(at, weight)
                summed = add(summed, weight)
            store(sums + vector * group, summed)

    @compiled_apart(together)
    def mix(acc, groups, weights, values, count, width, runs, turns):
        rows, columns = groups * together, COLUMNS * LANES
        whole = width - width % columns
        pieces = TILE // FEW * (rows // rows_at_once * (whole // columns) * (FEW // KEYS) if whole > 0 else 1)
        turns = -(-turns // pieces)
        for first in range(0, count, FEW):
            last = min(first + FEW, count)
            if whole == 0:
                ask(runs, turns)
            for i in range(0, whole, columns):
                for row in range(0, rows, rows_at_once):
                    to, weight = acc + 4 * (row * width + i), weights + 4 * first_score(row, together)
                    mixed = load_mixtures(to, 4 * width)
                    for few in range(first, last, KEYS):
                        ask(runs, turns)
                        for n in range(few, min(few + KEYS, last)):
                            mixed = add_mixtures(
                                mixed, weight + 4 * score_of(n, together), place(values + 8 * n) + 4 * i
                            )
                    store_mixtures(to, 4 * width, mixed)
            for i in range(whole, width, LANES):
                for row in range(rows):
                    to, weight = acc + 4 * (row * width + i), weights + 4 * first_score(row, together)
                    mixed = load(to)
                    for n in range(first, last):
                        mixed = multiply_add(
                            spread(weight + 4 * score_of(n, together)), load(place(values + 8 * n) + 4 * i), mixed
                        )
                    store(to, mixed)

    return score, weigh, mix


def _by_number(functions: dict[int, Callable]) -> Callable:
    """Return a function of a number and of integers, which it gives to the number's function."""
    (number, function), *others = functions.items()
    names = function.py_func.__name__, *functions
    other = _by_number(dict(others)) if others else None

    @compiled_apart(*names)
    def last(_, integers):
        function(*integers)

    @compiled_apart(*names)
    def chosen(n, integers):
        if n == number:
            function(*integers)
        else:
            other(n, integers)

    return chosen if others else last


_TOGETHER = [2**i for i in range(LANES.bit_length())]
_score, _weigh, _mix = (
    _by_number(dict(zip(_TOGETHER, functions, strict=True))) for functions in zip(*map(_phases, _TOGETHER), strict=True)
)


def together_of(rows: int) -> int:
    """Return how many rows meet a key at once: the power of two that holds all, or a vector's lanes."""
    return min(LANES, 1 << (rows - 1).bit_length())


@inlined
def score(scores, q, keys, width, more_q, more_keys, more_width, together, runs, turns):
    """Write the products of all rows and a tile's keys; a key may be in two parts.

    Args:
        scores: (rows, TILE), flat: of each group of rows for the first keys, the next ones, ...
        q, more_q: rows, flat, as `load_rows` leaves them.
        keys, more_keys: address of where the addresses of keys' parts lie.
        width, more_width: padded, of each part.
        together: rows of a group.
        runs, turns: `ask` has so many meanwhile.
    """
    groups = len(scores) // (TILE * together)
    _score(
        together,
        (address(scores), groups, address(q), keys, width, address(more_q), more_keys, more_width, address(runs), turns),
    )  # fmt: skip


@inlined
def weigh(scores, top, sums, acc, width, together):
    """Take the online softmax's step: scores become weights, 2 ** (score - top), under the new top;
    what was summed before shrinks to it.

    Args:
        scores: (rows, TILE), flat, exponents to base 2; -inf where a query does not look.
        top: (groups, LANES), flat, each row's largest so far, LOWEST before any, in all of its lanes.
        sums: (groups, LANES), flat; those of a row's lanes add up to the sum of its weights under it.
        acc: (rows, width), flat, the mixture of values under it.
    """
    groups = len(scores) // (TILE * together)
    _weigh(together, (address(scores), groups, address(top), address(sums), address(acc), width))


@inlined
def mix(acc, weights, values, count, width, together, runs, turns):
    """Add to acc the mixture of a tile's values:
    what some rows mix of some of the entries stays in registers meanwhile.

    Args:
        acc: (rows, width), flat.
        weights: as `weigh` leaves them.
        values: address of where the addresses of values lie.
        count: of the tile's keys, those that exist: a weight of 0 times what may stand elsewhere could be NaN.
        runs, turns: as `score`.
    """
    groups = len(weights) // (TILE * together)
    _mix(together, (address(acc), groups, address(weights), values, count, width, address(runs), turns))


@compiled_apart()
def multiply_row(at, width, factor):
    """Multiply a row of numbers by what lies in all lanes of factor."""
    for here in range(at, at + 4 * width, 4 * LANES):
        store(here, multiply(load(here), factor))


@compiled_apart()
def finish(acc, top, sums, lse, width, together):
    """Divide the mixtures by the sum of weights, and write log-sum-exps to base 2;
    a query that saw nothing gets zeros and -inf.
    """
    each = LANES // together
    for row in range(len(lse)):
        first = row // together * LANES + row % together * each
        summed = np.float32(0.0)
        for i in range(first, first + each):
            summed += sums[i]
        lse[row] = top[first] + np.log2(summed)
        share = np.float32(1.0) / summed if summed != 0 else np.float32(0.0)
        multiply_row(address(acc) + 4 * row * width, width, fill(share))


def in_threads(kernel: ctypes._CFuncPtr, work: int) -> None:
    """Run the kernel on this work in as many threads as PyTorch uses, which take item after item.

    PyTorch's own threads: for a while after their last work they spin, and would slow down others.

    Args:
        kernel: compiled.
        work: address of a record of the kernel's type.
    """
    threads, parallel = torch.get_num_threads(), _openmp()
    if threads > 1 and parallel is not None:
        parallel(kernel, work, threads, 0)
    else:
        others = [threading.Thread(target=kernel, args=(work,)) for _ in range(threads - 1)]
        for other in others:
            other.start()
        kernel(work)
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
    """Return x as a kernel reads integers: of 32 bits, one after another."""
    return None if x is None else x.to(torch.int32).contiguous()


def numbers(x: Tensor) -> Tensor:
    """Return x as a kernel reads queries: float32, one after another."""
    return x if x.dtype == torch.float32 and x.is_contiguous() else x.float().contiguous()


class Step:
    """A step is a kernel and its work, of which all is decided but where the tensors are.

    Between splits and their merge it has buffers of its own, so its runs follow one another.

    Args:
        kernel: what `compiled` made.
        dtype: the record that it takes, with the fields of STEP.
        sequences, splits, rows, width: sequences times key/value heads; parts of each; query rows, their width.
        fields: the record's others, but for addresses.
    """

    def __init__(
        self,
        kernel: Callable[[], ctypes._CFuncPtr],
        dtype: np.dtype,
        *,
        sequences: int,
        splits: int,
        rows: int,
        width: int,
        **fields: int | float | tuple,
    ):
        together = together_of(rows)
        empty = functools.partial(torch.empty, dtype=torch.float32, device="cpu")  # begins where a cache line does
        self.kernel, self.sequences, self.places = kernel(), sequences, _places(dtype)
        self.counters = np.zeros(2 + sequences, np.int64)
        self.buffers = parts, part_lse = (
            empty(sequences * splits, padded(rows, together), padded(width)),
            empty(sequences * splits, padded(rows, together)),
        )
        work, counters = np.zeros(1, dtype), self.counters.ctypes.data
        fields |= dict(
            next=counters, merged=counters + 8, finished=counters + 16, sequences=sequences, splits=splits, rows=rows,
            together=together, width=width, parts=parts.data_ptr(), part_lse=part_lse.data_ptr(),
        )  # fmt: skip
        for name, x in fields.items():
            work[name] = x
        self.words = work.view(np.int64)
        self.address = self.words.ctypes.data

    def run(self, **tensors: Tensor | None) -> None:
        """Run the kernel on tensors, by the names of the fields that hold their addresses,
        and of a STREAM's codes, scales and zeros as `k`, `k_scale`, `k_zero`.

        Raises:
            MemoryError: a thread had no room for a tile.
        """
        self.counters.fill(0)
        for name, x in tensors.items():
            self.words[self.places[name]] = address_of(x)
        in_threads(self.kernel, self.address)
        done = self.counters[1]
        if done < self.sequences:
            raise MemoryError(f"a thread had no room for its tiles: {done} of {self.sequences} sequences were done")


@functools.cache
def _places(dtype: np.dtype) -> dict[str, int]:
    """Return in which word of a record each field is, and of streams codes, scale and zero."""
    places = {}
    for name, (kind, offset, *_) in dtype.fields.items():
        if kind == STREAM:
            inside = {which: (offset + place) // 8 for which, (_, place, *_) in STREAM.fields.items()}
            places |= {name: inside["codes"], f"{name}_scale": inside["scale"], f"{name}_zero": inside["zero"]}
        else:
            places[name] = offset // 8
    return places


@inlined
def part_of(work, item):
    """Return an item's mixture (rows * width) and log-sum-exps (rows,), of padded rows and widths."""
    rows = padded(work.rows, work.together)
    numbers = rows * padded(work.width)
    part = carray(pointer(work.parts + 4 * item * numbers), numbers, np.float32)
    return part, carray(pointer(work.part_lse + 4 * item * rows), rows, np.float32)


@inlined
def hand_in(work, item):
    """Mark the item as done; where it was the last one of its sequence's, all of them are merged."""
    sequence = item // work.splits
    if take(work.finished + 8 * sequence) == work.splits - 1:
        merge(work, sequence)
        take(work.merged)


@compiled_apart()
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
