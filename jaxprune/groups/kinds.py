"""What a channel group is to its network: heads, dimensions inside of them, a stream, or hidden."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from jaxprune.arguments import paths
from jaxprune.errors import PatternError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups import dataflow
from jaxprune.groups.dataflow import Node
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.rules import contraction
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Trait


class Kind(Enum):
    """The kinds of channel groups."""

    STREAM = "stream"  # the width of a sum of the outputs of several layers, as the residual
    HEADS = "heads"  # whole heads: the batch of a product of activations
    QUERY_KEY = "query and key dimensions"  # what a product of activations sums over
    VALUE = "value dimensions"  # what the weights of an attention mix
    HIDDEN = "hidden"  # all others: widths inside of a block


def kinds(graph: ChannelGraph) -> dict[str, Kind]:
    """Returns {group: kind}, in graph order.

    A group of two kinds goes by the first of `Kind`: the width of a stream that an attention mixes
    directly is a stream, dimensions that one axis ties for query, key and value are those of query
    and key.

    >>> import jax, numpy as np, jax.numpy as jnp
    >>> v = {n: np.ones((8, 2, 4)) for n in "qkv"} | {"o": np.ones((2, 4, 8)), "u": np.ones((8, 3))}
    >>> def fn(v, x):
    ...     q, k, h = (jnp.einsum("btd,dhe->bthe", x, v[n]) for n in "qkv")
    ...     y = jax.nn.dot_product_attention(q, k, h)
    ...     return jnp.einsum("bthe,hed->btd", y, v["o"]) @ v["u"]
    >>> from jaxprune import trace
    >>> {name: kind.name for name, kind in kinds(trace(fn, v, np.ones((1, 5, 8)))).items()}
    {'k[1]': 'HEADS', 'k[2]': 'QUERY_KEY', 'v[2]': 'VALUE', 'o': 'HIDDEN'}
    """
    check_graph(graph)
    by_group: dict[str, set[Kind]] = {name: set() for name in graph.groups}
    for name in _streams(dataflow.nodes(graph)):
        by_group[name].add(Kind.STREAM)
    for space, kind in _of_products(graph.walk):
        for atom in ax.atoms(space):
            if atom.name in by_group:
                by_group[atom.name].add(kind)
    return {
        name: next((kind for kind in Kind if kind in known), Kind.HIDDEN)
        for name, known in by_group.items()
    }


def of_kind(graph: ChannelGraph, *wanted: Kind) -> tuple[str, ...]:
    """Returns the groups of these kinds, in graph order, never none.

    `only=` and `protect=` take kinds themselves, everywhere:

      jp.select.budget(graph, scores, keep_macs=0.5, only=[jp.Kind.HEADS, "*/mlp/*"])
      jp.sparsify.oicsr(graph, 1e-3, only=jp.Kind.HEADS)

    Raises:
      PatternError: there is no such group, or this is not a kind.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> jp.of_kind(graph, jp.Kind.HIDDEN)
      ('a',)
    """
    if not wanted or not all(isinstance(kind, Kind) for kind in wanted):
        raise PatternError(
            f"of_kind: expected kinds, got {wanted!r}; they are {[str(kind) for kind in Kind]}.\n"
            "Fix: jp.of_kind(graph, jp.Kind.HEADS)."
        )
    every = kinds(graph)
    names = tuple(name for name, kind in every.items() if kind in wanted)
    if not names:
        there = sorted({kind.name for kind in every.values()})
        raise PatternError(
            f"of_kind: none of {len(every)} groups is of kind {[kind.name for kind in wanted]}; "
            f"the network has {there}.\nFix: print(jp.kinds(graph))."
        )
    return names


def matching(graph: ChannelGraph, patterns: Any, names: Iterable[str], *, what: str) -> set[str]:
    """Returns the `names` that a pattern matches or that are of a kind, never none for a pattern.

    Raises:
      PatternError: a pattern matches no name, no group is of a kind, or an entry is neither.
    """
    given = paths.listed(patterns, what)
    wanted = [item for item in given if isinstance(item, Kind)]
    matched = paths.require([p for p in given if not isinstance(p, Kind)], names, what=what)
    return matched | set(of_kind(graph, *wanted)) if wanted else matched


class _Makers(NamedTuple):
    """Layers that make an array, at most two: those whose outputs are in it, and gated ones."""

    direct: frozenset[int] = frozenset()
    gated: frozenset[int] = frozenset()

    def __or__(self, other: "_Makers") -> "_Makers":
        return _Makers(*(frozenset([*a | b][:2]) for a, b in zip(self, other, strict=True)))


def _streams(nodes: Sequence[Node]) -> Iterator[str]:
    """Yields the groups along which outputs of several layers are added.

    A rotation adds two parts of one layer, a recurrence what gates let through; a bias of attention
    is added to a product, which is not the output of a layer.
    """
    made: list[dict[str, _Makers]] = []
    for i, node in enumerate(nodes):
        makers: dict[str, _Makers] = dict.fromkeys(node.groups, _Makers())
        if node.kernels:
            makers = dict.fromkeys(node.groups, _Makers(frozenset({i})))
        elif node.op is not None and Trait.CONTRACTS not in node.op.traits:
            for source in node.sources:
                makers |= {n: makers[n] | m for n, m in made[source].items() if n in makers}
        if node.op is not None and Trait.MULTIPLIES in node.op.traits and not node.kernels:
            makers = {n: _Makers(gated=_both(m)) for n, m in makers.items()}
        if _adds(node):
            for name in node.ties:
                if makers[name].direct and len(_both(makers[name])) > 1:
                    makers[name] = _Makers(_both(makers[name]))
                    yield name
        made.append(makers)


def _both(makers: _Makers) -> frozenset[int]:
    return makers.direct | makers.gated


def _adds(node: Node) -> bool:
    """True for a sum of two arrays, unless it is in a loop without any layer: a recurrence."""
    op = node.op
    if op is None or op.rule is None or len(op.rule.weights) != 2:
        return False
    return all(any(map(_is_layer, every_op(scan.inner[0]))) for scan in op.scans)


def _is_layer(op: Op) -> bool:
    return Trait.CONTRACTS in op.traits and any(op.sources)


def _of_products(walk: Walk) -> Iterator[tuple[Space, Kind]]:
    """Yields the axes of products of two activations, with what they are to an attention."""
    for op in every_op(walk):
        if not contraction.is_product(op) or any(source is not None for source in op.sources):
            continue
        summed, paired = contraction.pairs(op), contraction.batches(op)
        for operand, axes in enumerate(op.ins):
            for i, space in enumerate(axes):
                if i in (pair[operand] for pair in summed):
                    yield space, Kind.QUERY_KEY
                else:
                    heads = i in (pair[operand] for pair in paired)
                    yield space, Kind.HEADS if heads else Kind.VALUE
