"""Vectors of float32 numbers for kernels that numba compiles: what a processor adds and multiplies in one instruction.

Such a vector has LANES numbers, each in a lane of its own; what is done to it is done to all of them. Numba's own loops become
vectors where LLVM finds how. Here the kernel says what lies in the lanes, and which vectors stay in registers. Memory is named
by its address, in bytes, as a Triton kernel names it by pointers: nobody checks it.
"""

from collections.abc import Callable

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

# What a register holds: of AVX-512 sixteen numbers, of AVX2 eight. Where it holds four, the compiler takes two.
LANES = 16 if get_host_cpu_features().get("avx512f") else 8
# AVX-512 has 32 registers, others 16. At most half of them hold sums: what these are made of has to be there, too.
KEYS = 8  # whose products are summed at once: as many sums hide how long one takes
PARTS = LANES  # vectors of queries that stay there while these keys are multiplied, at most
ROWS = LANES // 4  # mixtures that meet a value while it is in a register
COLUMNS = 4  # vectors of a value that are mixed at once

FLOAT, INT = ir.FloatType(), ir.IntType(32)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)
BYTES, HALVES = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(16), LANES)
# Of a product and the sum after it one instruction may be made.
FUSED = ("contract",)


class Vector(types.Type):
    """A vector is LANES numbers in a register; it exists in compiled code alone."""

    def __init__(self):
        super().__init__(name=f"float32 x {LANES}")


class Block(types.Type):
    """A block is some vectors in as many registers; it exists in compiled code alone."""

    def __init__(self, vectors):
        super().__init__(name=f"{vectors} x float32 x {LANES}")
        self.vectors = vectors


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOATS)


@register_model(Block)
class _BlockModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(FLOATS, kind.vectors))


def _pointer(builder, at, kind):
    return builder.inttoptr(at, kind.as_pointer())


def _load(builder, at, kind=FLOATS):
    """Return what lies at an address, wherever that stands in a line."""
    loaded = builder.load(_pointer(builder, at, kind))
    loaded.align = 1
    return loaded


def _store(builder, at, x):
    builder.store(x, _pointer(builder, at, x.type)).align = 1


def _plus(builder, at, nbytes):
    """Return the address so many bytes further on."""
    return builder.add(at, ir.Constant(at.type, nbytes))


def _behind(builder, at, vectors):
    """Return the address some vectors further on."""
    return _plus(builder, at, 4 * LANES * vectors)


def _in_all_lanes(builder, x):
    nothing = ir.Constant(FLOATS, ir.Undefined)
    first = builder.insert_element(nothing, x, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(INTS, [0] * LANES))


