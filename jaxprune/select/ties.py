"""How many of the lowest scores go when so many are asked for, where scores tie."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import is_integer, plain
from jaxprune.errors import BudgetError

Ties = Callable[[np.ndarray, int], int]
"""From the scores in scope, f64[N] ascending, and the count that is asked for to the count."""


def exact_count(scores: np.ndarray, count: int) -> int:
    """Returns `count`: exactly the asked number of channels goes, whatever the ties.

    With `count` = floor(N * prune_ratio) it is what the worked example of Network Slimming does:
    60 % of 2 x 5 channels leaves 4. Of scores that tie the first in graph order go.

    Args:
      scores: f64[N], of all channels in scope, ascending.
      count: channels that the ratio asks for.

    >>> exact_count(np.array([0.1, 0.2, 0.3, 0.3, 0.9]), 3)
    3
    """
    _ascending(scores, count)
    return int(plain(count))


def lua_author(scores: np.ndarray, count: int) -> int:
    """Returns how many scores are at or below the `count`-th lowest, arguments as `exact_count`.

    The rule of the authors' Torch code, prune.lua, which keeps |gamma| > y[floor(N * p)], counted
    from 1: `count` channels without ties, and all of those that tie with the last of them. Where
    the count is 0, none go; the script stops there.

    Source: Liu et al., Network Slimming, ICCV 2017; github.com/liuzhuang13/slimming.

    >>> lua_author(np.array([0.1, 0.2, 0.3, 0.3, 0.9]), 3)
    4
    """
    ascending = _ascending(scores, count)
    return int(np.searchsorted(ascending, ascending[count - 1], side="right")) if count else 0


def pytorch_author(scores: np.ndarray, count: int) -> int:
    """Returns how many scores are at or below the next one, arguments as `exact_count`.

    The rule of the authors' PyTorch code, which keeps |gamma| > y[floor(N * p)], counted from 0:
    without ties one channel more than `exact_count`, and all of those that tie at the threshold. A
    ratio of 0 removes the lowest channel too.

    Source: Liu et al., Network Slimming, ICCV 2017; github.com/Eric-mingjie/network-slimming.

    >>> pytorch_author(np.array([0.1, 0.2, 0.3, 0.3, 0.9]), 2)
    4
    """
    ascending = _ascending(scores, count)
    least = ascending[min(count, ascending.size - 1)]
    return int(np.searchsorted(ascending, least, side="right"))


def check_ties(ties: Any) -> None:
    """Raises BudgetError unless `ties` is a function."""
    if not callable(ties) or isinstance(ties, type):
        raise BudgetError(
            f"ties must be a function of sorted scores and a count, got {kind_of(ties)}.\n"
            "Fix: ties=jp.select.exact_count, lua_author or pytorch_author."
        )


def removed(ties: Ties, scores: np.ndarray, count: int) -> int:
    """Returns what a rule answers.

    Raises:
      BudgetError: it is not a number of channels.
    """
    found = ties(scores, count)
    if not (is_integer(found) and 0 <= found <= scores.size):
        raise BudgetError(
            f"the rule {getattr(ties, '__name__', ties)} gives {found!r}, not an int from 0 to the "
            f"{scores.size} channels in scope.\nFix: ties=jp.select.exact_count."
        )
    return int(plain(found))


def _ascending(scores: Any, count: Any) -> np.ndarray:
    """Returns the scores as an array.

    Raises:
      BudgetError: they do not ascend, or the count is not one of 0 to their number.
    """
    try:
        found = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        found = np.zeros((0, 0))
    counted = is_integer(count) and 0 <= count <= found.size
    if found.ndim != 1 or not counted or not found.size or np.any(found[1:] < found[:-1]):
        raise BudgetError(
            "a rule takes scores f64[N], ascending, and a count from 0 to N; got "
            f"{kind_of(scores)} and {count!r}.\nFix: np.sort(scores), floor(N * prune_ratio)."
        )
    return found
