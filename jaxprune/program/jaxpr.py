"""The only contact with JAX's jaxpr types: programs and equations in our own small terms.

Everything that differs between JAX versions is evened out here: closed and open jaxprs, the names
of call primitives, the parameters of `scan`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core, source_info_util
from jax.interpreters import ad, batching, mlir

from jaxprune.program import collection
from jaxprune.program.traits import NOTHING, Form, Trait


class Program(NamedTuple):
    """A jaxpr: input variables, constants, equations, outputs (variables or literals)."""

    invars: Sequence[Any]
    constvars: Sequence[Any]
    consts: Sequence[Any]
    eqns: Sequence[Any]
    outvars: Sequence[Any]


# Primitives that only call a jaxpr: the name in one JAX or another -> (our name, parameter).
_CALLS = {
    "jit": ("jit", "jaxpr"),
    "pjit": ("jit", "jaxpr"),
    "closed_call": ("closed_call", "call_jaxpr"),
    "core_call": ("closed_call", "call_jaxpr"),
    "eval_jaxpr": ("closed_call", "call_jaxpr"),
    "custom_jvp_call": ("custom_jvp_call", "call_jaxpr"),
    "custom_vjp_call": ("custom_vjp_call", "call_jaxpr"),
    "custom_vjp_call_jaxpr": ("custom_vjp_call", "call_jaxpr"),
    "checkpoint": ("remat", "jaxpr"),
    "remat": ("remat", "jaxpr"),
    "remat2": ("remat", "jaxpr"),
    "remat_opt": ("closed_call", "fwd_jaxpr"),
    "shard_map": ("shard_map", "jaxpr"),
}
_REMOVED = "removed"
# What is read of their other parameters: the name in one JAX or another -> our name.
_CALL_KEYS = {
    key: key for key in ("policy", "prevent_cse", "mesh", "in_specs", "out_specs", "check_vma")
} | {"manual_axes": "manual_axes", "newly_manual_axes": "manual_axes"}


def trace(fn: Callable[..., Any], *args: Any, **keywords: Any) -> tuple[Program, Any]:
    """Returns the program of `fn` at arrays or shapes, and the tree of output shapes."""
    args, keywords = jax.tree.map(_in_use, (args, keywords))
    # A new function each time: JAX would return a cached program, and skip method interceptors.
    make = jax.make_jaxpr(lambda *xs, **named: fn(*xs, **named), return_shape=True)
    with collection.held_off():
        closed, shapes = make(*args, **keywords)
    return program(closed), shapes


def current_trace() -> Any:
    """Returns what is equal all over one trace, and another value inside of a `jit` in it."""
    return core.get_opaque_trace_state()


def _in_use(leaf: Any) -> Any:
    """A shape of 64-bit host arrays where JAX works in 32 bits: as it would convert the arrays."""
    shape = isinstance(leaf, jax.ShapeDtypeStruct)
    if not shape or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    return leaf if dtype == leaf.dtype else leaf.update(dtype=dtype)


def program(jaxpr: Any) -> Program:
    """Returns any JAX's open or closed jaxpr as a `Program`."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    consts = getattr(jaxpr, "consts", ())
    return Program(inner.invars, inner.constvars, consts, inner.eqns, inner.outvars)


def is_literal(atom: Any) -> bool:
    """True if an equation's operand is a literal."""
    return isinstance(atom, core.Literal)


def literal(atom: Any) -> Any:
    """Returns the value of a literal, None for a variable."""
    return atom.val if isinstance(atom, core.Literal) else None


def scalar(atom: Any) -> bool | int | float | complex | None:
    """Returns the number of a literal; None for an array, a key or a variable."""
    value = literal(atom)
    if value is None or np.ndim(value) or jnp.issubdtype(atom.aval.dtype, jax.dtypes.extended):
        return None
    return np.asarray(value).item()


def shape(atom: Any) -> tuple[int, ...]:
    """Returns the shape of an operand or a result; values without one are scalars."""
    return getattr(atom.aval, "shape", ())


