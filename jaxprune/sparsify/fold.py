"""The weights as a BatchNorm behind them scales them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.numbers import check_finite
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.channels import located
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.program.spaces import atoms
from jaxprune.sparsify.channel_norms import View


class _Fold(NamedTuple):
    """A kernel whose filters lie along `axis`, and the leaves of the BatchNorm behind them."""

    kernel: str
    axis: int
    scale: str
    var: str


def fold_batch_norm(graph: ChannelGraph, *, epsilon: float = 1e-5) -> View:
    """Returns the view in which every filter is multiplied by scale / sqrt(var + epsilon).

    A BatchNorm undoes whatever shrinks the filters in front of it, so a penalty on their norms can
    fall while the network stays the same. In this view the penalty is that of the network in eval
    mode with its BatchNorms folded in; its gradient also reaches their scales. The running
    variances, which take no gradient, come from the argument `variables` of `update`:

      tx = optax.chain(oicsr(graph, 1e-4, view=fold_batch_norm(graph)), optax.sgd(0.1))
      updates, state = tx.update(gradients, state, params, variables=variables)

    Folded are the filters of a group that one kernel makes and one BatchNorm scales. Where several
    do (a residual stream), weights and scales stay as they are.

    Args:
      graph: what `jaxprune.trace` returned.
      epsilon: that of the BatchNorm layers; Flax's default.

    Raises:
      TreeError: no BatchNorm scales the filters of one kernel alone; (from the view) the
        `variables` have no running variances.
      JaxpruneError: `epsilon` is negative or not finite; (from the view) no `variables`.

    Example:
      >>> import jax, optax, numpy as np, jaxprune as jp
      >>> norm = {"scale": jax.numpy.array([2.0, -1.0, 0.5]), "bias": jax.numpy.zeros(3)}
      >>> v = {"params": {"a": jax.numpy.ones((2, 3)), "norm": norm, "b": jax.numpy.ones((3, 1))}}
      >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
      >>> def fn(v, x):
      ...     p, past = v["params"], v["batch_stats"]["norm"]
      ...     x = (x @ p["a"] - past["mean"]) * jax.lax.rsqrt(past["var"] + 1e-5)
      ...     return (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["b"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> tx = jp.sparsify.group_lasso(graph, 0.1, view=jp.sparsify.fold_batch_norm(graph))
      >>> params = v["params"]
      >>> none = jax.tree.map(jax.numpy.zeros_like, params)
      >>> updates, _ = tx.update(none, tx.init(params), params, variables=v)
      >>> print(updates["norm"]["scale"].round(2))
      [ 0.14 -0.14  0.14]
    """
    check_graph(graph)
    epsilon = check_finite(epsilon, "fold_batch_norm: epsilon", "epsilon=1e-5.")
    folds = dict.fromkeys(_folds(graph))
    if not folds:
        raise TreeError(
            "fold_batch_norm: no group has exactly one kernel that makes it and one BatchNorm with "
            "a scale.\nFix: leave view out, or trace variables with their running statistics."
        )
    needed = [path for fold in folds for path in (fold.kernel, fold.scale)]

    def view(params: optax.Params, variables: Any) -> optax.Params:
        if variables is None:
            raise JaxpruneError(
                "fold_batch_norm: update needs the running variances.\n"
                "Fix: tx.update(gradients, state, params, variables=variables)."
            )
        leaves, treedef = paths.flatten(params)
        places = located("fold_batch_norm", graph, needed, leaves)
        statistics = paths.flatten(variables)[0]
        located("fold_batch_norm", graph, [fold.var for fold in folds], statistics)
        for fold in folds:
            variance = jax.lax.stop_gradient(statistics[fold.var])
            factor = leaves[places[fold.scale]] / jnp.sqrt(variance + epsilon)
            kernel = leaves[places[fold.kernel]]
            shape = [-1 if axis == fold.axis else 1 for axis in range(kernel.ndim)]
            leaves[places[fold.kernel]] = kernel * factor.reshape(shape)
        return jax.tree.unflatten(treedef, leaves.values())

    return view


def _folds(graph: ChannelGraph) -> Iterator[_Fold]:
    """Yields each kernel that alone makes a group, with the BatchNorm that alone scales it."""
    variances = {norm.scale: norm.var for norm in batch_norms(graph).values() if norm.var}
    for group in graph.groups.values():
        makers = [slot for slot in group.slots if slot.role == "out"]
        scales = [slot for slot in group.slots if slot.path in variances]
        if len(makers) == len(scales) == 1:
            maker, scale = makers[0], scales[0]
            if list(atoms(maker.space)) == list(atoms(scale.space)):
                yield _Fold(maker.path, maker.axis, scale.path, variances[scale.path])
