"""Several scores as one: a weighted sum, or one after another by quotas."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import ScoreError
from jaxprune.groups.members import Array, here, not_empty
from jaxprune.groups.scored import shape_of_numbers

_FIX = "pass what functions of jp.scores returned, for the same groups."


def composite(parts: Sequence[tuple[Any, float]]) -> dict[str, Array]:
    """Returns {group: f32[n]}: Σ weight * score, of the groups that all scores have.

    Scores of different kinds have different units: `normalized` makes them comparable first.

    Args:
      parts: pairs of scores and a finite weight; a negative one turns an order around.

    Raises:
      ScoreError: no pair, a weight that is not a number, other shapes, or no group in common.

    >>> ours, theirs = {"a": np.array([1.0, 2.0])}, {"a": np.array([4.0, 0.0])}
    >>> composite([(ours, 1.0), (theirs, 0.5)])
    {'a': array([3., 2.])}
    """
    scores = _shared(parts)
    weights = [plain(weight) for _, weight in parts]
    if bad := [w for w in weights if not is_number(w) or not np.isfinite(w)]:
        raise ScoreError(f"weights must be finite numbers, got {bad}.\nFix: (scores, 0.5).")
    return {
        name: _total([weight * score for weight, score in zip(weights, values, strict=True)])
        for name, values in scores.items()
    }


def quotas(parts: Sequence[tuple[Any, float]]) -> dict[str, Array]:
    """Returns {group: f32[n]}: an order of removal by several scores, one after another.

    The lowest int(share * n) channels of the first score go first, then of those that are left the
    lowest int(share * n) of the second, and so on; all that remain follow by the last score. The
    result is the place in this order, in (0, 1]: 1 / n for the channel that goes first.

    Args:
      parts: pairs of scores and the share of the channels of a group that they choose, in [0, 1].
        FPGM's mix is `[(l2, 0.1), (fpgm, 0.3)]`, for `jp.select.per_group(prune_ratio=0.4)`.

    Raises:
      ScoreError: no pair, shares that are none or exceed 1 together, other shapes, traced scores,
        or no group in common.

    Source: He et al., "Filter Pruning via Geometric Median", CVPR 2019, section 4.1, "FPGM-mix".

    >>> norms, distances = {"a": np.array([4.0, 1.0, 3.0, 2.0])}, {"a": np.array([1.0, 2, 3, 4])}
    >>> quotas([(norms, 0.25), (distances, 0.5)])
    {'a': array([0.5 , 0.25, 0.75, 1.  ])}
    """
    scores = _shared(parts)
    shares = [plain(share) for _, share in parts]
    if not all(is_number(s) and 0 <= s <= 1 for s in shares) or sum(shares) > 1 + 1e-9:
        raise ScoreError(
            f"shares must be in [0, 1], and 1 at most together, got {shares}.\n"
            "Fix: [(norms, 0.1), (distances, 0.3)]."
        )
    if any(isinstance(score, Tracer) for values in scores.values() for score in values):
        raise ScoreError("quotas of traced scores.\nFix: call it outside of jax.jit.")
    return {name: _by_quota(values, shares) for name, values in scores.items()}


def _by_quota(values: Sequence[Array], shares: Sequence[float]) -> Array:
    *_, n = values[0].shape
    rows = [score.reshape(-1, n) for score in values]
    places = np.empty(rows[0].shape, rows[0].dtype)
    for row in range(len(places)):
        left, order = list(range(n)), []
        for score, share in zip(rows, shares, strict=True):
            gone = sorted(left, key=lambda c, score=score, row=row: score[row, c])[: int(share * n)]
            order += gone
            left = [channel for channel in left if channel not in gone]
        order += sorted(left, key=lambda c, row=row: rows[-1][row, c])
        places[row, order] = np.arange(1, n + 1) / n
    return places.reshape(values[0].shape)


def _shared(parts: Any) -> dict[str, list[Array]]:
    """The scores of the groups that all have, in the order of the first."""
    pairs = list(parts) if isinstance(parts, Sequence) else []
    if not pairs or not all(
        isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], Mapping) for p in pairs
    ):
        raise ScoreError(
            "expected pairs of scores and a number.\nFix: [(norms, 0.5), (distances, 0.5)]."
        )
    first, *others = (scores for scores, _ in pairs)
    names = [name for name in first if all(name in scores for scores in others)]
    bad = [
        f"those of {name!r} have shapes {shapes}"
        for name in names
        if len(shapes := {str(shape_of_numbers(scores[name])) for scores, _ in pairs}) > 1
        or "None" in shapes
    ]
    if bad:
        raise ScoreError("\n".join(["scores do not fit together:", *bad[:8], f"Fix: {_FIX}"]))
    shared = {name: [here(scores[name]) for scores, _ in pairs] for name in names}
    return not_empty(shared, by="the scores have no group in common", fix=_FIX)


def _total(values: Sequence[Array]) -> Array:
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result
