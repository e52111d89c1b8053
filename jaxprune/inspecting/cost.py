"""What a network costs: closed forms of the widths, and the latency of this machine.

Every cost is a function `(graph, widths=None) -> int`. The widths may be a keep mapping too, and
None is the network as it was traced. Nothing is traced again: a contraction costs the product of
the sizes of its axis spaces, and that product at the kept widths is exactly what a fresh count on
the pruned network gives.
"""

import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.arguments.functions import check_inputs
from jaxprune.arguments.numbers import check_count, is_number, plain
from jaxprune.errors import BudgetError, UncountedWarning
from jaxprune.graph import ChannelGraph, Contraction, check_graph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.closed_forms import (
    ClosedForm,
    TermsOf,
    activation_terms,
    macs_terms,
    params_terms,
    split_widths,
    weights_terms,
)
from jaxprune.inspecting.cost_makers import state_bytes, weight_bytes
from jaxprune.inspecting.expected import expected_total
from jaxprune.inspecting.latency_tables import LatencyTable, tabled
from jaxprune.inspecting.measured_latency import Fidelity, fidelity, interleaved, latency_table
from jaxprune.inspecting.parameters import each_contraction as each_contraction
from jaxprune.inspecting.parameters import parameters
from jaxprune.inspecting.peak_memory import peak_memory as peak_memory
from jaxprune.inspecting.peak_memory import peak_terms
from jaxprune.inspecting.routing import active_params as active_params
from jaxprune.inspecting.terms import Dearest, Term, Terms, summed, total
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep import check
from jaxprune.program import jaxpr
from jaxprune.program.interpret import every_op
from jaxprune.program.traits import Trait

__all__ = [
    "ClosedForm",
    "Fidelity",
    "Latency",
    "LatencyTable",
    "Uncounted",
    "activation_bytes",
    "active_params",
    "branch_cost",
    "channel_cost",
    "each_contraction",
    "energy",
    "expected",
    "fidelity",
    "interleaved",
    "latency",
    "latency_table",
    "macs",
    "params",
    "peak_memory",
    "state_bytes",
    "tabled",
    "terms_of",
    "uncounted",
    "warn_uncounted",
    "weight_bytes",
    "weights",
]

# A cost of the network at the widths, which may be a keep mapping too; None is dense.
Cost = Callable[[ChannelGraph, Mapping[str, Any] | None], Any]