def reads_others(program: Program) -> bool:
    """True if a program reads values of another one, which it can only have closed over."""
    return any(isinstance(value, Tracer) for value in program.consts)


def is_concrete(value: Any) -> bool:
    """True of a JAX array of numbers that can be read here and now."""
    numbers = isinstance(value, jax.Array) and not isinstance(value, Tracer)
    return numbers and value.is_fully_addressable and isinstance(value.dtype, np.dtype)


def draws_alone(keys: Any) -> bool:
    """True if every one of `keys` draws by itself: of a batch of other keys one draws for all."""
    return str(keys.aval.dtype) == "key<fry>"


def closed_over(eqn: Any) -> int:
    """Returns how many leading operands a function with its own derivative only closes over."""
    return eqn.params.get("num_consts", 0)


def has_effects(eqn: Any) -> bool:
    """Returns whether an equation does more than give results, such as to print."""
    return bool(eqn.effects)


def name(eqn: Any) -> str:
    """Returns the name of the primitive, one name for all JAX versions."""
    given = eqn.primitive.name
    return _CALLS[given][0] if given in _CALLS else given


def params(eqn: Any) -> dict[str, Any]:
    """Returns the parameters, with every jaxpr as a `Program` and `scan` in one form."""
    given = eqn.primitive.name
    values = eqn.params
    if given in _CALLS:
        return {"program": program(values[_CALLS[given][1]])} | {
            ours: values[theirs] for theirs, ours in _CALL_KEYS.items() if theirs in values
        }
    if given == "scan":
        return _scan(values)
    if given == "while":
        return values | {key: program(values[key]) for key in ("cond_jaxpr", "body_jaxpr")}
    if given == "cond":
        return {"branches": tuple(program(branch) for branch in values["branches"])}
    return values


def _scan(values: dict[str, Any]) -> dict[str, Any]:
    if "ft_in" in values:
        consts, carry, _ = map(len, values["ft_in"].unpack())
    else:
        consts, carry = values["num_consts"], values["num_carry"]
    same = {key: values[key] for key in ("length", "reverse", "unroll")}
    return same | {"program": program(values["jaxpr"]), "num_consts": consts, "num_carry": carry}


def programs(eqn: Any) -> list[Program]:
    """Returns the programs that an equation calls, in the order in which rules walk them."""
    values = params(eqn)
    if "branches" in values:
        return list(values["branches"])
    keys = ("program", "cond_jaxpr", "body_jaxpr")
    return [values[key] for key in keys if isinstance(values.get(key), Program)]


def calls(eqn: Any) -> list[tuple[Program, Sequence[int], Sequence[Any]]]:
    """Returns (program, operands, results) of every program that an equation calls.

    `operands` are the positions of what the equation hands to the program, `results` for every
    result of the program the variable of the equation that it becomes, None for a condition or the
    carry of a loop, which the next step reads.
    Functions with derivatives of their own are left out: those may read what the function does not.
    """
    values = params(eqn)
    if name(eqn).startswith("custom_"):
        return []
    if "branches" in values:
        return [(b, range(1, len(eqn.invars)), eqn.outvars) for b in values["branches"]]
    if "body_jaxpr" in values:
        n, m = values["cond_nconsts"], values["body_nconsts"]
        carry = range(n + m, len(eqn.invars))
        test = (values["cond_jaxpr"], [*range(n), *carry], [None])
        return [test, (values["body_jaxpr"], [*range(n, n + m), *carry], [None] * len(carry))]
    inner = [item for item in values.values() if isinstance(item, Program)]
    carried = values.get("num_carry", 0)
    results = [None] * carried + list(eqn.outvars[carried:])
    return [(item, range(len(eqn.invars)), results) for item in inner]


def with_operands(eqn: Any, atoms: Sequence[Any]) -> Any:
    """Returns an equation that reads other values, of the same shapes."""
    return eqn.replace(invars=list(atoms))


