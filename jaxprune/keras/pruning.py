"""A Keras model pruned in one call."""

from typing import Any

from jaxprune.arguments.bounds import Bound
from jaxprune.cutting.pruned import Pruned
from jaxprune.groups.scored import Scores
from jaxprune.inspecting import unread_variables
from jaxprune.keras.pure_function import check_call, variables
from jaxprune.keras.rebuilding import Changes
from jaxprune.keras.resizing import resized
from jaxprune.keras.tracing import trace
from jaxprune.scores.norm import l2
from jaxprune.scores.normalizing import Normalizer, mean
from jaxprune.select import one_call
from jaxprune.select.one_call import Score


def prune(
    model: Any,
    *inputs: Any,
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

    It is `jp.keras.trace`, a score, `jp.scores.normalized`, `jp.select.budget` and
    `jp.keras.resize`, one after the other.

    Args:
      model: the model, built.
      *inputs: arrays, shapes or pytrees of them, such as a batch of one.
      keep_macs: multiply-accumulates: below 1 the share of dense that stays, above 1 a count. At
        least one of these four bounds must be given; all that are given hold.
      keep_params: parameters, likewise.
      keep_weights: entries of the kernels, likewise.
      keep_bytes: bytes of activations, likewise.
      scores: a score, `(graph, variables) -> {group: f32[n]}`, or scores for the graph of the same
        call of `jp.keras.trace`; as in `jp.linen.prune`.
      normalize: as in `jp.linen.prune`.
      overrides: as in `jp.keras.resize`.
      **options: the constraints of `jp.select` but `strict`, the options of `jp.keras.trace`, and
        keyword arguments of the call; as in `jp.linen.prune`.

    Returns:
      `Pruned`: `model`, `variables`, `graph`, `keep`; `print` it for before and after.

    Raises:
      JaxpruneError: as the functions above; a `BudgetError` names the smallest cost in reach.

    Source: as in `jp.linen.prune`.

    Example:
      >>> import os
      >>> os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
      >>> import keras, numpy as np, jaxprune as jp
      >>> first = keras.layers.Dense(8, use_bias=False, name="first")
      >>> last = keras.layers.Dense(2, use_bias=False)
      >>> model = keras.Sequential([keras.Input((3,)), first, last])
      >>> pruned = jp.keras.prune(model, np.ones((1, 3), np.float32), keep_macs=0.5)
      >>> pruned.model.get_layer("first").units, pruned.model(np.ones((1, 3))).shape
      (4, (1, 2))
    """
    constraints, traced = one_call.split(options)
    check_call(model, one_call.of_call(traced), one_call.OWN)
    graph = trace(model, *inputs, **traced)
    keep = one_call.choose(
        graph,
        variables(model),
        scores=scores,
        normalize=normalize,
        bounds=one_call.Bounds(keep_macs, keep_params, keep_weights, keep_bytes),
        constraints=constraints,
    )
    small, compared = resized(model, graph, keep, overrides)
    unread_variables.warn(graph, keep, "jp.keras.prune")
    return Pruned(
        model=small,
        variables=variables(small),
        graph=graph,
        keep=keep,
        follows=compared.follows,
        draws=compared.draws,
    )
