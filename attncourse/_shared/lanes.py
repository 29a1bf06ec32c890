"""Vectors of float32 numbers for kernels that numba compiles: what a processor adds and multiplies in one instruction.

Such a vector has LANES numbers, each in a lane of its own; what is done to it is done to all of them. Where a processor's
registers are narrower, the compiler cuts it. Numba's own loops become vectors where LLVM finds how, along one axis and with
sums across lanes at the end. Here the kernel says what lies in the lanes, and nothing is ever summed across them.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8
# Vectors of a block, which with one more and a number in every lane fill the registers that all processors have.
ROWS = 8

FLOAT, INT = ir.FloatType(), ir.IntType(32)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)
BLOCK = ir.ArrayType(FLOATS, ROWS)
BYTES, HALVES = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(16), LANES)
# Of a product and the sum after it one instruction may be made.
FUSED = ("contract",)


class Vector(types.Type):
    """LANES numbers in a register; in compiled code alone."""

    def __init__(self):
        super().__init__(name=f"float32 x {LANES}")


class Block(types.Type):
    """ROWS vectors in as many registers; in compiled code alone."""

    def __init__(self):
        super().__init__(name=f"{ROWS} x float32 x {LANES}")


vector, block = Vector(), Block()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOATS)


@register_model(Block)
class _BlockModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, BLOCK)


def _address(context, builder, kind, array, index):
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _vector_address(context, builder, kind, array, index):
    return builder.bitcast(_address(context, builder, kind, array, index), FLOATS.as_pointer())


def _in_all_lanes(builder, x):
    nothing = ir.Constant(FLOATS, ir.Undefined)
    first = builder.insert_element(nothing, x, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(INTS, [0] * LANES))


@intrinsic
def load(typing_context, array, index):
    """The numbers from array[index] on, an index that is not checked."""

    def generate(context, builder, signature, args):
        return _load(context, builder, array, *args, FLOATS)

    return vector(array, types.intp), generate


def _load(context, builder, kind, array, index, dtype):
    """A vector of this dtype from array[index] on, wherever that stands in a line."""
    loaded = builder.load(builder.bitcast(_address(context, builder, kind, array, index), dtype.as_pointer()))
    loaded.align = 1
    return loaded


def _from_half(builder, bits):
    """Bits of float16 numbers as float32."""
    return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), LANES)), FLOATS)


@intrinsic
def load_int8(typing_context, codes, at):
    """Integers of 8 bits from the byte codes[at] on."""

    def generate(context, builder, signature, args):
        return builder.sitofp(_load(context, builder, codes, *args, BYTES), FLOATS)

    return vector(codes, types.intp), generate


@intrinsic
def load_int4(typing_context, codes, at):
    """Integers of 4 bits from the byte codes[at] on; a byte's low half comes first."""

    def generate(context, builder, signature, args):
        half = ir.VectorType(ir.IntType(8), LANES // 2)
        both = _load(context, builder, codes, *args, half)
        low = builder.and_(both, ir.Constant(half, [15] * (LANES // 2)))
        high = builder.lshr(both, ir.Constant(half, [4] * (LANES // 2)))
        turns = [i // 2 + i % 2 * (LANES // 2) for i in range(LANES)]
        return builder.uitofp(builder.shuffle_vector(low, high, ir.Constant(INTS, turns)), FLOATS)

    return vector(codes, types.intp), generate


@intrinsic
def load_bfloat16(typing_context, codes, at):
    """Numbers of bfloat16, the upper halves of float32, from the byte codes[at] on."""

    def generate(context, builder, signature, args):
        bits = builder.zext(_load(context, builder, codes, *args, HALVES), INTS)
        return builder.bitcast(builder.shl(bits, ir.Constant(INTS, [16] * LANES)), FLOATS)

    return vector(codes, types.intp), generate


@intrinsic
def load_float16(typing_context, codes, at):
    """Numbers of float16 from the byte codes[at] on."""

    def generate(context, builder, signature, args):
        return _from_half(builder, _load(context, builder, codes, *args, HALVES))

    return vector(codes, types.intp), generate


@intrinsic
def load_fp8(typing_context, codes, at):
    """Numbers of float8_e4m3fn from the byte codes[at] on.

    Exponent and mantissa, moved to where float16 has them, say 1 / 256 of the number, since the exponents' biases differ by
    8; but the largest code is no number.
    """

    def generate(context, builder, signature, args):
        def all_lanes(n):
            return ir.Constant(HALVES, [n] * LANES)

        bits = builder.zext(_load(context, builder, codes, *args, BYTES), HALVES)
        size = builder.and_(bits, all_lanes(0x7F))
        sign = builder.shl(builder.and_(bits, all_lanes(0x80)), all_lanes(8))
        half = builder.or_(sign, builder.shl(size, all_lanes(7)))
        number = builder.fmul(_from_half(builder, half), ir.Constant(FLOATS, [256.0] * LANES))
        none = builder.icmp_unsigned("==", size, all_lanes(0x7F))
        return builder.select(none, ir.Constant(FLOATS, [float("nan")] * LANES), number)

    return vector(codes, types.intp), generate


@intrinsic
def store(typing_context, array, index, x):
    """array[index], array[index + 1], ... = x, at an index that is not checked."""

    def generate(context, builder, signature, args):
        stored = builder.store(args[2], _vector_address(context, builder, array, *args[:2]))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def load_block(typing_context, array, index):
    """The numbers from array[index] on, vector by vector."""

    def generate(context, builder, signature, args):
        base, rows = _vector_address(context, builder, array, *args), ir.Constant(BLOCK, ir.Undefined)
        for n in range(ROWS):
            loaded = builder.load(builder.gep(base, [ir.Constant(INT, n)]))
            loaded.align = 4
            rows = builder.insert_value(rows, loaded, n)
        return rows

    return block(array, types.intp), generate


@intrinsic
def store_block(typing_context, array, index, rows):
    """array[index], array[index + 1], ... = the numbers of the vectors, one after another."""

    def generate(context, builder, signature, args):
        base = _vector_address(context, builder, array, *args[:2])
        for n in range(ROWS):
            address = builder.gep(base, [ir.Constant(INT, n)])
            builder.store(builder.extract_value(args[2], n), address).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, block), generate


def _add_products(builder, rows, addresses, x):
    """Each vector of a block plus x times the number at an address."""
    for n, address in enumerate(addresses):
        product = builder.fmul(_in_all_lanes(builder, builder.load(address)), x, flags=FUSED)
        row = builder.fadd(builder.extract_value(rows, n), product, flags=FUSED)
        rows = builder.insert_value(rows, row, n)
    return rows


@intrinsic
def add_products(typing_context, rows, array, index, x):
    """rows[n] + array[index + n] * x: one vector, which meets ROWS neighbours in memory."""

    def generate(context, builder, signature, args):
        rows, memory, index, x = args
        base = _address(context, builder, array, memory, index)
        return _add_products(builder, rows, [builder.gep(base, [ir.Constant(INT, n)]) for n in range(ROWS)], x)

    return block(block, array, types.intp, vector), generate


@intrinsic
def add_products_at(typing_context, rows, array, at, first, offset, x):
    """rows[n] + array[at[first + n] + offset] * x: one vector, which meets a number of each of ROWS vectors in memory."""

    def generate(context, builder, signature, args):
        rows, memory, places, first, offset, x = args
        base = _address(context, builder, at, places, first)
        begins = [builder.load(builder.gep(base, [ir.Constant(INT, n)])) for n in range(ROWS)]
        data = _address(context, builder, array, memory, offset)
        return _add_products(builder, rows, [builder.gep(data, [begin]) for begin in begins], x)

    return block(block, array, at, types.intp, types.intp, vector), generate


@intrinsic
def spread(typing_context, array, index):
    """array[index] in every lane, at an index that is not checked."""

    def generate(context, builder, signature, args):
        return _in_all_lanes(builder, builder.load(_address(context, builder, array, *args)))

    return vector(array, types.intp), generate


@intrinsic
def fill(typing_context, x):
    """A number in every lane."""

    def generate(context, builder, signature, args):
        return _in_all_lanes(builder, args[0])

    return vector(types.float32), generate


@intrinsic
def multiply_add(typing_context, x, y, z):
    """x * y + z, rounded once where the processor can."""

    def generate(context, builder, signature, args):
        x, y, z = args
        return builder.fadd(builder.fmul(x, y, flags=FUSED), z, flags=FUSED)

    return vector(vector, vector, vector), generate


def _of_two(operation):
    """What an instruction makes of two vectors."""

    def generate(context, builder, signature, args):
        return operation(builder, *args)

    return vector(vector, vector), generate


@intrinsic
def add(typing_context, x, y):
    """x + y."""

    return _of_two(ir.IRBuilder.fadd)


@intrinsic
def subtract(typing_context, x, y):
    """x - y."""

    return _of_two(ir.IRBuilder.fsub)


@intrinsic
def multiply(typing_context, x, y):
    """x * y."""

    return _of_two(ir.IRBuilder.fmul)


@intrinsic
def at_least(typing_context, x, low):
    """The larger of x and low in each lane; x where it is NaN."""

    def generate(context, builder, signature, args):
        x, low = args
        return builder.select(builder.fcmp_ordered("<", x, low), low, x)

    return vector(vector, vector), generate


@intrinsic
def nearest(typing_context, x):
    """The whole number next to x, a tie to the even one."""

    def generate(context, builder, signature, args):
        name, kind = f"llvm.nearbyint.v{LANES}f32", ir.FunctionType(FLOATS, [FLOATS])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return vector(vector), generate


@intrinsic
def two_to(typing_context, n):
    """2 ** n of whole numbers -127 < n < 128, as the exponent of a float; 0 of -127."""

    def generate(context, builder, signature, args):
        exponent = builder.add(builder.fptosi(args[0], INTS), ir.Constant(INTS, [127] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(INTS, [23] * LANES)), FLOATS)

    return vector(vector), generate


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for the cache line in which array[index] lies, and go on."""

    def generate(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        address = builder.bitcast(_address(context, builder, array, *args), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        # to read, to be kept in the nearest cache, data
        builder.call(function, [address, ir.Constant(INT, 0), ir.Constant(INT, 3), ir.Constant(INT, 1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