@intrinsic
def address(typing_context, array):
    """Return where an array's first number lies."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.intp(array), generate


@intrinsic
def number(typing_context, at):
    """Return the float32 number at an address."""

    def generate(context, builder, signature, args):
        return _load(builder, *args, FLOAT)

    return types.float32(types.intp), generate


@intrinsic
def store_number(typing_context, at, x):
    """Write a float32 number to an address."""

    def generate(context, builder, signature, args):
        _store(builder, *args)
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), generate


@intrinsic
def integer(typing_context, at):
    """Return the integer of 32 bits at an address."""

    def generate(context, builder, signature, args):
        return builder.sext(_load(builder, *args, INT), ir.IntType(64))

    return types.int64(types.intp), generate


@intrinsic
def place(typing_context, at):
    """Return the address that stands at an address."""

    def generate(context, builder, signature, args):
        return _load(builder, *args, ir.IntType(64))

    return types.intp(types.intp), generate


@intrinsic
def store_place(typing_context, at, x):
    """Write an address to an address."""

    def generate(context, builder, signature, args):
        _store(builder, *args)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def take(typing_context, at):
    """Return the integer of 64 bits at an address, which grows by 1:
    no two threads get the same; what they wrote before is seen.
    """

    def generate(context, builder, signature, args):
        kind = ir.IntType(64)
        return builder.atomic_rmw("add", _pointer(builder, *args, kind), ir.Constant(kind, 1), "acq_rel")

    return types.int64(types.intp), generate


@intrinsic
def pointer(typing_context, at):
    """Return an address as `numba.carray` takes it."""

    def generate(context, builder, signature, args):
        return _pointer(builder, *args, ir.IntType(8))

    return types.voidptr(types.intp), generate


@intrinsic
def copy(typing_context, to, at, nbytes):
    """Copy so many bytes from one address to another."""

    def generate(context, builder, signature, args):
        to, at, nbytes = args
        byte = ir.IntType(8)
        cgutils.raw_memcpy(builder, _pointer(builder, to, byte), _pointer(builder, at, byte), nbytes, 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic
def load(typing_context, at):
    """Return LANES numbers of float32 that begin at an address."""

    def generate(context, builder, signature, args):
        return _load(builder, *args)

    return vector(types.intp), generate


def _from_half(builder, bits):
    """Return float16 numbers, given as bits, as float32."""
    return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), LANES)), FLOATS)


@intrinsic
def load_int8(typing_context, at):
    """Return LANES integers of 8 bits that begin at an address."""

    def generate(context, builder, signature, args):
        return builder.sitofp(_load(builder, *args, BYTES), FLOATS)

    return vector(types.intp), generate


@intrinsic
def load_int4(typing_context, at):
    """Return LANES integers of 4 bits that begin at an address; a byte's low half comes first."""

    def generate(context, builder, signature, args):
        half = ir.VectorType(ir.IntType(16), LANES // 2)
        both = builder.zext(_load(builder, *args, ir.VectorType(ir.IntType(8), LANES // 2)), half)
        # A byte's high half moves on to a byte of its own.
        apart = builder.or_(both, builder.shl(both, ir.Constant(half, [4] * (LANES // 2))))
        alone = builder.and_(apart, ir.Constant(half, [0x0F0F] * (LANES // 2)))
        return builder.sitofp(builder.bitcast(alone, BYTES), FLOATS)

    return vector(types.intp), generate


@intrinsic
def load_bfloat16(typing_context, at):
    """Return LANES numbers of bfloat16, the upper halves of float32, that begin at an address."""

    def generate(context, builder, signature, args):
        bits = builder.zext(_load(builder, *args, HALVES), INTS)
        return builder.bitcast(builder.shl(bits, ir.Constant(INTS, [16] * LANES)), FLOATS)

    return vector(types.intp), generate


@intrinsic
def load_float16(typing_context, at):
    """Return LANES numbers of float16 that begin at an address."""

    def generate(context, builder, signature, args):
        return _from_half(builder, _load(builder, *args, HALVES))

    return vector(types.intp), generate


@intrinsic
def load_fp8(typing_context, at):
    """Return a 256th of LANES numbers of float8_e4m3fn that begin at an address.

    Exponent and mantissa, moved to where float16 has them, say that, since the exponents' biases differ by 8; but the
    largest code is no number.
    """

    def generate(context, builder, signature, args):
        def all_lanes(n):
            return ir.Constant(HALVES, [n] * LANES)

        bits = builder.sext(_load(builder, *args, BYTES), HALVES)
        half = builder.and_(builder.shl(bits, all_lanes(7)), all_lanes(0xBFFF))  # of two bits of sign the first
        none = builder.icmp_unsigned("==", builder.and_(half, all_lanes(0x7FFF)), all_lanes(0x7F << 7))
        return _from_half(builder, builder.select(none, all_lanes(0x7E00), half))

    return vector(types.intp), generate


@intrinsic
def store(typing_context, at, x):
    """Write a vector's numbers, from an address on."""

    def generate(context, builder, signature, args):
        _store(builder, *args)
        return context.get_dummy_value()

    return types.void(types.intp, vector), generate


def _vectors(builder, block, n):
    return [builder.extract_value(block, i) for i in range(n)]


def _block(builder, vectors):
    block = ir.Constant(ir.ArrayType(FLOATS, len(vectors)), ir.Undefined)
    for i, x in enumerate(vectors):
        block = builder.insert_value(block, x, i)
    return block


def _plus_product(builder, total, x, y):
    return builder.fadd(total, builder.fmul(x, y, flags=FUSED), flags=FUSED)


def _repeated(builder, at, n):
    """Return the n numbers from an address on, again and again until all lanes have one."""
    numbers = _load(builder, at, ir.VectorType(FLOAT, n))
    turns = ir.Constant(INTS, [i % n for i in range(LANES)])
    return builder.shuffle_vector(numbers, ir.Constant(numbers.type, ir.Undefined), turns)


def keys_of_block(together: int) -> int:
    """Return with how many keys the queries that meet a key `together` are multiplied at once."""
    return max(KEYS, LANES // together)


def parts_of_block(together: int) -> int:
    """Return how many parts of a key queries that meet it `together` are multiplied with before the next key's:
    memory is read fastest in its order, and LANES entries are of one line of a cache.
    """
    return min(4 * together, PARTS)


def products_of(together: int) -> tuple[Callable, ...]:
    """Return what is done with a block of products of so many queries that meet a key at once: a function begins it
    with zeros, one adds a part of each key, one several parts, and one writes the sums.

    A vector has LANES / together neighbouring entries of each query: query 0's first. A part of a key, as many
    entries, is repeated for each of them; so every instruction multiplies LANES entries, however few queries there are.

    Args:
        together: 1, 2, 4, ... or LANES; of LANES each lane is a query.
    """
    each, keys_at_once = LANES // together, keys_of_block(together)
    products = Block(keys_at_once)

    @intrinsic
    def no_products(typing_context):
        """Return zeros, to which products are added."""

        def generate(context, builder, signature, args):
            return _block(builder, [ir.Constant(FLOATS, [0.0] * LANES)] * keys_at_once)

        return products(), generate

    def adding(parts):
        @intrinsic
        def add_products(typing_context, block, q, keys, offset):
            """Return the block plus products of parts of queries and keys: a vector of sums for each key.

            Args:
                q: where vectors of queries lie.
                keys: where the addresses of keys lie.
                offset: of the parts in keys, in bytes.
            """

            def generate(context, builder, signature, args):
                block, q, keys, offset = args
                queries = [_load(builder, _behind(builder, q, i)) for i in range(parts)]
                sums = _vectors(builder, block, keys_at_once)
                for n in range(keys_at_once):
                    part = builder.add(_load(builder, _plus(builder, keys, 8 * n), ir.IntType(64)), offset)
                    for i, query in enumerate(queries):
                        entries = _repeated(builder, _plus(builder, part, 4 * each * i), each)
                        sums[n] = _plus_product(builder, sums[n], entries, query)
                return _block(builder, sums)

            return products(products, types.intp, types.intp, types.intp), generate

        return add_products

    @intrinsic
    def store_sums(typing_context, at, block):
        """Write the sums for `each` keys to a vector, for the next ones to the next:
        of query 0 with each key, of query 1, ...
        """

        def generate(context, builder, signature, args):
            at, block = args
            vectors = _vectors(builder, block, keys_at_once)
            for i in range(keys_at_once // each):
                _store(builder, _behind(builder, at, i), _sums(builder, vectors[i * each : (i + 1) * each]))
            return context.get_dummy_value()

        return types.void(types.intp, products), generate

    return no_products, adding(1), adding(parts_of_block(together)), store_sums


def _sums(builder, vectors):
    """Return in each run of as many lanes as there are vectors the sums over these lanes, in the vectors' order.

    Half of a run's lanes in a vector and half in another are put into one, and the other halves, and both are added:
    one vector has what was in two. So with each half as many vectors hold sums of half as many lanes each.
    """
    lanes = len(vectors) // 2
    while len(vectors) > 1:
        low = [s + x + i for s in range(0, LANES, 2 * lanes) for x in (0, LANES) for i in range(lanes)]
        firsts, seconds = ir.Constant(INTS, low), ir.Constant(INTS, [i + lanes for i in low])
        pairs = zip(vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :], strict=True)
        vectors = [
            builder.fadd(builder.shuffle_vector(x, y, firsts), builder.shuffle_vector(x, y, seconds)) for x, y in pairs
        ]
        lanes //= 2
    return vectors[0]


def mixtures_of(rows: int, apart: int) -> tuple[Callable, Callable, Callable]:
    """Return three functions for a block of mixtures, COLUMNS vectors of each of so many rows: one reads it, one adds
    a value by each row's weight, one writes it.

    Args:
        rows: of the block.
        apart: bytes from a row's weight to the next one's.
    """
    mixtures = Block(rows * COLUMNS)

    @intrinsic
    def load_mixtures(typing_context, at, stride):
        """Return COLUMNS vectors of each row, which are `stride` bytes apart."""

        def generate(context, builder, signature, args):
            at, stride = args
            vectors = []
            for _ in range(rows):
                vectors += [_load(builder, _behind(builder, at, i)) for i in range(COLUMNS)]
                at = builder.add(at, stride)
            return _block(builder, vectors)

        return mixtures(types.intp, types.intp), generate

    @intrinsic
    def add_mixtures(typing_context, block, weights, v):
        """Return the block plus COLUMNS vectors of a value by a weight of each row."""

        def generate(context, builder, signature, args):
            block, weights, v = args
            sums = _vectors(builder, block, mixtures.vectors)
            values = [_load(builder, _behind(builder, v, i)) for i in range(COLUMNS)]
            for n in range(rows):
                weight = _in_all_lanes(builder, _load(builder, _plus(builder, weights, apart * n), FLOAT))
                for i, value in enumerate(values, n * COLUMNS):
                    sums[i] = _plus_product(builder, sums[i], weight, value)
            return _block(builder, sums)

        return mixtures(mixtures, types.intp, types.intp), generate

    @intrinsic
    def store_mixtures(typing_context, at, stride, block):
        """Write what `load_mixtures` reads."""

        def generate(context, builder, signature, args):
            at, stride, block = args
            vectors = iter(_vectors(builder, block, mixtures.vectors))
            for _ in range(rows):
                for i in range(COLUMNS):
                    _store(builder, _behind(builder, at, i), next(vectors))
                at = builder.add(at, stride)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, mixtures), generate

    return load_mixtures, add_mixtures, store_mixtures


def largest_of_each(together: int) -> Callable:
    """Return what finds the largest of a vector's LANES / together neighbouring numbers, in all of their lanes."""
    each = LANES // together

    @intrinsic
    def largest(typing_context, x):
        """Return, in each lane, the largest of its neighbours and itself; which one is not said where one is NaN."""

        def generate(context, builder, signature, args):
            (x,), lanes = args, each
            while lanes > 1:
                lanes //= 2
                others = ir.Constant(INTS, [i ^ lanes for i in range(LANES)])
                x = _larger(builder, x, builder.shuffle_vector(x, x, others))
            return x

        return vector(vector), generate

    return largest


def _larger(builder, x, y):
    return builder.select(builder.fcmp_ordered("<", x, y), y, x)


@intrinsic
def any_larger(typing_context, x, y):
    """Return whether x is larger than y in any lane."""

    def generate(context, builder, signature, args):
        lanes = builder.fcmp_ordered(">", *args)
        bits = builder.bitcast(lanes, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(vector, vector), generate


@intrinsic
def spread(typing_context, at):
    """Return the float32 number at an address, in every lane."""

    def generate(context, builder, signature, args):
        return _in_all_lanes(builder, _load(builder, *args, FLOAT))

    return vector(types.intp), generate


@intrinsic
def fill(typing_context, x):
    """Return a vector with a number in every lane."""

    def generate(context, builder, signature, args):
        return _in_all_lanes(builder, args[0])

    return vector(types.float32), generate


@intrinsic
def multiply_add(typing_context, x, y, z):
    """Return x * y + z, rounded once where the processor can."""

    def generate(context, builder, signature, args):
        x, y, z = args
        return _plus_product(builder, z, x, y)

    return vector(vector, vector, vector), generate


def _of_two(operation):
    """Return what an instruction makes of two vectors."""

    def generate(context, builder, signature, args):
        return operation(builder, *args)

    return vector(vector, vector), generate


@intrinsic
def add(typing_context, x, y):
    """Return x + y."""

    return _of_two(ir.IRBuilder.fadd)


@intrinsic
def subtract(typing_context, x, y):
    """Return x - y."""

    return _of_two(ir.IRBuilder.fsub)


@intrinsic
def multiply(typing_context, x, y):
    """Return x * y."""

    return _of_two(ir.IRBuilder.fmul)


@intrinsic
def at_least(typing_context, x, low):
    """Return the larger of x and low in each lane; x where it is NaN."""

    def generate(context, builder, signature, args):
        return _larger(builder, *args)

    return vector(vector, vector), generate


@intrinsic
def nearest(typing_context, x):
    """Return the whole number next to x, a tie to the even one."""

    def generate(context, builder, signature, args):
        name, kind = f"llvm.nearbyint.v{LANES}f32", ir.FunctionType(FLOATS, [FLOATS])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return vector(vector), generate


@intrinsic
def two_to(typing_context, n):
    """Return 2 ** n of whole numbers -127 < n < 128, as the exponent of a float; 0 of -127."""

    def generate(context, builder, signature, args):
        exponent = builder.add(builder.fptosi(args[0], INTS), ir.Constant(INTS, [127] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(INTS, [23] * LANES)), FLOATS)

    return vector(vector), generate


@intrinsic
def prefetch(typing_context, at):
    """Ask for the cache line at an address, and go on."""

    def generate(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        pointer = _pointer(builder, args[0], ir.IntType(8))
        # to read, to be kept in the second cache, data
        builder.call(function, [pointer, ir.Constant(INT, 0), ir.Constant(INT, 2), ir.Constant(INT, 1)])
        return context.get_dummy_value()

    return types.void(types.intp), generate
