"""A plain function pruned in one call."""

from collections.abc import Callable
from typing import Any

from jaxprune.arguments.bounds import Bound
from jaxprune.arguments.functions import check_function, check_keywords
from jaxprune.arguments.models import model_of
from jaxprune.cutting.pruned import Pruned
from jaxprune.cutting.transforms import sliced
from jaxprune.errors import ResizeError, TraceError
from jaxprune.groups.scored import Scores
from jaxprune.inspecting import unread_variables
from jaxprune.running.narrow import narrow
from jaxprune.running.resize import resize
from jaxprune.scores.norm import l2
from jaxprune.scores.normalizing import Normalizer, mean
from jaxprune.select import one_call
from jaxprune.select.one_call import Score
from jaxprune.tracing.trace import trace


def prune(
    fn: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    keep_macs: Bound | None = None,
    keep_params: Bound | None = None,
    keep_weights: Bound | None = None,
    keep_bytes: Bound | None = None,
    scores: Score | Scores = l2,
    normalize: Normalizer = mean,
    **options: Any,
) -> Pruned:
    """Returns a function and its variables at the widths that a budget leaves, in one call.

    It is `jp.trace`, a score, `jp.scores.normalized`, `jp.select.budget` and `jp.slice`, one after
    the other. `result.model` is that of `jp.resize`, which runs the code of `fn`, where this code
    is the same network at the kept widths; else that of `jp.narrow`, and `result.not_resized` says
    why. For modules take `jp.linen.prune` and `jp.nnx.prune`.

    Args:
      fn: any JAX function of a pytree of variables and inputs.
      variables: the variables, as arrays; shapes do where `scores` needs no weights.
      *inputs: arrays, shapes or pytrees of them, such as a batch of one.
      keep_macs: multiply-accumulates: below 1 the share of dense that stays, above 1 a count. At
        least one of these four bounds must be given; all that are given hold.
      keep_params: parameters, likewise.
      keep_weights: entries of the kernels, likewise.
      keep_bytes: bytes of activations, likewise.
      scores: a score, `(graph, variables) -> {group: f32[n]}`, or scores for the graph of the same
        call of `jp.trace`; as in `jp.linen.prune`.
      normalize: as in `jp.linen.prune`.
      **options: the constraints of `jp.select` but `strict` (`min_keep_ratio` is 0.1 here), the
        options of `jp.trace`, and keyword arguments of `fn`, as there.

    Returns:
      `Pruned`: `model`, `variables`, `graph`, `keep`; `print` it for before and after.

    Raises:
      JaxpruneError: as the functions above; a `BudgetError` names the smallest cost in reach.

    Source: as in `jp.linen.prune`.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> v = {"a": np.arange(8.0).reshape(2, 4), "b": np.ones((4, 3))}
      >>> fn = lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"]
      >>> pruned = jp.prune(fn, v, np.ones((1, 2)), keep_macs=0.5)
      >>> pruned.keep["a"].tolist(), pruned.not_resized
      ([False, False, True, True], None)
      >>> pruned.model(pruned.variables, np.ones((1, 2))).shape
      (1, 3)
    """
    if (model := model_of(fn)) and model.package:
        raise TraceError(
            f"prune takes a function of variables and inputs, got {model.name}.\n"
            f"Fix: jp.{model.package}.prune, which takes the model.",
            page=model.page,
        )
    constraints, traced = one_call.split(options)
    name = getattr(fn, "__name__", type(fn).__name__)
    check_function(fn)
    check_keywords(fn, name, one_call.of_call(traced), one_call.OWN)
    graph = trace(fn, variables, *inputs, **traced)
    keep = one_call.choose(
        graph,
        variables,
        scores=scores,
        normalize=normalize,
        bounds=one_call.Bounds(keep_macs, keep_params, keep_weights, keep_bytes),
        constraints=constraints,
    )
    small = sliced(graph, variables, keep)
    try:
        model = resize(fn, graph, keep)
    except ResizeError as error:
        unread_variables.warn(graph, keep, "jp.prune")
        return Pruned(
            model=narrow(fn, graph, keep),
            variables=small,
            graph=graph,
            keep=keep,
            not_resized=str(error),
        )
    return Pruned(
        model=model,
        variables=small,
        graph=graph,
        keep=keep,
        follows=model.follows,
        draws=model.draws,
    )
