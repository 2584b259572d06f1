"""Elementwise ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ExportError
from ..graph import Graph
from ..rule import RULES, Rule, first, option, output_dtype, rule
from ..runs import Call, described


def _meeting(call: Call) -> np.dtype:
    """The dtype in which NumPy computes with a call's inputs: Python numbers decide nothing."""
    values = [operand.value for operand in call.inputs if operand.value is not None]
    return np.result_type(*(value.dtype if isinstance(value, np.ndarray) else value for value in values))


def _cast_back(graph: Graph, call: Call, name: str, dtype: Any) -> str:
    return name if np.dtype(dtype) == output_dtype(call) else graph.cast(call, name, output_dtype(call))


# ---- what ONNX has by a name of its own


def _one(kind: str) -> Rule:
    return lambda graph, call: graph.node(call, kind, first(graph, call))


def _two(kind: str) -> Rule:
    def made(graph: Graph, call: Call) -> str:
        dtype = _meeting(call)
        names = [graph.array(call, operand, dtype) for operand in call.inputs[:2]]
        return _cast_back(graph, call, graph.node(call, kind, *names), dtype)

    return made


def _question(kind: str, inverted: bool = False) -> Rule:
    """An operator whose answer is a boolean."""

    def made(graph: Graph, call: Call) -> str:
        dtype = _meeting(call)
        answer = graph.node(call, kind, *(graph.array(call, operand, dtype) for operand in call.inputs))
        return graph.node(call, "Not", answer) if inverted else answer

    return made


def _logical(kind: str) -> Rule:
    return lambda graph, call: graph.node(call, kind, *(graph.array(call, x, np.bool_) for x in call.inputs))


ONE = {
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "log": "Log", "sin": "Sin",
    "cos": "Cos", "tan": "Tan", "sinh": "Sinh", "cosh": "Cosh", "asin": "Asin", "acos": "Acos", "atan": "Atan",
    "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "erf": "Erf", "sign": "Sign", "floor": "Floor", "ceil": "Ceil",
    "round": "Round", "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh",
}  # fmt: skip
TWO = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min"}
QUESTIONS = {
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "isnan": "IsNaN",
    "isinf": "IsInf",
}  # fmt: skip
LOGICAL = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor", "logical_not": "Not"}
BITWISE = {"bitwise_and": ("And", "BitwiseAnd"), "bitwise_or": ("Or", "BitwiseOr"), "bitwise_xor": ("Xor", "BitwiseXor"),
           "bitwise_not": ("Not", "BitwiseNot")}  # fmt: skip

RULES.update({name: _one(kind) for name, kind in ONE.items()})
RULES.update({name: _two(kind) for name, kind in TWO.items()})
RULES.update({name: _question(kind) for name, kind in QUESTIONS.items()})
RULES.update({name: _logical(kind) for name, kind in LOGICAL.items()})
RULES["ne"] = _question("Equal", inverted=True)


def _bitwise(boolean: str, whole: str) -> Rule:
    def made(graph: Graph, call: Call) -> str:
        names = [graph.array(call, operand, output_dtype(call)) for operand in call.inputs]
        if output_dtype(call) != np.bool_ and graph.opset < 18:
            raise ExportError(f"{described(call)}: integers bit by bit need opset_version=18")
        return graph.node(call, boolean if output_dtype(call) == np.bool_ else whole, *names)

    return made


RULES.update({name: _bitwise(*kinds) for name, kinds in BITWISE.items()})


# ---- formulas


class Formula:
    """Writes elementwise formulas over names of one dtype: ``f.add(x, 1)`` adds the nodes and returns the name."""

    def __init__(self, graph: Graph, call: Call, dtype: Any = None) -> None:
        self.graph, self.call, self.dtype = graph, call, dtype or output_dtype(call)

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        word = "".join(part[:1].upper() + part[1:] for part in kind.split("_"))
        return lambda *values, **attributes: self.graph.node(self.call, word, *map(self.name, values), **attributes)

    def name(self, value: Any) -> str:
        """A name as it is, a number as a constant."""
        return value if isinstance(value, str) else self.graph.constant(value, self.dtype)

    def where(self, condition: str, yes: Any, no: Any) -> str:
        """``yes`` where the condition holds."""
        return self.graph.node(self.call, "Where", condition, self.name(yes), self.name(no))


