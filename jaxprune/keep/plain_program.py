"""A traced program as plain operations: without calls, names of variables and sizes of the batch.

What only moves values into another shape is left out, since JAX adds and drops it as it likes, for
example where the batch is one. What remains is the same for every batch, in every process, and as
far as can be in every version of JAX.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.program import jaxpr
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op, Program
from jaxprune.program.rules import RULES
from jaxprune.program.rules.axis_map import keeps_order
from jaxprune.program.traits import Form, Trait

BATCH = "*"
"""What follows the size of the batch."""

_DROPPED = frozenset(
    "accuracy body_nconsts cond_nconsts ctx_mesh num_carry num_consts out_sharding sharding unroll "
    "weak_type".split()
)
_NAMES = {
    "window_strides": "strides",
    "rhs_dilation": "dilation",
    "lhs_dilation": "input dilation",
    "feature_group_count": "groups",
    "batch_group_count": "batch groups",
    "preferred_element_type": "dtype",
    "dimension_numbers": "axes",
    "new_dtype": "dtype",
}
"""The parameter of a primitive -> what it is called here."""
_ENTRIES = 2**16


class Operation(NamedTuple):
    """One operation.

    reads: the operands, each a variable, an input, a constant, or (segment, operation).
    kernels: the variables that alone make an operand.
    """

    name: str
    parameters: dict[str, Any]
    reads: list[Any]
    kernels: tuple[str, ...]
    place: str


class _Value(NamedTuple):
    """A value: in words, and the variables that alone make it, None if inputs do too."""

    words: Any
    sources: frozenset[str] | None


class Reader:
    """Reads the operations of a program; contractions begin a new segment."""

    def __init__(self) -> None:
        self.segments: list[list[Operation]] = [[]]

    def read(self, program: Program, variables: Sequence[str]) -> "Reader":
        """Reads a whole program, the variables of which come first."""
        inputs = range(len(program.invars) - len(variables))
        values = [_Value(path, frozenset({path})) for path in variables]
        values += [_Value(f"input {i}", None) for i in inputs]
        results = self.program(program, values, "")
        self.segments[-1].append(Operation("results", {}, [r.words for r in results], (), ""))
        return self

    def program(self, program: Program, values: Sequence[_Value], scope: str) -> list[_Value]:
        """Reads a program whose inputs are `values`; returns its results."""
        known = dict(zip(program.invars, values, strict=True))
        for var, value in zip(program.constvars, program.consts, strict=True):
            known[var] = _Value(f"constant {constant(value)}", frozenset())

        def of(atom: Any) -> _Value:
            if jaxpr.is_literal(atom):
                return _Value(scalar(jaxpr.literal(atom)), frozenset())
            return known[atom]

        for eqn in program.eqns:
            op = Op(eqn, scope, rules=RULES)
            results = self.operation(op, [*map(of, eqn.invars)])
            known.update(zip(eqn.outvars, results, strict=True))
        return [*map(of, program.outvars)]

    def operation(self, op: Op, values: list[_Value]) -> list[_Value]:
        """Reads an operation and the programs that it calls; returns its results."""
        inner, scope = jaxpr.programs(op.eqn), jaxpr.join(op.eqn, op.scope)
        if op.form is not None and op.form.calls:
            return self.program(inner[0], values, scope)
        if keeps_order(op):
            return values[:1]
        number = self.add(op, values, scope)
        for program, operands, _ in jaxpr.calls(op.eqn):
            given = [self.handed(op, number, i, values[i]) for i in operands]
            results = self.program(program, given, scope)
            end = Operation("end", {}, [result.words for result in results], (), scope)
            self.segments[-1].append(end)
        sources = [value.sources for value in values]
        both = None if None in sources else frozenset().union(*filter(None, sources))
        return [_Value(f"{number} {i}", both) for i in range(len(op.out_shapes))]

    def handed(self, op: Op, number: str, i: int, value: _Value) -> _Value:
        """Operand `i` of a loop or a branch, inside of it: a step has another carry."""
        first, last = _carry(op)
        words = f"{number} operand {i}"
        return _Value(words, None if first <= i < last else value.sources)

    def add(self, op: Op, values: list[_Value], scope: str) -> str:
        """Adds an operation; returns its number."""
        kernels = [value.sources for value in values if value.sources]
        operation = Operation(
            op.name,
            dict(_parameters(op)),
            [value.words for value in values],
            tuple(sorted(frozenset().union(*kernels))) if Trait.CONTRACTS in op.traits else (),
            scope,
        )
        self.segments[-1].append(operation)
        number = f"{len(self.segments)}.{len(self.segments[-1])}"
        if Trait.CONTRACTS in op.traits:
            self.segments.append([])
        return number


def _carry(op: Op) -> tuple[int, int]:
    if op.form not in (Form.SCAN, Form.WHILE):
        return 0, 0
    first, carry = steps(op)
    return first, first + carry


def _parameters(op: Op) -> Iterator[tuple[str, Any]]:
    for key, value in sorted(op.params.items()):
        if key not in _DROPPED and (plain := _plain(value)) is not None:
            yield _NAMES.get(key, key.replace("_", " ")), plain


def _plain(value: Any) -> Any:
    """A JSON value, None for what says nothing of the network."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, tuple | list):
        return [*map(_plain, value)]
    return scalar(value) if isinstance(value, bool | int | float | str | np.generic) else None


def scalar(value: Any) -> Any:
    """Returns a scalar as JSON has it, floats to six digits; of random state only what it is."""
    if isinstance(value, str) or value is None:
        return value
    value = np.asarray(value)
    if value.ndim or value.dtype.kind == "u":
        return constant(value)
    if value.dtype.kind in "bi":
        return value.item()
    if value.dtype.kind == "c":
        return str(value)
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)


def constant(value: Any) -> str:
    """Returns a digest of an array of the function; of random state only what it is."""
    if jnp.issubdtype(value.dtype, jax.dtypes.extended) or value.dtype.kind == "u":
        return "random state"
    array = np.asarray(value).reshape(-1)
    return digest([str(array.dtype), array[:: 1 + array.size // _ENTRIES].tobytes().hex()])


def digest(value: Any) -> str:
    """Returns a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def without_batch(ours: Any, theirs: Any) -> Any:
    """Returns a JSON value, in which what differs from that at another batch is `BATCH`."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return {key: without_batch(value, theirs[key]) for key, value in ours.items()}
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [without_batch(a, b) for a, b in zip(ours, theirs, strict=True)]
    return ours if type(ours) is type(theirs) and ours == theirs else BATCH
