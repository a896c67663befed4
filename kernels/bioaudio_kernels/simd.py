"""Eight float32 lanes as one value inside numba kernels.

Numba vectorises a loop only if LLVM can prove that its arrays do not overlap, which it cannot in a kernel
with ten of them. Here the vectors are explicit: they never depend on a compiler's luck, accumulators stay in
registers, and every sum has one fixed order. LLVM splits the lanes where a machine's registers are narrower.

Operators `+ - * /` work between lanes, and between lanes and a float32, which then counts in every lane;
`-` also before lanes.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

LANES = 8
_INT = ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(_INT, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Float32Lanes(types.Type):
    """Numba's type of the eight lanes."""

    def __init__(self) -> None:
        super().__init__(name="Float32Lanes")


_lanes = Float32Lanes()


@register_model(Float32Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _FLOATS)


_register: Any = infer_global


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    pairs = [(_lanes, _lanes), (_lanes, types.float32), (types.float32, _lanes)]
    cases = [signature(_lanes, *pair) for pair in pairs]
    _register(symbol)(type("_LanesTemplate", (ConcreteTemplate,), {"cases": cases}))

    def lower(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        first, second = (_spread(builder, operand) for operand in operands)
        return getattr(builder, instruction)(first, second)

    for pair in pairs:
        lower_builtin(symbol, *pair)(lower)


def _spread(builder: Any, value: Any) -> Any:
    """The value itself if it is lanes already, else a scalar in every lane."""
    if value.type == _FLOATS:
        return value
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_symbol, _instruction)


@_register(operator.neg)
class _Negation(ConcreteTemplate):
    cases = [signature(_lanes, _lanes)]  # noqa: RUF012  (numba reads it from the class)


@lower_builtin(operator.neg, _lanes)
def _negate(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
    return builder.fneg(operands[0])


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to the lanes that start at array[index]."""
    data = context.make_array(kind)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


def _lane_function(define: Callable[..., Any]) -> Any:
    # A typechecking import hook may have wrapped the function; numba needs the function itself.
    return intrinsic(inspect.unwrap(define))


@_lane_function
def load(typingctx, array, index):
    """The lanes array[index : index + 8]; array is contiguous float32. Bounds are the caller's."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature.args[0], *arguments), align=4)

    return _lanes(array, types.intp), generate


@_lane_function
def store(typingctx, array, index, value):
    """Write lanes to array[index : index + 8]."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        builder.store(value, _address(context, builder, signature.args[0], array, index), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes), generate


@_lane_function
def prefetch(typingctx, array, index):
    """Ask for the cache line of array[index] ahead of its use; an index beyond the end does no harm."""

    def generate(context, builder, signature, arguments):
        bytes_pointer = ir.IntType(8).as_pointer()
        address = _address(context, builder, signature.args[0], *arguments)
        kind = ir.FunctionType(ir.VoidType(), [bytes_pointer, _INT, _INT, _INT])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [builder.bitcast(address, bytes_pointer), _INT(0), _INT(2), _INT(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@_lane_function
def splat(typingctx, value):
    """A float32 in every lane."""

    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0])

    return _lanes(types.float32), generate


@_lane_function
def splat_at(typingctx, array, index):
    """array[index] in every lane, without numba's handling of negative indices."""

    def generate(context, builder, signature, arguments):
        array, index = arguments
        data = context.make_array(signature.args[0])(context, builder, value=array).data
        return _spread(builder, builder.load(builder.gep(data, [index]), align=4))

    return _lanes(array, types.intp), generate


@_lane_function
def fma(typingctx, first, second, third):
    """first * second + third with one rounding, where the machine can."""

    def generate(context, builder, signature, arguments):
        operands = [_spread(builder, argument) for argument in arguments]
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        function = get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, operands)

    return _lanes(first, second, third), generate


@_lane_function
def total(typingctx, value):
    """Sum of the lanes, halves first."""

    def generate(context, builder, signature, arguments):
        (value,) = arguments
        width = LANES
        while width > 1:
            width //= 2
            lower = ir.Constant(ir.VectorType(_INT, width), list(range(width)))
            upper = ir.Constant(ir.VectorType(_INT, width), list(range(width, 2 * width)))
            value = builder.fadd(
                builder.shuffle_vector(value, value, lower), builder.shuffle_vector(value, value, upper)
            )
        return builder.extract_element(value, _INT(0))

    return types.float32(_lanes), generate


@_lane_function
def masked_load(typingctx, array, index, count):
    """`load` of the first `count` lanes, zeros after them; reads nothing beyond."""

    def generate(context, builder, signature, arguments):
        array, index, count = arguments
        address = _address(context, builder, signature.args[0], array, index)
        kind = ir.FunctionType(_FLOATS, [address.type, _INT, _MASK, _FLOATS])
        function = get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0v{LANES}f32")
        zeros = ir.Constant(_FLOATS, [0.0] * LANES)
        return builder.call(function, [address, _INT(4), _first_lanes(builder, count), zeros])

    return _lanes(array, types.intp, types.intp), generate


@_lane_function
def masked_store(typingctx, array, index, value, count):
    """`store` of the first `count` lanes; writes nothing beyond."""

    def generate(context, builder, signature, arguments):
        array, index, value, count = arguments
        address = _address(context, builder, signature.args[0], array, index)
        kind = ir.FunctionType(ir.VoidType(), [_FLOATS, address.type, _INT, _MASK])
        function = get_or_insert_function(
            builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0v{LANES}f32"
        )
        builder.call(function, [value, address, _INT(4), _first_lanes(builder, count)])
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes, types.intp), generate


def _first_lanes(builder: Any, count: Any) -> Any:
    """A mask of the lanes below `count`."""
    first = builder.insert_element(ir.Constant(_INTS, ir.Undefined), builder.trunc(count, _INT), _INT(0))
    counts = builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(_INTS, list(range(LANES))), counts)


@_lane_function
def at_least(typingctx, value, floor):
    """The larger of a lane and a float32; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        value, floor = (_spread(builder, argument) for argument in arguments)
        return builder.select(builder.fcmp_ordered("<", value, floor), floor, value)

    return _lanes(_lanes, types.float32), generate


@_lane_function
def where_negative(typingctx, value, then, otherwise):
    """Lane by lane: `then` where value < 0, else `otherwise`."""

    def generate(context, builder, signature, arguments):
        value, then, otherwise = (_spread(builder, argument) for argument in arguments)
        return builder.select(
            builder.fcmp_ordered("<", value, _spread(builder, ir.FloatType()(0.0))), then, otherwise
        )

    return _lanes(_lanes, then, otherwise), generate


@_lane_function
def add_to_exponent(typingctx, value, shifted):
    """value * 2^k, where `shifted` is k + 1.5 * 2^23, so that k stands in its low bits; overflow wraps."""

    def generate(context, builder, signature, arguments):
        value, shifted = (builder.bitcast(argument, _INTS) for argument in arguments)
        exponent = builder.shl(shifted, ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(value, exponent), _FLOATS)

    return _lanes(_lanes, _lanes), generate


@_lane_function
def negated_if_odd(typingctx, value, shifted):
    """value * (-1)^k, where `shifted` is k + 1.5 * 2^23, so that k stands in its low bits."""

    def generate(context, builder, signature, arguments):
        value, shifted = (builder.bitcast(argument, _INTS) for argument in arguments)
        sign = builder.shl(shifted, ir.Constant(_INTS, [31] * LANES))
        return builder.bitcast(builder.xor(value, sign), _FLOATS)

    return _lanes(_lanes, _lanes), generate