def formula(*names: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """A rule for ops of one input, written as ``function(f, x, call)``."""

    def enter(function: Callable[..., str]) -> Callable[..., str]:
        for name in names:
            RULES[name] = lambda graph, call: function(Formula(graph, call), first(graph, call), call)
        return function

    return enter


def number(call: Call, name: str, default: float) -> float:
    """A number among the attributes."""
    return float(option(call, name, 1, default))


formula("expm1")(lambda f, x, call: f.sub(f.exp(x), 1))
formula("exp2")(lambda f, x, call: f.exp(f.mul(x, math.log(2))))
formula("log1p")(lambda f, x, call: f.log(f.add(x, 1)))
formula("log2")(lambda f, x, call: f.div(f.log(x), math.log(2)))
formula("log10")(lambda f, x, call: f.div(f.log(x), math.log(10)))
formula("rsqrt")(lambda f, x, call: f.reciprocal(f.sqrt(x)))
formula("erfc")(lambda f, x, call: f.sub(1, f.erf(x)))
formula("trunc")(lambda f, x, call: f.mul(f.sign(x), f.floor(f.abs(x))))
formula("silu")(lambda f, x, call: f.mul(x, f.sigmoid(x)))
formula("log_sigmoid")(lambda f, x, call: f.neg(f.softplus(f.neg(x))))
formula("hardswish")(lambda f, x, call: f.mul(x, f.hard_sigmoid(x, alpha=1 / 6, beta=0.5)))
formula("mish")(lambda f, x, call: f.mul(x, f.tanh(f.softplus(x))))
formula("leaky_relu")(lambda f, x, call: f.leaky_relu(x, alpha=number(call, "negative_slope", 0.01)))
formula("elu")(lambda f, x, call: f.elu(x, alpha=number(call, "alpha", 1.0)))


def gelu_tanh(f: Formula, x: str) -> str:
    """GELU by tanh."""
    inner = f.mul(f.add(x, f.mul(f.mul(f.mul(x, x), x), 0.044715)), math.sqrt(2 / math.pi))
    return f.mul(f.mul(x, 0.5), f.add(f.tanh(inner), 1))


@formula("gelu")
def _gelu(f: Formula, x: str, call: Call) -> str:
    if option(call, "approximate", 1, "none") == "tanh":
        return gelu_tanh(f, x)
    return f.mul(f.mul(x, 0.5), f.add(f.erf(f.mul(x, 1 / math.sqrt(2))), 1))


@formula("softplus")
def _softplus(f: Formula, x: str, call: Call) -> str:
    beta, threshold = number(call, "beta", 1.0), float(option(call, "threshold", 2, 20.0))
    scaled = f.mul(x, beta) if beta != 1 else x
    soft = f.div(f.softplus(scaled), beta) if beta != 1 else f.softplus(scaled)
    return f.where(f.greater(scaled, threshold), x, soft)


@formula("clamp", "hardtanh")
def _clamp(f: Formula, x: str, call: Call) -> str:
    low, high = option(call, "low", 1), option(call, "high", 2)
    return f.clip(x, "" if low is None else low, *([] if high is None else [high]))


@rule("isfinite")
def _isfinite(graph: Graph, call: Call) -> str:
    x = graph.array(call, call.inputs[0])
    wrong = graph.node(call, "Or", graph.node(call, "IsNaN", x), graph.node(call, "IsInf", x))
    return graph.node(call, "Not", wrong)


@rule("where")
def _where(graph: Graph, call: Call) -> str:
    dtype = output_dtype(call)
    condition = graph.array(call, call.inputs[0], np.bool_)
    yes, no = (graph.array(call, operand, dtype) for operand in call.inputs[1:])
    if dtype != np.bool_:
        return graph.node(call, "Where", condition, yes, no)
    kept = graph.node(call, "And", condition, yes)  # onnxruntime has no Where of booleans
    return graph.node(call, "Or", kept, graph.node(call, "And", graph.node(call, "Not", condition), no))


@rule("floor_divide", "remainder", "fmod")
def _division(graph: Graph, call: Call) -> str:
    f = Formula(graph, call)
    a, b = (graph.array(call, operand, f.dtype) for operand in call.inputs)
    if call.op == "fmod":
        return f.mod(a, b, fmod=1)
    if np.dtype(f.dtype).kind == "f":
        quotient = f.floor(f.div(a, b))
        return quotient if call.op == "floor_divide" else f.sub(a, f.mul(quotient, b))
    rest = f.mod(a, b)
    return rest if call.op == "remainder" else f.div(f.sub(a, rest), b)


# ---- formulas of two


def formula_of_two(*names: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """A rule for ops of two inputs, written as ``function(f, a, b)``."""

    def enter(function: Callable[..., str]) -> Callable[..., str]:
        def made(graph: Graph, call: Call) -> str:
            a, b = (graph.array(call, operand, output_dtype(call)) for operand in call.inputs[:2])
            return function(Formula(graph, call), a, b)

        RULES.update(dict.fromkeys(names, made))
        return function

    return enter


formula("sinc")(lambda f, x, call: f.where(f.equal(x, 0), 1, f.div(f.sin(f.mul(x, math.pi)), f.mul(x, math.pi))))
formula_of_two("hypot")(lambda f, a, b: f.sqrt(f.add(f.mul(a, a), f.mul(b, b))))
formula_of_two("xlogy")(lambda f, a, b: f.where(f.equal(a, 0), 0, f.mul(a, f.log(b))))
formula_of_two("copysign")(lambda f, a, b: f.mul(f.abs(a), f.where(f.less(b, 0), -1, 1)))
formula_of_two("logaddexp")(lambda f, a, b: f.add(f.max(a, b), f.log(f.add(f.exp(f.neg(f.abs(f.sub(a, b)))), 1))))
formula_of_two("heaviside")(lambda f, a, b: f.where(f.equal(a, 0), b, f.where(f.less(a, 0), 0, 1)))


@formula_of_two("atan2")
def _atan2(f: Formula, a: str, b: str) -> str:
    beside = f.where(f.less(a, 0), -math.pi / 2, f.where(f.greater(a, 0), math.pi / 2, 0))
    flat = f.atan(f.div(a, b))
    behind = f.add(flat, f.where(f.less(a, 0), -math.pi, math.pi))
    return f.where(f.equal(b, 0), beside, f.where(f.less(b, 0), behind, flat))


@rule("fmax", "fmin")
def _without_nan(graph: Graph, call: Call) -> str:
    f = Formula(graph, call)
    a, b = (graph.array(call, operand, f.dtype) for operand in call.inputs)
    extreme = f.max(a, b) if call.op == "fmax" else f.min(a, b)
    if np.dtype(f.dtype).kind != "f":
        return extreme
    return f.where(f.is_naN(a), b, f.where(f.is_naN(b), a, extreme))


@rule("isposinf", "isneginf")
def _one_infinity(graph: Graph, call: Call) -> str:
    positive = int(call.op == "isposinf")
    x = graph.array(call, call.inputs[0])
    return graph.node(call, "IsInf", x, detect_positive=positive, detect_negative=1 - positive)


@rule("signbit")
def _signbit(graph: Graph, call: Call) -> str:
    return graph.node(call, "Less", graph.array(call, call.inputs[0]), graph.constant(0, call.inputs[0].value.dtype))


# ---- dtype and copy


@rule("cast")
def _cast(graph: Graph, call: Call) -> str:
    return first(graph, call)


@rule("clone", "to_device")
def _clone(graph: Graph, call: Call) -> str:
    return graph.array(call, call.inputs[0])
