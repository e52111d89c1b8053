"""A Linen module pruned in one call."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxprune.arguments.bounds import Bound
from jaxprune.cutting.pruned import Pruned
from jaxprune.cutting.transforms import sliced
from jaxprune.groups.scored import Scores
from jaxprune.inspecting import unread_variables
from jaxprune.linen.given_module import check_module
from jaxprune.linen.resizing import at_widths
from jaxprune.linen.tracing import check_call, trace
from jaxprune.scores.norm import l2
from jaxprune.scores.normalizing import Normalizer, mean
from jaxprune.select import one_call
from jaxprune.select.one_call import Score


def prune(
    module: nn.Module,
    variables: Any,
    *inputs: Any,
    keep_macs: Bound | None = None,
    keep_params: Bound | None = None,
    keep_weights: Bound | None = None,
    keep_bytes: Bound | None = None,
    scores: Score | Scores = l2,
    normalize: Normalizer = mean,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Pruned:
    """Returns the module and its variables at the widths that a budget leaves, in one call.

    It is `jp.linen.trace`, a score, `jp.scores.normalized`, `jp.select.budget`, `jp.slice` and
    `jp.linen.resize`, one after the other; take these where you want something in between. Nothing
    is trained: fine-tune `result.model` from `result.variables`.

    Args:
      module: the module.
      variables: its variables, as arrays; shapes do where `scores` needs no weights.
      *inputs: arrays, shapes or pytrees of them, such as a batch of one.
      keep_macs: multiply-accumulates: below 1 the share of dense that stays, above 1 a count. At
        least one of these four bounds must be given; all that are given hold.
      keep_params: parameters, likewise.
      keep_weights: entries of the kernels, likewise.
      keep_bytes: bytes of activations, likewise.
      scores: a score, `(graph, variables) -> {group: f32[n]}`, or scores for the graph of the same
        call of `jp.linen.trace`. Groups without scores stay whole. For a score with more arguments:
        `scores=lambda graph, variables: jp.scores.taylor(graph, variables, gradients)`.
      normalize: what makes the scores of different groups comparable; see `jp.scores.normalized`.
        The default gives the average channel of every group the score 1. With `jp.scores.none` the
        layers of small filters may lose nearly all channels.
      overrides: as in `jp.linen.resize`.
      **options: the constraints of `jp.select` but `strict` (`min_keep_ratio`, which is 0.1 here,
        `min_channels`, `max_prune_ratio`, `multiple_of`, `equal`, `protect`, `only`, `within`); the
        options of `jp.linen.trace`; and the keywords of the call, such as `train=False`.

    Returns:
      `Pruned`: `model`, `variables`, `graph`, `keep`; `print` it for before and after.

    Raises:
      JaxpruneError: as the functions above; a `BudgetError` names the smallest cost in reach.

    Source: the mean is that of Fang et al., "DepGraph", CVPR 2023; the floor of a tenth of every
    group that of You et al., "Gate Decorator", NeurIPS 2019.

    Example:
      >>> import jax, jax.numpy as jnp, jaxprune as jp
      >>> module, x = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]), jnp.ones((1, 3))
      >>> pruned = jp.linen.prune(module, module.init(jax.random.key(0), x), x, keep_macs=0.5)
      >>> pruned.variables["params"]["layers_0"]["kernel"].shape
      (3, 4)
      >>> pruned.model.apply(pruned.variables, x).shape
      (1, 2)
    """
    constraints, traced = one_call.split(options)
    check_module(module)
    check_call(module, one_call.of_call(traced), one_call.OWN)
    graph = trace(module, variables, *inputs, **traced)
    keep = one_call.choose(
        graph,
        variables,
        scores=scores,
        normalize=normalize,
        bounds=one_call.Bounds(keep_macs, keep_params, keep_weights, keep_bytes),
        constraints=constraints,
    )
    model = at_widths(module, graph, keep, overrides)
    unread_variables.warn(graph, keep, "jp.linen.prune")
    return Pruned(
        model=model,
        variables=sliced(graph, variables, keep),
        graph=graph,
        keep=keep,
        follows=model.follows,
        draws=model.draws,
    )
