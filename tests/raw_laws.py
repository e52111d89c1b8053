"""Checks of the laws of pruning on one raw program; see raw_programs.py."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
import raw_programs
from laws import EXACT, entries
from raw_programs import Program

Keep = Mapping[str, np.ndarray]
RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-5}
"""Of results, relative to the largest entry of each."""
ILL_CONDITIONED = 1e-3
"""Of a float32 program that misses its own, if it holds in float64: a root magnifies rounding."""
NARROW_DTYPES = {"bfloat16": 1e-2, "float16": 1e-3}
"""Of gradients that are rounded to these types."""
DRAWS = {"random_bits", "random_split", "random_fold_in", "threefry2x32"}
"""Primitives that draw."""
MAXIMA = {"reduced", "reduced_places", "running_maximum", "scattered_max"}
"""Blocks whose gradient compares a result with its operand."""


CUTS = ("one", "all but one", "some")
"""Keeps under which the masked program must equal the narrowed one."""
MIRRORS = ("gradients", "updated")
"""Results whose leaves are shaped as variables."""


def traced(made: Program) -> jp.ChannelGraph:
    """Returns the graph of a program, traced on its shapes alone."""
    shapes = jax.eval_shape(lambda *xs: xs, made.variables, *made.inputs)
    return jp.trace(made.fn, *shapes, free_constants=made.free_constants)


def inexact(graph: jp.ChannelGraph) -> set[str]:
    """Returns the groups that masking does not stand for."""
    return {name for name, group in graph.groups.items() if group.inexact is not None}


def keeps(graph: jp.ChannelGraph, seed: int) -> dict[str, Keep]:
    """Returns keeps of all groups: each keeps all, one, all but one, or some, in no order.

    Of them inexact groups keep all; under "free" they keep some too.
    """
    random = np.random.default_rng(seed)

    def drawn(group: jp.Group, count: int) -> np.ndarray:
        chosen = np.broadcast_to(np.arange(group.size) < count, group.shape)
        return random.permuted(chosen, axis=-1)

    counts: dict[str, Callable[[int], int]] = {
        "all": lambda n: n,
        "one": lambda n: 1,
        "all but one": lambda n: n - 1,
        "some": lambda n: int(random.integers(1, n + 1)),
    }
    groups = graph.groups
    found = {
        label: {name: drawn(group, count(group.size)) for name, group in groups.items()}
        for label, count in counts.items()
    }
    free = found["some"]
    kept = {name: found["all"][name] for name in inexact(graph)}
    return {label: keep | kept for label, keep in found.items()} | {"free": free}


def inexact_leaves(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables that have a derivative."""
    return {path: x for path, x in variables.items() if jnp.issubdtype(x.dtype, jnp.inexact)}


def measured(fn: Callable[..., Any], variables: Mapping[str, Any], inputs: Any) -> dict[str, Any]:
    """Returns the outputs of a program and the gradients of a sum of them."""

    def loss(moving: Mapping[str, Any]) -> tuple[jax.Array, Any]:
        outputs = fn({**variables, **moving}, *inputs)
        free = outputs["out"], outputs["more"]  # what is updated has fewer entries when pruned
        return sum(map(_direction, jax.tree.leaves(free))), outputs

    gradients, outputs = jax.grad(loss, has_aux=True)(inexact_leaves(variables))
    return {**outputs, "gradients": gradients}


def _direction(y: jax.Array) -> jax.Array:
    """Returns a sum of the entries, each with another weight; zero of what has no derivative."""
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return jnp.zeros(())
    parts = [y.real, y.imag] if jnp.iscomplexobj(y) else [y]
    weights = jnp.cos(jnp.arange(y.size, dtype=parts[0].dtype)).reshape(y.shape)
    return sum(jnp.vdot(weights, part) for part in parts)


