"""NISP: importance of the last layer, carried backward through the network by |weights|."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.arguments.checks import check_flag, kind_of
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.numbers import check_share
from jaxprune.arguments.reduction import freely, reduced
from jaxprune.errors import ScoreError
from jaxprune.gates.sites import Site, find_sites
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.members import Array, leaves_at
from jaxprune.groups.scored import shape_of_numbers
from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Form, Trait
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted
from jaxprune.scores.given import given

_MOVES = Trait.LINEAR | Trait.MOVES | Trait.BROADCASTS | Trait.PARTS | Trait.SUMS | Trait.AS_IS
_FIX = "last={name of the group of the penultimate layer: its scores}; print(graph) lists them."


def nisp(
    graph: ChannelGraph,
    variables: Any,
    last: Mapping[str, Any],
    *,
    batch_norm: bool = True,
) -> dict[str, Array]:
    """Returns {group: f32[n]}: the importance of the last layer that each channel passes on.

    A channel has s_c = Σ |w_co| s_o, over all weights that read it and the importance of what they
    make; over taps, positions, and readers. Shortcuts add, biases and activations pass importance
    on as it is, a pooling spreads it evenly over its window (a maximum too), and a product of two
    different activations gives a half to each. It is computed as the gradient of a linear network
    of the absolute weights, with one backward pass at the traced shapes; no data are needed.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      last: {group: f32[n], not negative} of the groups from which importance comes, spread evenly
        over their positions: usually the one that the classifier reads, by `inf_fs`, `l2` or ones.
      batch_norm: whether importance is multiplied by |gamma| / sqrt(var + eps), and whatever else
        of the variables multiplies an activation entry by entry; False passes it on as it is.

    Returns:
      Scores, higher means keep, of the groups in `last` and those before them.

    Raises:
      ScoreError: a group of `last` is unknown or read by no contraction; scores are negative, or
        all zero; or importance comes to an operation that cannot pass it on (a product of matrices
        of two activations, a division by an activation, a loop of unknown length), which is named.
      TreeError: `variables` do not mirror the graph.

    Source: Yu et al., "NISP: Pruning Networks using Neuron Importance Score Propagation", CVPR
    2018, equations 7 and 8. A channel has the sum of its neurons. Deviation: neurons at the border
    are read by fewer taps, as in the network, where a formula by channels counts all.
    """
    check_graph(graph)
    check_flag(batch_norm, "batch_norm")
    seeds = given(graph, last, "scores", _FIX)
    if bad := [name for name, s in seeds.items() if (np.asarray(s) < 0).any() or not s.any()]:
        raise ScoreError(f"last: scores of {bad} are negative, or all zero.\nFix: jp.scores.l2.")
    run = _Linear(graph, seeds, batch_norm=batch_norm)
    if unread := [name for name in seeds if name not in run.read]:
        raise ScoreError(f"last: no contraction reads {unread}.\nFix: {_FIX}")
    leaves = leaves_at(graph, variables, graph.variables)
    weights = [leaves[path] for path in graph.variables]
    probes = {name: jnp.zeros(graph.groups[name].shape) for name in run.read}

    def slopes(*weights: Array) -> Any:
        return jax.grad(run.objective)(probes, weights)

    on_host = lambda arrays: fetch(jax.jit(slopes)(*arrays))  # noqa: E731
    passed = reduced(slopes, weights, on_host=on_host, kept=False)
    if any(not np.isfinite(values).all() for values in passed.values()):
        floats = [p for p, v in graph.variables.items() if jnp.issubdtype(v.dtype, jnp.inexact)]
        if bad := [path for path in floats if not reduced(_finite, [leaves[path]])]:
            raise ScoreError(
                f"nisp: variables {bad[:5]} hold NaN or infinity.\n"
                "Fix: take them from before the step of training that made these."
            )
        raise ScoreError(
            "nisp: importance comes to operations that cannot pass it on: "
            f"{', '.join(dict.fromkeys(run.refused))[:400]}.\n"
            "Fix: give last= of a layer before them."
        )
    scores = {name: values for name, values in passed.items() if values.any()} | dict(seeds)
    return {name: scores[name] for name in graph.groups if name in scores}


def _finite(leaf: Array) -> Array:
    return np.isfinite(leaf).all() if isinstance(leaf, np.ndarray) else jnp.isfinite(leaf).all()


def inf_fs(features: Any, *, alpha: float = 0.5) -> np.ndarray:
    """Returns f32[n]: the infinite feature selection of samples, for `nisp(last=...)`.

    Features are nodes of a graph with edges A_ij = alpha * max(std_i, std_j) + (1 - alpha) * (1 -
    |Spearman correlation|), the deviations over their greatest; the score is the sum over all paths
    of all lengths, Σ_j ((I - rA)^-1 - I)_ij with r = 0.9 / the spectral radius of A.

    Args:
      features: f32[samples, n], what the last layer gives (`jp.tap`, over some batches).
      alpha: how much deviation counts against independence, in [0, 1].

    Raises:
      ScoreError: it is not a matrix of two samples or more, or holds NaN; `alpha` is not a share.

    Source: Roffo et al., "Infinite Feature Selection", ICCV 2015.

    >>> inf_fs(np.array([[0.0, 1.0], [1.0, 1.1], [0.5, 1.2]])).round().tolist()
    [10.0, 8.0]
    """
    check_share(alpha, "alpha", "alpha=0.5.", ScoreError)
    shape = shape_of_numbers(features)
    enough = shape is not None and len(shape) == 2 and shape[0] > 1 and 0 not in shape
    deviation, alike = reduced(_spread, [features]) if enough else (np.nan, np.nan)
    if not np.isfinite(deviation).all():
        raise ScoreError(
            "features must be finite numbers [samples, n], two samples at least, got "
            f"{kind_of(features) if shape is None else tuple(shape)}.\n"
            "Fix: activations.reshape(-1, n)."
        )
    deviation, alike = (np.asarray(part, np.float64) for part in (deviation, alike))
    deviation = deviation / (deviation.max() or 1)
    edges = alpha * np.maximum.outer(deviation, deviation) + (1 - alpha) * (1 - alike)
    radius = max(abs(np.linalg.eigvalsh(edges)).max(), 1e-300)
    eye = np.eye(len(edges))
    return (np.linalg.inv(eye - 0.9 / radius * edges) - eye).sum(axis=1).astype(np.float32)


def _spread(x: Array) -> tuple[Array, Array]:
    """f[n], the deviations of features, and f[n, n], their |Spearman correlations|."""
    if not isinstance(x, np.ndarray):
        return freely(_spread_of, wide(x))
    return _spread_of(x.astype(np.float64))


def _spread_of(x: Array) -> tuple[Array, Array]:
    host = isinstance(x, np.ndarray)
    ranks = np.stack([*map(_ranks, x.T)]) if host else jax.vmap(_ranks)(x.T)
    away = ranks - ranks.mean(axis=1, keepdims=True)
    size = (away**2).sum(axis=1, keepdims=True) ** 0.5
    unit = away / (size + (size == 0))
    alike = unit @ unit.T if host else jnp.matmul(unit, unit.T, precision=lax.Precision.HIGHEST)
    return x.std(axis=0), abs(alike)


def _ranks(column: Array) -> Array:
    """The places in ascending order; equal numbers have the mean of theirs."""
    xp: Any = np if isinstance(column, np.ndarray) else jnp
    ordered = xp.sort(column)
    sides = [xp.searchsorted(ordered, column, side=side) for side in ("left", "right")]
    return (sides[0] + sides[1] + 1) / 2


class _Origin(NamedTuple):
    """The array of which a value is made entry by entry, and whether it is more than a multiple."""

    made: Array  # held, so that its id is not used again
    root: Array
    bent: bool = False


class _Linear:
    """The network of absolute weights, with what is added to every channel that is read."""

    def __init__(self, graph: ChannelGraph, seeds: Mapping[str, Array], *, batch_norm: bool):
        self.graph = graph
        self.seeds = seeds
        self.batch_norm = batch_norm
        self.refused: list[str] = []
        self.origins: dict[int, _Origin] = {}
        self.sites: dict[int, list[Site]] = {}
        for site in find_sites(graph.walk):
            self.sites.setdefault(id(site.op), []).append(site)
        every = (site for sites in self.sites.values() for site in sites)
        names = {name for site in every for name in site.groups}
        self.read = [name for name in graph.groups if name in names]

    def objective(self, probes: Mapping[str, Array], weights: Sequence[Array]) -> Array:
        """Returns Σ s * the mean of each channel of the last groups, where contractions read it."""
        walk = self.graph.walk
        inputs = walk.program.invars[len(weights) :]
        zeros = [_zeros(var.aval) for var in inputs]
        _, noted = self._runner(probes)(walk, [*weights, *zeros])
        return sum((value.sum() for value in noted.values()), jnp.float32(0))

    def _runner(self, probes: Mapping[str, Array]) -> evaluator.Run:
        def again(walk: Walk, args: Sequence[Any]) -> tuple[list[Any], Noted]:
            return evaluator.run(walk, args, apply)

        def apply(op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
            moving = [i for i in _moving(op) if jnp.issubdtype(args[i].dtype, jnp.inexact)]
            if op.form is Form.SCAN:
                names = [n for n in probes if self.graph.groups[n].slots[0].atom.layers is op]

                def inside(step: Sequence[Any]) -> evaluator.Run:
                    return self._runner({**probes, **dict(zip(names, step, strict=True))})

                return evaluator.scan(inside, op, args, [probes[name] for name in names])
            if op.form and op.form.calls:
                return again(op.inner[0], args)
            noted: Noted = {}
            for site in self.sites.get(id(op), ()):
                x = self._added(site, args[site.operand], probes)
                args[site.operand] = x
                for name in site.groups & self.seeds.keys():
                    held = site.channels(x, name)
                    mean = held.reshape(-1, held.shape[-1]).mean(0)
                    noted[id(op), site.axis, name] = (mean * self._seed(name, probes)).sum()
            return self._passed(op, args, moving), noted

        return again

    def _seed(self, name: str, probes: Mapping[str, Array]) -> Array:
        seed = jnp.asarray(self.seeds[name])
        return seed if probes[name].ndim == seed.ndim else seed.mean(0)

    def _added(self, site: Site, x: Array, probes: Mapping[str, Array]) -> Array:
        unit = jnp.ones_like(x)
        near = {name: probes[name] + 1 for name in site.groups if name in probes}
        return x + (site.scaled(unit, near) - unit)

    def _passed(self, op: Op, args: list[Any], moving: list[int]) -> list[Any]:
        """What an operation is in the linear network."""
        traits = op.traits
        if not moving or not jnp.issubdtype(op.eqn.outvars[0].aval.dtype, jnp.inexact):
            return jaxpr.bind(op.eqn, args, op.eqn.params)
        if Trait.CONTRACTS in traits and len(moving) == 1:
            args = [x if i in moving else abs(x) for i, x in enumerate(args)]
            return jaxpr.bind(op.eqn, args, op.eqn.params)
        if Trait.MAXIMUM in traits and Trait.ENTRYWISE not in traits:
            return [_evenly(op, args[0])]
        if Trait.ENTRYWISE in traits and Trait.AS_IS not in traits:
            return [self._entry_by_entry(op, args, moving)]
        if traits & _MOVES:
            return jaxpr.bind(op.eqn, args, op.eqn.params)
        return self._refuse(op, args)

    def _entry_by_entry(self, op: Op, args: list[Any], moving: list[int]) -> Array:
        """The array that an operation bends; a sum, a multiple, or the mean of several.

        What is computed entry by entry from one array and constants is one activation, be it
        written in several operations (x * sigmoid(x)), and passes importance on to that array.
        """
        origins = [self.origins.get(id(args[i]), _Origin(args[i], args[i])) for i in moving]
        straight = bool(op.traits & (Trait.LINEAR | Trait.MULTIPLIES | Trait.DIVIDES))
        straight &= Trait.LINEAR in op.traits or len(moving) == 1
        straight &= Trait.DIVIDES not in op.traits or moving == [0]
        root = origins[0].root
        alone = all(origin.root is root for origin in origins)
        alone &= not any(source for source in op.sources)
        bent = alone and (not straight or any(origin.bent for origin in origins))
        made = root * np.ones((), root.dtype) if bent else self._straight(op, args, moving)
        if alone:
            self.origins[id(made)] = _Origin(made, root, bent=bent)
        return made

    def _straight(self, op: Op, args: list[Any], moving: list[int]) -> Array:
        values = [args[i] for i in moving]
        if Trait.DIVIDES in op.traits and moving != [0]:
            return self._refuse(op, args)[0]
        if len(values) == 1 and op.traits & (Trait.MULTIPLIES | Trait.DIVIDES):
            (place,) = moving
            if op.sources[1 - place] and not self.batch_norm:
                return values[0]
            factor = abs(args[1 - place])
            return values[0] * factor if Trait.MULTIPLIES in op.traits else values[0] / factor
        total = sum(values[1:], values[0])
        return total if Trait.LINEAR in op.traits else total / len(values)

    def _refuse(self, op: Op, args: list[Any]) -> list[Any]:
        """Zeros; where importance comes to them, it becomes NaN."""
        self.refused.append(f"{op.name} at {op.place}")
        floats = [x for x in args if jnp.issubdtype(x.dtype, jnp.inexact)]
        return [_closed(tuple(floats), var.aval) for var in op.eqn.outvars]


def _zeros(aval: Any) -> Array:
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return jnp.broadcast_to(jax.random.key(0), aval.shape)
    return jnp.zeros(aval.shape, aval.dtype)


def _closed(args: tuple[Array, ...], aval: Any) -> Array:
    @jax.custom_vjp
    def closed(args: tuple[Array, ...]) -> Array:
        del args
        return jnp.zeros(aval.shape, aval.dtype)

    def backward(_: Any, slope: Array) -> tuple[tuple[Array, ...]]:
        if slope.dtype == jax.dtypes.float0:
            return (tuple(jnp.zeros_like(x) for x in args),)
        reached = jnp.where((slope != 0).any(), jnp.nan, 0)
        return (tuple(jnp.broadcast_to(reached.astype(x.dtype), x.shape) for x in args),)

    closed.defvjp(lambda args: (closed(args), None), backward)
    return closed(args)


def _moving(op: Op) -> list[int]:
    return [i for i, source in enumerate(op.sources) if source is None]


def _evenly(op: Op, x: Array) -> Array:
    """The mean in the place of a maximum."""
    if "window_dimensions" not in op.params:
        return x.mean(tuple(op.params["axes"]))
    window = op.params["window_dimensions"]
    given = {key: op.params[key] for key in ("base_dilation", "window_dilation")}
    sums = lax.reduce_window(
        x, np.zeros((), x.dtype), lax.add, window, op.params["window_strides"],
        op.params["padding"], **given,
    )  # fmt: skip
    return sums / int(np.prod(window))
