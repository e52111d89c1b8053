"""Scores that add up over batches, and say at which batch they went wrong."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_mapping, check_names, kind_of
from jaxprune.arguments.fetching import fetch
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.scored import real


class Tally(NamedTuple):
    """A sum of scores, that a compiled step carries along.

    sums: {group: f32[n]}. batches: i32[], how many were added. bad: i32[], the first batch with a
      score that was not finite, from 1; 0 if there was none. From that batch on nothing is added.
    """

    sums: Mapping[str, Any]
    batches: Any
    bad: Any

    def add(self, scores: Mapping[str, Any]) -> "Tally":
        """Returns the tally with the scores of one batch more; it may be traced.

        Raises:
          ScoreError: the scores are not of the groups of the tally.
        """
        check_mapping(scores, "scores", "{group: f32[n]}", ScoreError)
        if scores.keys() != self.sums.keys():
            names = sorted(map(str, scores.keys() ^ self.sums.keys()))
            raise ScoreError(
                f"the scores and the tally differ in the groups {names[:5]}.\n"
                "Fix: jaxprune.schedule.tally(graph, groups) with the groups that are scored, such "
                "as jaxprune.select.members(graph) for gates."
            )
        bad = [
            f"scores for group {name!r} are {kind_of(score)}, the tally has {total.shape}"
            for name, total in self.sums.items()
            if _shape(score := scores[name]) != total.shape
        ]
        if bad:
            fix = "Fix: the scores of the graph that the tally was made for."
            raise ScoreError("\n".join([*bad, fix]))
        batches = self.batches + 1
        finite = jnp.stack(
            [jnp.isfinite(jnp.asarray(score)).all() for score in scores.values()]
        ).all()
        bad = jnp.where((self.bad == 0) & ~finite, batches, self.bad)
        sums = {
            name: jnp.where(
                bad == 0, (total + jnp.asarray(scores[name])).astype(total.dtype), total
            )
            for name, total in self.sums.items()
        }
        return Tally(sums, batches, bad)

    def scores(self) -> dict[str, np.ndarray]:
        """Returns {group: f32[n]}, the sums, on the host.

        Raises:
          ScoreError: nothing was added, or a batch had a score that was not finite.
        """
        sums, batches, bad = fetch(tuple(self))
        if bad:
            raise ScoreError(
                f"batch {bad} of {batches} gave scores that are not finite, so its loss or its "
                "gradients were not either.\n"
                "Fix: go back to the network before this phase, and lower the learning rate or the "
                "penalty; optax.apply_if_finite leaves such batches out of the training."
            )
        if not batches:
            raise ScoreError("no batch was added to the tally.\nFix: tally = tally.add(scores).")
        return {name: np.asarray(total) for name, total in sums.items()}


def _shape(score: Any) -> tuple[int, ...] | None:
    """The shape of scores, found without a copy from a device; None for anything else."""
    if isinstance(score, jax.Array):
        return score.shape if jnp.issubdtype(score.dtype, jnp.floating) else None
    numbers = real(score)
    return None if numbers is None else numbers.shape


def tally(graph: ChannelGraph, groups: Collection[str] | None = None) -> Tally:
    """Returns the empty tally.

    Args:
      graph: what `jaxprune.trace` returned.
      groups: those that are scored; all by default.

    Raises:
      ScoreError: an unknown group, or none.

    >>> import jaxprune as jp
    >>> variables = {"first": np.ones((2, 3)), "second": np.ones((3, 1))}
    >>> fn = lambda v, x: x @ v["first"] @ v["second"]
    >>> counted = tally(jp.trace(fn, variables, np.ones((1, 2))))
    >>> for batch in ([1.0, 0.0, 2.0], [1.0, 1.0, 1.0]):
    ...     counted = counted.add({"first": jnp.array(batch)})
    >>> counted.scores()
    {'first': array([2., 1., 3.], dtype=float32)}
    """
    check_graph(graph)
    names = list(graph.groups if groups is None else check_names(groups, "groups", ScoreError))
    if not names:
        raise ScoreError("no group is scored.\nFix: leave groups out to score all.")
    if unknown := [name for name in names if name not in graph.groups]:
        raise ScoreError(
            f"the graph has no group {unknown[:5]}.\nFix: list the groups with print(graph)."
        )
    sums = {name: jnp.zeros(graph.groups[name].shape) for name in names}
    return Tally(sums, jnp.int32(0), jnp.int32(0))
