"""First-order Taylor scores: what the loss would change by if a channel were silent.

Each is of one batch; add the results up over batches. The baseline |gamma| ("Slim") is `bn_scale`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from jaxprune.arguments.dtypes import wide
from jaxprune.gates.sites import read_once
from jaxprune.graph import ChannelGraph, Group, check_graph
from jaxprune.groups.members import Array, Pairs, Reduce, as_they_are, collect, not_empty, total
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.scores.bn import NO_SCALE, WITHOUT_SCALE
from jaxprune.scores.given import given
from jaxprune.scores.products import pairs, product


def taylor(graph: ChannelGraph, variables: Any, gradients: Any) -> dict[str, Array]:
    """Returns {group: f32[n]}: |Σ w * dL/dw| over the weights that read each channel.

    This is |dL/dm| of the unit gate m that `jp.gated` puts on the channel, without the gate:
    scaling a channel is scaling the weights that read it. For complex w = x + iy it is the real
    part of the sum: `jax.grad` gives g = dL/dx - i dL/dy, and Re(w g) = x dL/dx + y dL/dy. A group
    has one gate, so its in slots add up before the absolute value is taken. A kernel that is
    normalized along its inputs before it is used breaks the equality; take the gate's own gradient
    there.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables.
      gradients: dL/dw of one batch: a tree that mirrors the variables, or a part of them that
        holds every kernel, as `{"params": ...}` does.

    Returns:
      Scores, higher means keep. Groups are absent where the weights do not tell: no weight reads
      them (queries and keys), or one contraction is of two of their variables or of none, or the
      weights that read them also make them (a tied embedding).

    Raises:
      ScoreError: no group has a score, or weights are integers, which have no gradient.
      TreeError: `variables` or `gradients` do not mirror the graph.

    Source: the gate is that of Molchanov et al., "Importance Estimation for Neural Network
    Pruning", CVPR 2019, who square its gradient.
    """
    check_graph(graph)
    read = read_once(graph)
    products = _products(graph, variables, gradients, [slot.path for slot in read])
    sums = collect(graph, products, wanted=lambda slot: slot in read, entry=as_they_are)
    by = "no group is read by one weight of its own at every contraction"
    fix = "scores.taylor_activation, by the gates of jp.gated, or scores.l2."
    return {name: abs(score) for name, score in not_empty(sums, by=by, fix=fix).items()}


def taylor_gate(
    graph: ChannelGraph, variables: Any, gradients: Any, *, reduce: Reduce = total
) -> dict[str, Array]:
    """Returns {group: f32[n]}: |phi * dL/dphi| of the gates of decorated variables.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the decorated variables, `jp.gates.decorate(v).variables`.
      gradients: the gradients of one batch by them, through `jp.gates.melt`.
      reduce: combines the gates of a group with several BatchNorms (a residual stream), called as
        `reduce(f32[n, members], axis=1)`; the sum by default, as in the paper.

    Returns:
      Scores, higher means keep; groups without a BatchNorm scale are absent.

    Raises:
      ScoreError: no BatchNorm scales a group.
      TreeError: `variables` or `gradients` do not mirror the graph.

    Source: You et al., "Gate Decorator", NeurIPS 2019.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> norm = {"scale": np.array([2.0, -1.0, 0.5]), "bias": np.zeros(3)}
      >>> v = {"params": {"a": np.ones((2, 3)), "norm": norm, "b": np.ones((3, 1))}}
      >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
      >>> def fn(v, x):
      ...     p, past = v["params"], v["batch_stats"]["norm"]
      ...     x = (x @ p["a"] - past["mean"]) * jax.lax.rsqrt(past["var"] + 1e-5)
      ...     return (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["b"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> decorated = jp.gates.decorate(v).variables
      >>> loss = lambda v: fn(jp.gates.melt(v), np.array([[1.0, 2.0]])).sum()
      >>> jp.scores.taylor_gate(graph, decorated, jax.grad(loss)(decorated))["a"].round(2).tolist()
      [6.0, 3.0, 1.5]
    """
    scales = _scales(graph)
    products = _products(graph, variables, gradients, scales)
    return _of_scales(graph, products, reduce)


def taylor_bn(
    graph: ChannelGraph, variables: Any, gradients: Any, *, reduce: Reduce = total
) -> dict[str, Array]:
    """Returns {group: f32[n]}: |gamma * dL/dgamma + beta * dL/dbeta| of every BatchNorm channel.

    This is what `taylor_gate` gives for the decorated variables, from the plain ones: phi scales
    gamma and beta together. Arguments, result and errors are those of `taylor_gate`, with the
    variables of the network itself.

    >>> import jax, numpy as np, jaxprune as jp
    >>> norm = {"scale": np.array([2.0, -1.0, 0.5]), "bias": np.zeros(3)}
    >>> v = {"params": {"a": np.ones((2, 3)), "norm": norm, "b": np.ones((3, 1))}}
    >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
    >>> def fn(v, x):
    ...     p, past = v["params"], v["batch_stats"]["norm"]
    ...     x = (x @ p["a"] - past["mean"]) * jax.lax.rsqrt(past["var"] + 1e-5)
    ...     return (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["b"]
    >>> graph = jp.trace(fn, v, np.ones((1, 2)))
    >>> gradients = jax.grad(lambda v: fn(v, np.array([[1.0, 2.0]])).sum())(v)
    >>> jp.scores.taylor_bn(graph, v, gradients)["a"].round(2).tolist()
    [6.0, 3.0, 1.5]
    """
    scales = _scales(graph)
    biases = [bias for bias in scales.values() if bias is not None]
    products = _products(graph, variables, gradients, [*scales, *biases])
    joint = {
        scale: products[scale].value + (0 if bias is None else products[bias].value)
        for scale, bias in scales.items()
    }
    return _of_scales(graph, joint, reduce)


def taylor_activation(graph: ChannelGraph, gradients: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the sum over examples of |Σ a * dL/da|, a over the positions.

    The sum within an example is the derivative of its loss by a unit gate, so that

        apply = jp.gated(fn, graph)

        def loss(gates, image, label):
            return cross_entropy(apply(variables, gates, image[None])[0], label)

        slopes = jax.vmap(jax.grad(loss), (None, 0, 0))(jp.gates.unit(graph), images, labels)
        scores = jp.scores.normalized(jp.scores.taylor_activation(graph, slopes))

    is the paper's score; add over batches first, then normalize. Its mean over positions and
    examples differs by one factor per group, which the normalization removes (two readers that
    see other numbers of positions are weighted as they act on the loss).

    Args:
      graph: what `jaxprune.trace` returned.
      gradients: {group: f32[examples, n]}, dL/dm of every example at unit gates.

    Raises:
      ScoreError: a group is unknown, or its gradients are not [examples, n].

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR 2017. The paper scores each feature map where it is made; here a group has
    one gate, where contractions read it.
    """
    fix = "jax.vmap(jax.grad(loss), (None, 0)) by the gates, over the examples."
    return given(graph, gradients, "gradients of gates", fix, _examples, _sizes)


def _sizes(gradients: Array) -> Array:
    return abs(wide(gradients)).sum(axis=0)


def _examples(group: Group) -> tuple[int | str, ...]:
    return ("examples", *group.shape)


def _products(
    graph: ChannelGraph, variables: Any, gradients: Any, wanted: Collection[str]
) -> Pairs:
    """Returns {path: w * dL/dw} of the wanted variables."""
    return pairs(graph, variables, gradients, wanted, product)


def _scales(graph: ChannelGraph) -> dict[str, str | None]:
    """Returns {path of a scale: path of its bias} of the BatchNorms that have slots in groups."""
    check_graph(graph)
    inside = {slot.path for group in graph.groups.values() for slot in group.slots}
    norms = batch_norms(graph).values()
    return {norm.scale: norm.bias for norm in norms if norm.scale in inside}


def _of_scales(
    graph: ChannelGraph, products: Mapping[str, Array], reduce: Reduce
) -> dict[str, Array]:
    scores = collect(
        graph,
        products,
        wanted=lambda slot: slot.path in products,
        entry=as_they_are,
        finish=abs,
        reduce=reduce,
    )
    return not_empty(scores, by=NO_SCALE, fix=WITHOUT_SCALE)
