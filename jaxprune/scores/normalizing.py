"""Scores of different groups made comparable: each group is normalized by itself.

The norm of a filter grows with its fan-in, so under one budget for the whole network raw norms
empty the layers of small filters. A normalizer takes the scores of one group, f32[n] or
f32[layers, n], and returns as many, in the same order; each layer of a stack counts for itself.
Zeros stay zeros, and nothing becomes NaN. All but `standard`, `min_max` and `lamp` divide by a
number of the group. Sums are of s / max |s|, so that tiny and huge scores have them too.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.arguments.numbers import is_number
from jaxprune.errors import ScoreError
from jaxprune.groups.members import Array, here, not_empty
from jaxprune.groups.scored import shape_of_numbers

Normalizer = Callable[[Array], Array]
_BY = "by=jp.scores.mean, or a function of the scores of one group, f32[n] -> f32[n]."


def euclidean(scores: Array) -> Array:
    """Returns s / sqrt(sum s^2).

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR 2017, the layer-wise l2-normalization.
    """
    unit = max(scores)
    return _over(unit, (unit * unit).sum(axis=-1, keepdims=True) ** 0.5)


def max(scores: Array) -> Array:
    """Returns s / max |s|: the highest of every group is 1.

    Source: the normalizer `max` of Torch-Pruning.
    """
    values = _numbers(scores)
    return _over(values, abs(values).max(axis=-1, keepdims=True))


def mean(scores: Array) -> Array:
    """Returns s / mean |s|: the average channel of every group is 1.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023; the default of its
    code, Torch-Pruning.

    >>> mean(np.array([1.0, 2.0, 3.0]))
    array([0.5, 1. , 1.5])
    """
    unit = max(scores)
    return _over(unit, abs(unit).mean(axis=-1, keepdims=True))


def sum(scores: Array) -> Array:
    """Returns s / sum |s|: the share of the group. A channel of a wide group scores low.

    Source: the normalizer `sum` of Torch-Pruning.
    """
    unit = max(scores)
    return _over(unit, abs(unit).sum(axis=-1, keepdims=True))


def min_max(scores: Array) -> Array:
    """Returns (s - min s) / (max s - min s): from 0 to 1 in every group; 0 where all are equal.

    Source: the normalizer `standarization` of Torch-Pruning.
    """
    values = _numbers(scores)
    least = values.min(axis=-1, keepdims=True)
    return _over(values - least, values.max(axis=-1, keepdims=True) - least)


def standard(scores: Array) -> Array:
    """Returns (s - mean s) / std s, with the deviation over all n; 0 where all are equal.

    Source: the normalizer `gaussian` of Torch-Pruning, whose deviation is over n - 1.

    >>> standard(np.array([1.0, 3.0, 1.0, 3.0]))
    array([-1.,  1., -1.,  1.])
    """
    unit = min_max(scores)
    from_mean = unit - unit.mean(axis=-1, keepdims=True)
    return _over(from_mean, (from_mean**2).mean(axis=-1, keepdims=True) ** 0.5)


def lamp(scores: Array) -> Array:
    """Returns s^2 / (sum of s^2 over the scores not below it): the highest of every group is 1.

    Of equal scores the first channel is the lowest.

    Raises:
      ScoreError: a score is negative: its square would be in another order.

    Source: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021,
    equation 3; there s are single weights, here scores of channels.

    >>> lamp(np.array([1.0, 2.0, 2.0]))
    array([0.11111111, 0.5       , 1.        ])
    """
    values, traced = _numbers(scores), isinstance(scores, Tracer)
    if not traced and (values < 0).any():
        raise ScoreError(
            "lamp squares the scores, and some are negative.\nFix: by=jp.scores.standard."
        )
    xp: Any = jnp if traced else np
    squares = max(values) ** 2
    order = xp.argsort(squares, axis=-1, stable=True)
    ascending = xp.take_along_axis(squares, order, axis=-1)
    left = xp.flip(xp.flip(ascending, axis=-1).cumsum(axis=-1), axis=-1)
    places = xp.argsort(order, axis=-1)
    return xp.take_along_axis(_over(ascending, left), places, axis=-1)


def sentinel(share: float) -> Normalizer:
    """Returns a normalizer: s / |s_k|, where s_k is the score at this share of the ascending order.

    With 0.5 it is the (upper) median.

    Args:
      share: in [0, 1); of n scores it is that of rank int(share * n), from 0.

    Raises:
      ScoreError: `share` is not in [0, 1).

    Source: the normalizer `sentinel` of Torch-Pruning.

    >>> sentinel(0.5)(np.array([4.0, 1.0, 2.0, 8.0]))
    array([1.  , 0.25, 0.5 , 2.  ])
    """
    if not is_number(share) or not 0 <= share < 1:
        raise ScoreError(f"share must be in [0, 1), got {share!r}.\nFix: sentinel(0.5).")

    def over_one(scores: Array) -> Array:
        values = _numbers(scores)
        xp: Any = jnp if isinstance(scores, Tracer) else np
        ascending = xp.sort(values, axis=-1)
        rank = int(share * values.shape[-1])
        return _over(values, abs(ascending[..., rank : rank + 1]))

    return over_one


def none(scores: Array) -> Array:
    """Returns the scores as they are."""
    return _numbers(scores)


def normalized(scores: Mapping[str, Any], *, by: Normalizer = euclidean) -> dict[str, Array]:
    """Returns the scores of every group normalized by itself, for one budget over all groups.

    Args:
      scores: {group: f32[n]}, or f32[layers, n], finite.
      by: the normalizer: `euclidean`, `max`, `mean`, `sum`, `min_max`, `standard`, `lamp`, `none`,
        `sentinel(0.5)`, or any function of the scores of one group that keeps their shape.

    Returns:
      Scores of the same shapes.

    Raises:
      ScoreError: there are no scores, they are not real numbers or not finite, or those that `by`
        returns are not.

    Example:
      >>> import jaxprune as jp
      >>> scores = {"narrow": np.array([1.0, 3.0]), "wide": np.array([10.0, 30.0])}
      >>> jp.scores.normalized(scores, by=jp.scores.mean)
      {'narrow': array([0.5, 1.5]), 'wide': array([0.5, 1.5])}
    """
    given = check_mapping(scores, "scores", "{group: f32[n]}", ScoreError)
    _check_normalizer(by)
    if bad := [f"{n!r} are {kind_of(s)}" for n, s in given.items() if not shape_of_numbers(s)]:
        fix = "Fix: pass what a function of jp.scores returned."
        raise ScoreError("\n".join(["scores must be real numbers, but those of", *bad[:8], fix]))
    fix = "normalize what jaxprune.scores returned."
    ours = {name: here(s) for name, s in given.items()}
    ours = not_empty(ours, by="there are no scores", fix=fix)
    _check_finite(ours, "scores", "Fix: only finite scores have a mean; protect= keeps a group.")
    result = {name: by(s) for name, s in ours.items()}
    failures = [
        f"those of {name!r} are {kind_of(result[name])}, not {kind_of(s)}"
        for name, s in ours.items()
        if shape_of_numbers(result[name]) != list(s.shape)
    ]
    if failures:
        raise ScoreError("\n".join(["by changes what scores are:", *failures[:8], f"Fix: {_BY}"]))
    _check_finite(result, "what by made of the scores", f"Fix: {_BY}")
    return result


def _numbers(scores: Any) -> Array:
    """Returns the scores of one group as an array.

    Raises:
      ScoreError: they are none.
    """
    if (shape := shape_of_numbers(scores)) and 0 not in shape:
        return here(scores)
    raise ScoreError(
        f"a normalizer takes the scores of one group, f32[n], got {kind_of(scores)}.\n"
        "Fix: jp.scores.normalized(scores, by=...) for those of all groups."
    )


def _over(scores: Array, size: Array) -> Array:
    """Returns scores / size, and the scores where it is zero."""
    return scores / (size + (size == 0))


def _check_normalizer(by: Any) -> None:
    check_callable(by, "by", _BY, ScoreError)
    try:
        inspect.signature(by).bind(None)
    except TypeError as error:
        name = getattr(by, "__name__", by)
        raise ScoreError(
            f"by must take the scores of one group, but of {name}: {error}.\nFix: {_BY}"
        ) from error
    except ValueError:  # a builtin without a signature
        return


def _check_finite(scores: Mapping[str, Any], what: str, fix: str) -> None:
    bad = [
        f"{name!r} at channels {np.unique(np.nonzero(~finite)[-1])[:5].tolist()}"
        for name, values in scores.items()
        if not isinstance(values, Tracer) and not (finite := np.isfinite(values)).all()
    ]
    if bad:
        raise ScoreError("\n".join([f"{what} are not finite: {', '.join(bad[:8])}.", fix]))
