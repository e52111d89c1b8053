"""Outputs and gradients of a network and of one that is cut from it, made comparable."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.fetching import fetch
from jaxprune.cutting import entries, shorter_state, transforms
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.carried import carried, twins
from jaxprune.inspecting.without_branches import NOTHING, Without
from jaxprune.keep import reindexing
from jaxprune.keep.check import Keep
from jaxprune.keep.kept import Kept, with_state
from jaxprune.program import stacked_layers

Apply = Callable[..., Any]


class Part(NamedTuple):
    """What a keep keeps: channels, and the program without some branches, if any go."""

    channels: Kept
    gone: Without | None

    @classmethod
    def of(cls, graph: ChannelGraph, keep: Keep) -> "Part":
        """Returns what a keep, that is checked, keeps of a graph."""
        channels, stay = without_branches.split(graph, keep)
        some = without_branches.gone_of(graph, stay)
        return cls(Kept(channels), without_branches.without(graph, stay) if some else None)


class Probe:
    """Outputs, and gradients of a weighted sum of them by all variables that have one."""

    def __init__(
        self,
        graph: ChannelGraph,
        fn: Apply,
        variables: Any,
        inputs: Sequence[Any],
        keywords: Mapping[str, Any],
    ):
        self.graph = graph
        self.fn = fn
        self.variables = variables
        self.inputs = inputs
        self.keywords = keywords
        outputs = jax.eval_shape(fn, variables, *inputs, **keywords)
        self.shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
        self.moves = True
        weights, _ = self.weights(Part.of(graph, {}))
        try:
            jax.eval_shape(self.of(fn), variables, weights, inputs, keywords)
        except (TypeError, ValueError, NotImplementedError):  # such as a while loop
            self.moves = False

    def of(self, run: Apply) -> Apply:
        """Returns `(variables, weights, inputs, keywords) -> (outputs, {path: gradient})`."""

        def measured(variables: Any, weights: Sequence[Any], inputs: Any, keywords: Any) -> Any:
            if not self.moves:
                return run(variables, *inputs, **keywords), {}
            leaves, treedef = paths.flatten(variables)
            moving = {path: leaf for path, leaf in leaves.items() if _is_inexact(leaf)}

            def total(moving: dict[str, Any]) -> tuple[Any, Any]:
                whole = jax.tree.unflatten(treedef, [*(leaves | moving).values()])
                outputs = run(whole, *inputs, **keywords)
                pairs = zip(weights, jax.tree.leaves(outputs), strict=True)
                terms = [jnp.vdot(w, y).real for w, y in pairs if _is_inexact(y)]
                return sum(terms, jnp.zeros(())), outputs

            value, back, outputs = jax.vjp(total, moving, has_aux=True)
            return outputs, back(jnp.ones_like(value))[0]

        return measured

    def weights(self, part: Part) -> tuple[list[Any], list[Any]]:
        """Returns weights of the outputs, zero at pruned channels; and those of the others."""
        (kept, gone), whole, few = part, [], []
        rows = _rows(self.graph, gone)
        for place, (shape, axes) in enumerate(zip(self.shapes, self.graph.walk.outs, strict=True)):
            weight = np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape).astype(np.float32)
            if gone is not None and place in gone.outputs:
                whole.append(np.zeros_like(weight))
                continue
            if place in rows:
                weight[~rows[place]] = 0
            few.append(_taken(weight, axes, kept)[rows.get(place, ...)])
            for axis, space in enumerate(axes):
                if (chosen := kept.mask(space)) is not None:
                    weight = weight * stacked_layers.aligned(chosen, axes, axis)
            whole.append(weight)
        return whole, few

    def inputs_at(self, part: Part) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs by position and by keyword, with what stays of state, and new ids."""
        kept, gone = part
        called = with_state(
            self.graph,
            *reindexing.inputs_at(self.graph, kept.keep, self.inputs, self.keywords),
            lambda leaf, variable: _taken(leaf, variable.axes, kept),
        )
        return called if gone is None else shorter_state.less(self.graph, gone, *called)

    def small(self, outputs: Any, part: Part) -> Any:
        """Outputs at the kept sizes: updated statistics have pruned axes too."""
        kept, gone = part
        pairs = enumerate(zip(jax.tree.leaves(outputs), self.graph.walk.outs, strict=True))
        lost, rows = () if gone is None else gone.outputs, _rows(self.graph, gone)
        return [
            _taken(leaf, axes, kept)[rows.get(i, ...)] for i, (leaf, axes) in pairs if i not in lost
        ]

    def cut(self, gradients: Mapping[str, Any], part: Part) -> dict[str, Any]:
        """Gradients at the kept sizes."""
        kept, gone = part
        axes = self.graph.variables
        small = {path: _taken(x, axes[path].axes, kept) for path, x in gradients.items()}
        return small if gone is None else transforms.without(small, gone) or {}


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def _rows(graph: ChannelGraph, gone: Without | None) -> dict[int, np.ndarray]:
    """{place of an output: which of its rows stay} of the stacks that lost some."""
    if gone is None:
        return {}
    known, found = carried(graph), {}
    for i, place in enumerate(twins(graph)):
        item = None if place is None else known[place]
        lost = gone if item is None or item.state is None else gone.state.get(item.state, NOTHING)
        if item is not None and item.path in lost.rows:
            found[i] = lost.rows[item.path]
    return found


def _taken(leaf: Any, axes: Sequence[Any], kept: Kept) -> Any:
    cut = entries.Cut.of(map(kept.indices, axes), axes)
    return entries.take({"": leaf}, {"": cut}, fit=True)[""]


def difference(a: Any, b: Any, *, together: bool = False) -> float:
    """The largest difference of two trees, relative to the largest entry of the leaf.

    With `together` a leaf counts as no smaller than a thousandth of the largest of all.
    """
    pairs = [(_host(x), _host(y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    sizes = [np.max(np.abs(x), initial=0, where=np.isfinite(x)) for x, _ in pairs]
    least = max(1e-3 * max(sizes, default=0) if together else 0, np.finfo(np.float32).tiny)
    gaps = [0.0]
    for (x, y), size in zip(pairs, sizes, strict=True):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        gaps.append(np.max(np.abs(np.where(same, 0, x - y)), initial=0) / max(size, least))
    return float(np.max(gaps))


def _host(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    wide = np.complex128 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else np.float64
    return np.asarray(fetch(leaf)).astype(wide)
