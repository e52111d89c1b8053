"""One pass over a batch: every statistic measured where it looks, by as few runs as it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.arguments import paths
from jaxprune.errors import JaxpruneError
from jaxprune.gates.evaluation import Given
from jaxprune.graph import ChannelGraph
from jaxprune.running import evaluator
from jaxprune.stats.batch_calls import Calling
from jaxprune.stats.curvatures import By, Curvature, Problem
from jaxprune.stats.readings import Reading
from jaxprune.stats.states import State
from jaxprune.stats.statistic import At, Statistic
from jaxprune.stats.visits import Measured, Probe, Visit, measured

Array = Any
_FORWARD = (At.READS, At.WRITES, At.AFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """How a batch is measured; `groups` is None where all that have places are."""

    graph: ChannelGraph
    statistics: dict[str, Any]
    loss: Callable[[Any, Any], Any] | None
    call: Calling
    groups: list[str] | None
    key: Array
    retraced: evaluator.Retraced

    def measure(self, variables: Any, batch: Any, number: Array) -> State:
        """Returns the state of one batch, the `number`-th."""
        runs = self._runs()
        key = jax.random.fold_in(self.key, number)
        gathered: Measured = {}
        if runs.whole or runs.gates or runs.products:
            gathered |= _whole(self, runs, variables, batch, key)
        if runs.each or runs.examples:
            gathered |= _each(self, runs, variables, batch, key)
        for i, (name, item) in enumerate(runs.curvatures.items()):
            fresh = jax.random.fold_in(jax.random.fold_in(key, i), 1)
            tree = item.estimate(_problem(self, item.by, variables, batch), fresh)
            gathered[name] = {path: [leaf] for path, leaf in paths.flatten(tree)[0].items()}
        states = {n: {g: tuple(parts) for g, parts in d.items()} for n, d in gathered.items()}
        bad = {n: {g: _not_finite(parts) for g, parts in d.items()} for n, d in states.items()}
        return State(states, bad, jnp.int32(1))

    def visit(self, variables: Any, batch: Any) -> Visit:
        """Returns the evaluation of the network on a batch."""
        return Visit(self.graph, self.retraced, self.groups, variables, self.call(batch))

    def empty(self, shapes: State) -> State:
        """Returns the state of no data, like those of `shapes`."""
        states = {
            name: jax.tree.map(partial(_filled, self.statistics[name]), parts)
            for name, parts in shapes.states.items()
        }
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return State(states, zero.bad, zero.batches)

    def _runs(self) -> "_Runs":
        channels = {n: s for n, s in self.statistics.items() if isinstance(s, Statistic)}
        forward = {n: s for n, s in channels.items() if s.at in _FORWARD}
        placed = {key: {n: s for n, s in channels.items() if s.at is key} for key in At}
        each = {n: s for n, s in forward.items() if s.each or s.apart}
        differentiated = placed[At.PRODUCTS] or placed[At.GATES]
        if not differentiated and (each or placed[At.EXAMPLES]):
            each = forward
        return _Runs(
            whole={n: s for n, s in forward.items() if n not in each},
            each=each,
            products=placed[At.PRODUCTS],
            gates=placed[At.GATES],
            examples=placed[At.EXAMPLES],
            curvatures={n: s for n, s in self.statistics.items() if isinstance(s, Curvature)},
        )


class _Runs(NamedTuple):
    """The statistics of the run of the whole batch, of that of each example, and the others."""

    whole: dict[str, Statistic]
    each: dict[str, Statistic]
    products: dict[str, Statistic]
    gates: dict[str, Statistic]
    examples: dict[str, Statistic]
    curvatures: dict[str, Curvature]


def _whole(work: Pass, runs: _Runs, variables: Any, batch: Any, key: Array) -> Measured:
    """The batch as it is, with gradients of its loss where they are asked for."""
    visit = work.visit(variables, batch)
    if not (runs.gates or runs.products):
        return visit.run(runs.whole, key)[1]
    probes = {
        (name, i): Probe(key=(name, i), item=item, place=place)
        for name, item in runs.products.items()
        for i, place in enumerate(visit.places(At.PRODUCTS))
    }
    slots = {key: visit.slot(probe) for key, probe in probes.items()}

    def value(gates: Given, slots: Given) -> Any:
        outs, gathered = visit.run(runs.whole, key, gates=gates, slots=slots, probes=probes)
        return scalar(work, outs, batch), gathered

    gates = visit.gates() if runs.gates else {}
    (by_gate, by_slot), gathered = jax.grad(value, (0, 1), has_aux=True)(gates, slots)
    for (name, i), probe in probes.items():
        parts = gathered.setdefault(name, {}).setdefault(probe.place.group, [])
        parts.append(by_slot[name, i])
    in_rows = {group: slope[..., None, :] for group, slope in by_gate.items()}
    return gathered | _of_gates(runs.gates, in_rows)


def _each(work: Pass, runs: _Runs, variables: Any, batch: Any, key: Array) -> Measured:
    """Every example by itself; the statistics are told of all of them."""
    examples = one_by_one(batch)
    size = jax.tree.leaves(examples)[0].shape[0]

    def of_example(example: Any, key: Array) -> Any:
        visit = work.visit(variables, example)
        if not runs.examples:
            return {}, visit.run(runs.each, key)[1]

        def value(gates: Given) -> Any:
            outs, gathered = visit.run(runs.each, key, gates=gates)
            return scalar(work, outs, example), gathered

        return jax.grad(value, has_aux=True)(visit.gates())

    slopes, gathered = jax.vmap(of_example, out_axes=(0, None))(
        examples, jax.random.split(key, size)
    )
    in_rows = {group: jnp.moveaxis(slope, 0, -2) for group, slope in slopes.items()}
    return gathered | _of_gates(runs.examples, in_rows)


def _of_gates(statistics: Mapping[str, Statistic], slopes: Given) -> Measured:
    """What is measured of gradients by gates, f32[*layers, examples, n]."""
    return {
        name: {
            group: [measured(item, Reading(channels=slope[..., None, :], group=group))]
            for group, slope in slopes.items()
        }
        for name, item in statistics.items()
    }


def _problem(work: Pass, by: By, variables: Any, batch: Any) -> Problem:
    """The loss of a batch by gates, or by the weights that have a gradient."""
    leaves, treedef = paths.flatten(variables)

    def outputs(point: Any, batch: Any) -> Any:
        visit = work.visit(variables, batch)
        if by is By.GATES:
            return visit.run(gates=point)[0]
        chosen = [point.get(name, leaf) for name, leaf in leaves.items()]
        return visit.run(variables=jax.tree.unflatten(treedef, chosen))[0]

    if by is By.GATES:
        point = work.visit(variables, batch).gates()
    else:
        arrays = {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
        point = {n: w for n, w in arrays.items() if jnp.issubdtype(w.dtype, jnp.inexact)}
        if bad := [n for n, w in point.items() if jnp.iscomplexobj(w)]:
            raise JaxpruneError(
                f"weights {bad[:5]} are complex, by which there is no curvature.\n"
                "Fix: by=jp.stats.By.GATES."
            )
    return Problem(
        point=point,
        outputs=lambda point: outputs(point, batch),
        loss=lambda outs: scalar(work, outs, batch),
        examples=one_by_one(batch),
        loss_of=lambda point, example: scalar(work, outputs(point, example), example),
    )


def one_by_one(batch: Any) -> Any:
    """Returns the examples of a batch, each a batch of one: [examples, 1, ...]."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, None], batch)


def _filled(item: Statistic | Curvature, leaf: Any) -> Array:
    value = 0 if isinstance(item, Curvature) else item.empty
    return jnp.full(leaf.shape, value, leaf.dtype)


def _not_finite(state: Any) -> Array:
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]
    return (~jnp.stack(finite).all()).astype(jnp.int32)


def scalar(work: Pass, outs: Any, batch: Any) -> Array:
    """Returns the loss of a batch; errors as of `loss_value`."""
    assert work.loss is not None
    return loss_value(work.loss(outs, batch))


def loss_value(value: Any) -> Array:
    """Returns what a loss gave.

    Raises:
      JaxpruneError: it is not a real number.
    """
    value = jnp.asarray(value)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise JaxpruneError(
            f"loss must return one real number, got {value.dtype}{list(value.shape)}.\n"
            "Fix: its mean over the examples."
        )
    return value