def with_program(eqn: Any, changed: Program) -> Any:
    """Returns an equation whose one program has other equations and results."""
    given = eqn.primitive.name
    key = _CALLS[given][1] if given in _CALLS else "jaxpr"
    before = eqn.params[key]
    inner = getattr(before, "jaxpr", before)
    after = inner.replace(eqns=list(changed.eqns), outvars=list(changed.outvars))
    whole = after if inner is before else before.replace(jaxpr=after)
    return eqn.replace(params={**eqn.params, key: whole})


def zeros(shape: Sequence[int], dtype: Any) -> jax.Array:
    """Returns zeros in the place of a value that was removed; `is_removed` knows them."""
    with jax.named_scope(_REMOVED):
        return jax.lax.broadcast(np.zeros((), dtype), tuple(shape))


def is_removed(eqn: Any) -> bool:
    """True if an equation makes what `zeros` gave."""
    return _REMOVED in str(eqn.source_info.name_stack).split("/")


def place(eqn: Any, scope: str) -> str:
    """Returns the module path of an equation; outside of modules, the file and line."""
    return join(eqn, scope) or source_info_util.summarize(eqn.source_info)


def join(eqn: Any, scope: str) -> str:
    """Returns the name stack of an equation behind that of the equations around it."""
    stack = str(eqn.source_info.name_stack)
    return f"{scope}/{stack}" if scope and stack else scope or stack


def context(eqn: Any) -> AbstractContextManager[Any]:
    """Returns the context of an equation, to be entered where it is evaluated: its mesh."""
    entered = getattr(eqn, "ctx", None)
    return nullcontext() if entered is None else entered.manager