def macs(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the multiply-accumulates of one call: those of convolutions and matrix products.

    Of a `lax.cond` the dearest branch counts. Trace at batch 1 for the usual figure.

    Args:
      graph: what `jaxprune.trace` returned.
      widths: {group: kept count}, or {group: bool[n]}; absent groups are whole. {branch: False}
        counts the network without a branch (`jp.branches`).

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> jp.cost.macs(graph), jp.cost.macs(graph, {"first": 1})
    (20, 5)
    >>> costs = [jp.cost.params, jp.cost.weights, jp.cost.activation_bytes, jp.cost.channel_cost]
    >>> [cost(graph) for cost in costs], jp.cost.terms_of(jp.cost.macs) is None
    ([20, 20, 28, {'first': 5}], False)
    >>> jp.cost.warn_uncounted(graph, costs[:3], stacklevel=1)
    """
    at, gone = split_widths(graph, widths)
    return total(macs_terms(graph, gone), at)


def activation_bytes(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the bytes that the contractions of one call write; arguments as for `macs`.

    Elementwise operations are left out: a compiler fuses them into their producers.
    """
    at, gone = split_widths(graph, widths)
    return total(activation_terms(graph, gone), at)


def params(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the number of parameters; arguments as for `macs`.

    They are the entries of what `inspecting.parameters.parameters` lists: all under `params`, or
    where there is no such collection all that the outputs are made of, but no state.
    """
    at, gone = split_widths(graph, widths)
    return total(params_terms(graph, gone), at)


def weights(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the entries of the kernels, each kernel once; arguments as for `macs`.

    A kernel is a variable that enters a contraction, so biases and scales are left out.
    """
    at, gone = split_widths(graph, widths)
    return total(weights_terms(graph, gone), at)


def channel_cost(
    graph: ChannelGraph, cost: Cost = macs, widths: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Returns {group: cost of one channel}, the saving from the first channel that goes.

    Args:
      graph: what `jaxprune.trace` returned.
      cost: one of this module takes a single pass over the network, another one a call per group.
      widths: the network from which the channel goes, as for `macs`.
    """
    check_callable(cost, "cost", "cost=jp.cost.macs.")
    at = check.widths(graph, widths)
    if (terms := terms_of(cost)) is not None:
        return dict.fromkeys(graph.groups, 0) | summed(terms(graph, None), at).losses
    each = {}
    for name, width in at.items():  # what the last channel costs, the one before it tells
        before, after = (at | {name: n} for n in (max(width, 2), max(width, 2) - 1))
        each[name] = cost(graph, before) - cost(graph, after)
    return each


def branch_cost(graph: ChannelGraph, cost: Cost = macs) -> dict[str, int]:
    """Returns {branch: what the network costs less without it alone}.

    What several branches save does not add up where they share what stands before them; `cost` is
    one of this module.

    >>> from jaxprune import trace
    >>> v = {"up": np.ones((4, 8)), "down": np.ones((8, 4)), "head": np.ones((4, 2))}
    >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
    >>> branch_cost(trace(fn, v, np.ones((1, 4)))), macs(trace(fn, v, np.ones((1, 4))))
    ({'+down': 64}, 72)
    """
    check_callable(cost, "cost", "cost=jp.cost.macs.")
    known, at = branches(graph), check.widths(graph)
    plain = all(isinstance(item, Contraction) for item in graph.contractions)
    if cost is params:
        each = dict(zip(parameters(graph), params_terms(graph), strict=True))
        parts = {name: branch.variables for name, branch in known.items()}
    elif cost in (macs, activation_bytes) and plain:  # of a `cond` the dearest branch counts
        ops = [item.op for item in each_contraction(graph.contractions)]
        each = dict(zip(ops, _TERMS[cost](graph, None), strict=True))
        parts = {name: without_branches.alone(branch) for name, branch in known.items()}
    else:
        whole = cost(graph, None)
        return {name: whole - cost(graph, {name: False}) for name in known}
    sizes = {key: total([term], at) for key, term in each.items()}
    return {name: sum(sizes.get(key, 0) for key in keys) for name, keys in parts.items()}


def expected(graph: ChannelGraph, cost: Cost, widths: Mapping[str, Any]) -> Any:
    """Returns a closed form at widths that are real numbers, f32[]: traced and differentiable.

    At the widths of a network it is the cost of that network. It is what a penalty on expected
    widths needs (`jp.gates.lagrangian`), and its derivative by a width what one channel costs there
    (`jp.sparsify.morphnet`). Where a group meets itself (a layer from a stream to the stream) the
    square of the expected width stands for the expected square, which is larger by the variance.

    Args:
      graph: what `jaxprune.trace` returned.
      cost: a closed form of this module.
      widths: {group: its width, from 0 to its size}; absent groups are whole. {branch: probability
        that it stays}, in a scan f32[steps] too: what is there for that branch alone counts as
        often. What several branches share counts as if one of them stayed.

    Raises:
      BudgetError: the cost is not a closed form, a name is unknown, or a number is out of range.

    >>> import jax, numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> macs = lambda width: jp.cost.expected(graph, jp.cost.macs, {"first": width})
    >>> float(macs(2.5)), float(jax.grad(macs)(2.5))
    (12.5, 5.0)
    """
    check_graph(graph)
    if (terms := terms_of(cost)) is None:
        raise BudgetError(
            f"{kind_of(cost)} is not a closed form, so it has no value between two widths.\n"
            "Fix: jp.cost.macs, activation_bytes, params, weights, weight_bytes() or state_bytes()."
        )
    return expected_total(graph, terms, widths)


def energy(table: Mapping[Any, float]) -> ClosedForm:
    """Returns the cost: what each of several costs takes, by a table of yours, in its unit.

      sum over costs of the table: the energy of one of its units, times the cost

    Args:
      table: {closed-form cost: energy of one unit}, such as of one multiply-accumulate, and of one
        byte times how often it crosses every level of memory.

    Raises:
      BudgetError: the table is empty, an entry is not a closed form, or a number is negative.

    Source: Yang et al., "Designing Energy-Efficient Convolutional Neural Networks using
    Energy-Aware Pruning", CVPR 2017, section 3, whose accesses of every level come from the
    dataflow of a chip; here they are the user's.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4), np.float32), "second": np.ones((4, 3), np.float32)}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> spent = jp.cost.energy({jp.cost.macs: 1.0, jp.cost.weight_bytes(): 200.0})
    >>> spent(graph), spent(graph, {"first": 2})
    (16020.0, 8010.0)
    """
    given = dict(check_mapping(table, "table", "{cost: energy of one unit}", BudgetError))
    parts: list[tuple[TermsOf, float]] = []
    for cost, each in given.items():
        terms_of_cost, each = terms_of(cost), plain(each)
        if terms_of_cost is None:
            raise BudgetError(
                f"{kind_of(cost)} in the table of energies is not a closed form.\n"
                "Fix: jp.cost.macs, activation_bytes, params, weights, weight_bytes() or "
                "state_bytes()."
            )
        if not is_number(each) or not 0 <= each < float("inf"):
            raise BudgetError(f"energy of one unit must be at least 0, got {each!r}.\nFix: 1e-12.")
        parts.append((terms_of_cost, float(each)))
    if not parts:
        raise BudgetError("the table of energies is empty.\nFix: {jp.cost.macs: 1.0}.")

    def terms(graph: ChannelGraph, gone: Without | None) -> Terms:
        return [_times(term, each) for part, each in parts for term in part(graph, gone)]

    return ClosedForm("energy", terms, of_contractions=True)


def _times(term: Term, factor: float) -> Term:
    if isinstance(term, Dearest):
        return Dearest([[_times(each, factor) for each in part] for part in term.alternatives])
    return term._replace(factor=term.factor * factor)


class Uncounted(NamedTuple):
    """An operation that reads numbers and whose multiplications are in no cost."""

    name: str
    place: str


@once
def uncounted(graph: ChannelGraph) -> tuple[Uncounted, ...]:
    """Returns the operations of which nothing is counted, in the order of the program.

    They read an array of floating or complex numbers, or an integer variable. Of those without a
    rule (`print(graph)` names them among what is frozen too), such as a kernel written for a
    device, it is not known whether they multiply; of a Fourier transform, a factorization or a
    triangular solve, how often depends on the algorithm.

    >>> from jaxprune import trace
    >>> graph = trace(lambda v, x: jax.numpy.fft.fft(x) @ v, np.ones((2, 3)), np.ones((1, 2)))
    >>> [item.name for item in uncounted(graph)], macs(graph)
    (['fft'], 6)
    """
    return tuple(
        Uncounted(op.name, op.place)
        for op in every_op(graph.walk)
        if (op.rule is None or Trait.UNCOUNTED in op.traits)
        and any(map(_numbers, op.eqn.invars, op.sources))
    )


def warn_uncounted(graph: ChannelGraph, costs: Iterable[Cost], *, stacklevel: int) -> None:
    """Warns if one of the costs leaves out operations of the graph."""
    check_graph(graph)
    costs = tuple(costs) if isinstance(costs, Iterable) else (costs,)
    for cost in costs:
        check_callable(cost, "cost", "costs=[jp.cost.macs].")
    check_count(stacklevel, "stacklevel", "stacklevel=2, the caller.")
    short = [cost.__name__ for cost in costs if _of_contractions(cost)]
    if short and (missing := uncounted(graph)):
        names = ", ".join(dict.fromkeys(item.name for item in missing))
        warnings.warn(
            f"{' and '.join(short)} leave out {len(missing)} operations that are not counted "
            f"({names}; the first at {missing[0].place}): the budget is that of the others.\n"
            "Fix: trace(..., rules=jp.RULES | {name: rule}) with a rule that records them, or "
            "keep_params.",
            UncountedWarning,
            stacklevel=stacklevel + 1,
        )


class Latency(NamedTuple):
    """Measured wall time of one call, in seconds."""

    median: float
    spread: float  # distance between the quartiles
    repeats: int
    device: str

    def __str__(self) -> str:
        """The figures in milliseconds."""
        milliseconds = f"{1e3 * self.median:.3f} ms, spread {1e3 * self.spread:.3f} ms"
        return f"{milliseconds} ({self.repeats} calls on {self.device})"


def latency(fn: Callable[..., Any], *args: Any, repeats: int = 30, warmup: int = 3) -> Latency:
    """Returns how long a compiled call `fn(*args)` takes on the present device.

    The arguments are moved to the device first, compilation and the warm-up calls are not timed,
    and every call is waited for.

    Args:
      fn: a function of arrays; it is compiled with `jax.jit`.
      *args: pytrees of arrays.
      repeats: timed calls, at least 1.
      warmup: calls before them, at least 0.

    Raises:
      JaxpruneError: `repeats` or `warmup` is too small.
    """
    check_callable(fn, "latency: fn", "latency(jitted, *args).")
    fix = "latency(fn, *args, repeats=30)."
    repeats = check_count(repeats, "latency: repeats", fix)
    warmup = check_count(warmup, "latency: warmup", fix, least=0)
    check_inputs(args)
    args = jax.device_put(args)
    compiled = jax.jit(fn).lower(*args).compile()
    for _ in range(warmup):
        jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - start)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, high - low, repeats, jax.devices()[0].device_kind)


def _numbers(atom: Any, source: Any) -> bool:
    """True for an array of numbers that could be multiplied, not of indices or keys."""
    dtype = getattr(atom.aval, "dtype", None)
    if dtype is None or not jaxpr.shape(atom):
        return False
    if jnp.issubdtype(dtype, jnp.inexact):
        return True
    return jnp.issubdtype(dtype, jnp.integer) and bool(source)


def _of_contractions(cost: Cost) -> bool:
    known = isinstance(cost, ClosedForm) and cost.of_contractions
    return known or cost in (macs, weights, activation_bytes)


def terms_of(cost: Cost) -> TermsOf | None:
    """Returns what a cost is the sum of, None for one that is not a closed form.

    Raises:
      BudgetError: it is not a function.
    """
    check_callable(cost, "cost", "jp.cost.macs.", BudgetError)
    if isinstance(cost, ClosedForm):
        return cost.terms
    return _TERMS.get(cost) if isinstance(cost, Hashable) else None


_TERMS: Mapping[Cost, TermsOf] = {
    macs: macs_terms,
    activation_bytes: activation_terms,
    params: params_terms,
    peak_memory: peak_terms,
    weights: weights_terms,
}
