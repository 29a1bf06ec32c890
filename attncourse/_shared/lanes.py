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

FLOAT, INT = ir.FloatType(), ir.IntType(32)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)
# Of a product and the sum after it one instruction may be made.
FUSED = ("contract",)


class Vector(types.Type):
    """LANES numbers in a register; in compiled code alone."""

    def __init__(self):
        super().__init__(name=f"float32 x {LANES}")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOATS)


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
        loaded = builder.load(_vector_address(context, builder, array, *args))
        loaded.align = 4
        return loaded

    return vector(array, types.intp), generate


@intrinsic
def store(typing_context, array, index, x):
    """array[index], array[index + 1], ... = x, at an index that is not checked."""

    def generate(context, builder, signature, args):
        stored = builder.store(args[2], _vector_address(context, builder, array, *args[:2]))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


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


@intrinsic
def add(typing_context, x, y):
    """x + y."""

    def generate(context, builder, signature, args):
        return builder.fadd(*args)

    return vector(vector, vector), generate


@intrinsic
def subtract(typing_context, x, y):
    """x - y."""

    def generate(context, builder, signature, args):
        return builder.fsub(*args)

    return vector(vector, vector), generate


@intrinsic
def multiply(typing_context, x, y):
    """x * y."""

    def generate(context, builder, signature, args):
        return builder.fmul(*args)

    return vector(vector, vector), generate


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
