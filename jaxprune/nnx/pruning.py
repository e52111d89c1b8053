"""An NNX model pruned in one call."""

from typing import Any

from flax import nnx

from jaxprune.arguments.bounds import Bound
from jaxprune.cutting.pruned import Pruned
from jaxprune.groups.scored import Scores
from jaxprune.inspecting import unread_variables
from jaxprune.nnx.pure_function import Changes, Method, check_call, variables
from jaxprune.nnx.resizing import resized
from jaxprune.nnx.tracing import trace
from jaxprune.scores.norm import l2
from jaxprune.scores.normalizing import Normalizer, mean
from jaxprune.select import one_call
from jaxprune.select.one_call import Score


def prune(
    model: nnx.Module,
    *inputs: Any,
    method: Method = "__call__",
    keep_macs: Bound | None = None,
    keep_params: Bound | None = None,
    keep_weights: Bound | None = None,
    keep_bytes: Bound | None = None,
    scores: Score | Scores = l2,
    normalize: Normalizer = mean,
    overrides: Changes | None = None,
    **options: Any,
) -> Pruned:
    """Returns a new, smaller model within a budget, in one call; `model` is left as it is.

    It is `jp.nnx.trace`, a score, `jp.scores.normalized`, `jp.select.budget` and `jp.nnx.resize`,
    one after the other. The optimizer follows by `jp.nnx.resize_optimizer(optimizer, result.model,
    result.graph, result.keep)`.

    Args:
      model: the model, in the mode of `model.train()` or `model.eval()` that counts.
      *inputs: arrays, shapes or pytrees of them, such as a batch of one.
      method: as in `jp.nnx.trace`.
      keep_macs: multiply-accumulates: below 1 the share of dense that stays, above 1 a count. At
        least one of these four bounds must be given; all that are given hold.
      keep_params: parameters, likewise.
      keep_weights: entries of the kernels, likewise.
      keep_bytes: bytes of activations, likewise.
      scores: a score, `(graph, variables) -> {group: f32[n]}`, or scores for the graph of the same
        call of `jp.nnx.trace`; as in `jp.linen.prune`.
      normalize: as in `jp.linen.prune`.
      overrides: as in `jp.nnx.resize`.
      **options: the constraints of `jp.select` but `strict`, the options of `jp.nnx.trace`, and
        keyword arguments of the method; as in `jp.linen.prune`.

    Returns:
      `Pruned`: `model`, `variables`, `graph`, `keep`; `print` it for before and after.

    Raises:
      JaxpruneError: as the functions above; a `BudgetError` names the smallest cost in reach.

    Source: as in `jp.linen.prune`.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> class Net(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.first = nnx.Linear(3, 8, rngs=rngs)
      ...         self.last = nnx.Linear(8, 2, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.last(nnx.relu(self.first(x)))
      >>> pruned = jp.nnx.prune(Net(nnx.Rngs(0)), jnp.ones((1, 3)), keep_macs=0.5)
      >>> pruned.model.first.out_features, pruned.model(jnp.ones((1, 3))).shape
      (4, (1, 2))
    """
    constraints, traced = one_call.split(options)
    check_call(model, method, one_call.of_call(traced), one_call.OWN)
    graph = trace(model, *inputs, method=method, **traced)
    keep = one_call.choose(
        graph,
        variables(model),
        scores=scores,
        normalize=normalize,
        bounds=one_call.Bounds(keep_macs, keep_params, keep_weights, keep_bytes),
        constraints=constraints,
    )
    small, compared = resized(model, graph, keep, overrides)
    unread_variables.warn(graph, keep, "jp.nnx.prune")
    return Pruned(
        model=small,
        variables=variables(small),
        graph=graph,
        keep=keep,
        follows=compared.follows,
        draws=compared.draws,
    )