def masked_results(made: Program, graph: jp.ChannelGraph, every: Mapping[str, Keep]) -> Any:
    """Returns {keep: the results of the masked program, their pruned entries cut}."""
    run = jax.jit(
        lambda v, keep, xs: measured(made.fn, jp.mask(graph, v, keep), xs),
        compiler_options=options(made),
    )
    found = {}
    for label in ("all", *CUTS):
        result = jax.device_get(run(made.variables, every[label], made.inputs))
        found[label] = {
            part: jp.slice(graph, leaves, every[label]) if part in MIRRORS else leaves
            for part, leaves in result.items()
        }
    return found


class Small(NamedTuple):
    """What the small programs give."""

    narrow: Mapping[str, Any]  # {keep: outputs and gradients}
    whole: tuple[Any, Any]  # outputs of narrow with nothing pruned, those of the function
    resized: tuple[Any, Any]  # outputs, those of narrow; twice None where they may differ


def small_results(made: Program, graph: jp.ChannelGraph, every: Mapping[str, Keep]) -> Small:
    """Runs all small programs, by one compilation."""
    narrow = {label: jp.narrow(made.fn, graph, keep) for label, keep in every.items()}
    small = {label: jp.slice(graph, made.variables, keep) for label, keep in every.items()}
    other = resized(made, graph, every["free"])

    def run(variables: Any, small: Any, xs: Any) -> Small:
        results = {label: measured(narrow[label], small[label], xs) for label in CUTS}
        whole = narrow["all"](variables, *xs), made.fn(variables, *xs)
        if other is None:
            return Small(results, whole, (None, None))
        outputs = other(small["free"], *xs)
        expected = {part: results["some"][part] for part in outputs}
        if inexact(graph):
            expected = narrow["free"](small["free"], *xs)
        return Small(results, whole, (outputs, expected))

    program = jax.jit(run, compiler_options=options(made))
    return jax.device_get(program(made.variables, small, made.inputs))


def leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, array) of a tree."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf)