def bind(eqn: Any, args: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """Applies the equation's primitive to `args` with `params`; always returns a list."""
    bound = eqn.primitive.get_bind_params(params)
    subfuns, params = bound if isinstance(bound, tuple) else ((), bound)
    out = eqn.primitive.bind(*subfuns, *args, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def evaluated(eqns: Sequence[Any], given: Mapping[Any, Any]) -> list[np.ndarray]:
    """Returns what equations make of given values, now: the results of the last one."""
    known, outs = dict(given), list[Any]()
    with jax.ensure_compile_time_eval():
        for eqn in eqns:
            read = (literal(x) if is_literal(x) else known[x] for x in eqn.invars)
            outs = bind(eqn, [*map(jnp.asarray, read)], eqn.params)
            known.update(zip(eqn.outvars, outs, strict=True))
    return [*map(np.asarray, outs)]


class Op:
    """An equation as the rules see it.

    `ins` and `outs` hold a list of axis spaces per operand and result; `sources` which variables
    an operand is computed from, None for one that depends on the inputs; `of` and `points` what the
    operands and the results point into (`pointers.Of`); `inner` the walks of the
    programs that the operation calls; `caller` the operation whose program this one is part of;
    `rule` what is known of its primitive, None if nothing is; `static` what is known of the values
    of its program.
    """

    __slots__ = (
        "caller", "eqn", "inner", "ins", "name", "of", "out_shapes", "outs", "params", "points",
        "rule", "scope", "sources", "static", "tracer",
    )  # fmt: skip

    def __init__(
        self,
        eqn: Any,
        scope: str = "",
        ins: Sequence[Any] = (),
        sources: Sequence[Any] = (),
        caller: "Op | None" = None,
        tracer: Any = None,
        rules: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.eqn = eqn
        self.name = name(eqn)
        self.rule: Any = rules.get(self.name)
        self.params = params(eqn)
        self.scope = scope
        self.ins = ins
        self.sources = sources
        self.out_shapes = [shape(atom) for atom in eqn.outvars]
        self.outs: list[Any] = []
        self.of: Sequence[Any] = [None] * len(eqn.invars)
        self.points: Sequence[Any] = [None] * len(eqn.outvars)
        self.inner: list[Any] = []
        self.caller = caller
        self.tracer = tracer
        self.static: Any = None

    def call(self, program: Any, ins: Any, sources: Any, repeats: int = 1) -> Any:
        """Walks an inner program, or every branch of several; returns the axes of the results."""
        return self.tracer.call(self, program, ins, sources, repeats)

    def record(self, **fields: Any) -> None:
        """Reports a contraction, or the free axes of a `table` that is indexed."""
        self.tracer.record(self, **fields)

    def value(self, operand: int) -> np.ndarray | None:
        """Returns the integers of an operand, None if they depend on an input of the program."""
        return self.static and self.static.value(self.eqn.invars[operand])

    @property
    def traits(self) -> Trait:
        """What the primitive does with values."""
        return NOTHING if self.rule is None else self.rule.traits

    @property
    def form(self) -> Form | None:
        """How the operation runs the programs that it holds."""
        return None if self.rule is None else self.rule.form

    @property
    def around(self) -> tuple["Op", ...]:
        """The operations whose programs this one is part of, outermost first."""
        return () if self.caller is None else (*self.caller.around, self.caller)

    @property
    def scans(self) -> tuple["Op", ...]:
        """The scans in whose bodies this one stands, outermost first."""
        return tuple(op for op in self.around if op.form is Form.SCAN)

    @property
    def place(self) -> str:
        """The module path of the operation; outside of modules, the file and line."""
        return place(self.eqn, self.scope) or (self.caller.place if self.caller else "")

    def __repr__(self) -> str:
        shapes = ", ".join(str(list(shape(atom))) for atom in self.eqn.invars)
        return f"{self.name}({shapes}) -> {', '.join(str(list(s)) for s in self.out_shapes)}"


SELECT_INPUTS = core.Primitive("select_inputs")
"""Marks where a reader of a stream keeps its own channels; takes `indices` if there are any."""


def _take(x: Any, *, axis: int, indices: tuple[int, ...] | None, reader: str) -> Any:
    del reader
    return x if indices is None else jnp.take(x, np.array(indices), axis, mode="clip")


def _taken(x: Any, *, axis: int, indices: tuple[int, ...] | None, reader: str) -> Any:
    del reader
    kept = x.shape[axis] if indices is None else len(indices)
    return x.update(shape=(*x.shape[:axis], kept, *x.shape[axis + 1 :]))


def _give_back(cotangent: Any, x: Any, **params: Any) -> list[Any]:
    return jax.linear_transpose(lambda x: _take(x, **params), x.aval)(cotangent)


def _take_of_each(args: Any, dims: Any, *, axis: int, **params: Any) -> tuple[Any, int]:
    x = jnp.moveaxis(args[0], dims[0], 0)
    return SELECT_INPUTS.bind(x, axis=axis + 1, **params), 0


SELECT_INPUTS.def_impl(_take)
SELECT_INPUTS.def_abstract_eval(_taken)
mlir.register_lowering(SELECT_INPUTS, mlir.lower_fun(_take, multiple_results=False))
ad.deflinear2(SELECT_INPUTS, _give_back)
batching.primitive_batchers[SELECT_INPUTS] = _take_of_each


OWNERS = core.Primitive("owners")
"""`(counts) -> int[length]`: the place i, counts[i] times, in turn; of what is left the last."""


def _owners(counts: Any, *, length: int, past: bool, dtype: Any) -> Any:
    last = counts.shape[0] - (not past)
    found = jnp.searchsorted(jnp.cumsum(counts, dtype=dtype), jnp.arange(length), side="right")
    return jnp.minimum(found, last).astype(dtype)


OWNERS.def_impl(_owners)
OWNERS.def_abstract_eval(
    lambda counts, *, length, dtype, **_: counts.update(shape=(length,), dtype=dtype)
)
mlir.register_lowering(OWNERS, mlir.lower_fun(_owners, multiple_results=False))


def owners(eqn: Any, counts: Any, *, past: bool) -> Any:
    """Returns an equation that makes the same of counts; `past`: what is left is of none."""
    (length,), dtype = shape(eqn.outvars[0]), eqn.outvars[0].aval.dtype
    params = {"length": length, "past": past, "dtype": dtype}
    return eqn.replace(primitive=OWNERS, invars=[counts], params=params)