def check_close(actual: Any, expected: Any, rtol: float, what: str) -> None:
    """Checks two trees of results."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected), what
    for (path, x), (_, y) in zip(leaves(actual), leaves(expected), strict=True):
        assert x.dtype == y.dtype, f"{what}, {path}: {x.dtype} became {y.dtype}"
        assert x.shape == y.shape, f"{what}, {path}: {x.shape} became {y.shape}"
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            np.testing.assert_array_equal(x, y, err_msg=f"{what}, {path}")
            continue
        allowed = NARROW_DTYPES.get(x.dtype.name, rtol)
        wide = [np.asarray(z, np.complex128 if np.iscomplexobj(z) else np.float64) for z in (x, y)]
        scale = max(np.max(np.abs(wide[1]), initial=0.0, where=np.isfinite(wide[1])), 1.0)
        np.testing.assert_allclose(*wide, rtol=0, atol=allowed * scale, err_msg=f"{what}, {path}")


def check_values(made: Program, graph: jp.ChannelGraph, keep: Keep) -> None:
    """Checks what is cut: what is pruned is in no small and no masked array; nothing, nothing."""
    kept, clean = entries(graph, keep), inexact_leaves(made.variables)
    poisoned = {path: np.where(kept[path], x, x.dtype.type(np.nan)) for path, x in clean.items()}
    small = jp.slice(graph, poisoned, keep)
    check_same(small, jp.slice(graph, clean, keep), "poison in what is sliced")
    slots = [slot for name in keep for slot in graph.groups[name].slots]
    spared = {slot.path for slot in slots if not slot.masked}
    masked = jp.mask(graph, {path: x for path, x in poisoned.items() if path not in spared}, keep)
    zeroed = {
        path: np.where(kept[path], clean[path], 0).astype(x.dtype) for path, x in masked.items()
    }
    check_same(masked, zeroed, "poison in what is masked")
    whole = {name: np.ones_like(kept) for name, kept in keep.items()}
    for cut in (jp.slice, jp.mask):
        check_same(cut(graph, made.variables, whole), made.variables, "nothing pruned")


def check_same(actual: Any, expected: Any, what: str) -> None:
    """Checks two trees bit for bit."""
    for (path, x), (_, y) in zip(leaves(actual), leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=f"{what}: {path}", strict=True)


def check_cost(made: Program, graph: jp.ChannelGraph, keep: Keep) -> None:
    """Checks that the closed form counts what a fresh count of the narrowed program does."""
    small = jp.slice(graph, made.variables, keep)
    fresh = jp.trace(jp.narrow(made.fn, graph, keep), small, *made.inputs)
    for name in ("macs", "activation_bytes", "params", "weights"):
        cost = getattr(jp.cost, name)
        expected, found = cost(fresh), cost(graph, keep)
        assert found == expected, f"{name}: {found}, a fresh count gives {expected}"


def equations(fn: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """Yields the equations of a function, those of what it calls too."""

    def inside(value: Any) -> Iterator[Any]:
        jaxpr = getattr(value, "jaxpr", value)
        if isinstance(value, tuple | list):
            for item in value:
                yield from inside(item)
        elif hasattr(jaxpr, "eqns"):
            for eqn in jaxpr.eqns:
                yield eqn
                yield from inside(list(eqn.params.values()))

    return inside(jax.make_jaxpr(fn)(*args))


def options(made: Program) -> dict[str, Any]:
    """Returns options of the compiler; see `laws.EXACT`."""
    return EXACT if MAXIMA & dict(made.recipe).keys() else {}


def draws(fn: Callable[..., Any], variables: Any, inputs: Any) -> list[Any]:
    """Returns the shapes of all that a function draws."""
    return [
        [var.aval.shape for var in (*eqn.invars, *eqn.outvars)]
        for eqn in equations(fn, variables, *inputs)
        if eqn.primitive.name in DRAWS
    ]


def resized(made: Program, graph: jp.ChannelGraph, keep: Keep) -> Callable[..., Any] | None:
    """Returns the resized function where it must equal the narrowed one.

    It is None where the keep is refused, where constants follow a width, and where the function
    draws other numbers at the kept widths.
    """
    try:
        found = jp.resize(made.fn, graph, keep)
    except jp.errors.ResizeError:
        return None
    if found.follows:
        return None
    small = jp.slice(graph, made.variables, keep)
    before = draws(made.fn, made.variables, made.inputs)
    return found if not before or before == draws(made.fn, small, made.inputs) else None


def check_laws(made: Program) -> None:
    """Checks all laws on one program."""
    dtype = made.inputs[0].dtype
    try:
        check_with(made, RTOL[dtype])
    except AssertionError:
        if dtype == np.float64:
            raise
        with world():
            double = raw_programs.program(made.names, made.seed, double=True)
        check_with(double, RTOL[np.dtype(np.float64)])
        check_with(made, ILL_CONDITIONED)


def check_with(made: Program, rtol: float) -> None:
    """Checks all laws on one program, results to `rtol`."""
    with world():
        graph = traced(made)
        every = keeps(graph, made.seed)
        check_values(made, graph, every["free"])
        check_cost(made, graph, every["free"])
        masked, small = masked_results(made, graph, every), small_results(made, graph, every)
        check_same(*small.whole, "nothing pruned")
        for label in CUTS:
            check_close(small.narrow[label], masked[label], rtol, f"{label}: narrow, masked")
        check_close(*small.resized, rtol, "resized, narrow")


@contextmanager
def world() -> Iterator[None]:
    """Double precision, ranks that broadcast as they do for everybody, variables without use."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        warnings.catch_warnings(action="ignore", category=jp.errors.UnreadWarning),
    ):
        yield


def program(index: int) -> Program:
    """Returns the program of an index."""
    with world():
        return raw_programs.program(*raw_programs.dealt(index))


def failure(names: tuple[str, ...], seed: int) -> str | None:
    """Returns how the laws fail on the program of some blocks, or None."""
    try:
        with world():
            made = raw_programs.program(names, seed)
        check_laws(made)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def smallest(names: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """Returns the fewest of the blocks that still fail."""
    for i in range(len(names)):
        rest = names[:i] + names[i + 1 :]
        if failure(rest, seed):
            return smallest(rest, seed)
    return names
