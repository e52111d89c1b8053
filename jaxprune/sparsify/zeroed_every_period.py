"""Soft pruning: filters that are zeroed every period, and may grow again in between."""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable, check_mapping
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.numbers import check_count
from jaxprune.cutting.transforms import masked_slots
from jaxprune.errors import JaxpruneError, ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.channels import as_traced
from jaxprune.groups.constraints import Groups, scope
from jaxprune.groups.scored import shape_of_numbers
from jaxprune.sparsify.filters_at_zero import Slots, placed, zeroed_slots
from jaxprune.sparsify.penalty import check_ratio, check_update, value_at

Score = Callable[[ChannelGraph, Any], Mapping[str, jax.Array]]
"""From the graph and the parameters to {group: f[n]}, higher means keep, inside of `jax.jit`."""


NAME = "soft_pruning"
_GIVEN = f"{NAME}: what the score gives"


class Masking(StrEnum):
    """What becomes of pruned filters until the next choice."""

    SOFT = "soft"
    """They are zeroed once, when they are chosen, and train on."""
    HARD = "hard"
    """They stay at zero."""
    DYNAMIC = "dynamic"
    """They train on from where they are; the loss sees `soft_mask(graph, params, keep)`."""


class SoftPruningState(NamedTuple):
    """State of `soft_pruning`."""

    step: jax.typing.ArrayLike  # int32[], updates so far
    keep: dict[str, jax.Array]  # {group: bool[n]}, the last choice; all True before the first


def soft_pruning(
    graph: ChannelGraph,
    score: Score,
    *,
    prune_ratio: float | optax.Schedule,
    period: int,
    masking: Masking = Masking.SOFT,
    biases: bool = False,
    spare: str | Sequence[str] = (),
    only: Groups | None = None,
    protect: Groups = (),
) -> optax.GradientTransformationExtraArgs:
    """Zeroes the filters of the lowest scores in every group, at the end of every period.

      z = w + update                                     what the optimizer alone would give
      where (step + 1) % period == 0:
        of each group of n channels the floor(n * prune_ratio) of the lowest score(z) are pruned
        z  <-  0 in their filters; momentum goes on as it is
      w  <-  z

    with the same ratio in every group and in every layer of a stack. It must see the finished
    update, so its place in a chain is last. The masks are in its state; what they prune is cut by

      keep = optax.tree.get(opt_state, "keep")
      variables = jp.sparsify.soft_mask(graph, {"params": params, **rest}, keep, biases=True)
      small = jp.slice(graph, variables, keep)

    With `jp.scores.l2` it is SFP, with `jp.scores.fpgm` FPGM's soft form, and with a ratio that is
    `jp.schedule.asymptotic` it is ASFP. `masking=Masking.HARD` holds the pruned filters at zero
    between two choices, momentum and decay notwithstanding. With `Masking.DYNAMIC` nothing is
    zeroed: dense weights train on by the gradients at the masked network, and channels come back
    where these make them large,

      loss(jp.sparsify.soft_mask(graph, params, optax.tree.get(opt_state, "keep")), batch)

    What is zeroed, and what `biases` and `spare` do, is said of `soft_mask`.

    Args:
      graph: what `jaxprune.trace` returned.
      score: from the graph and the stepped parameters to {group: f[n]}, such as `jp.scores.l2`. It
        runs in the compiled step. Of equal scores the first go.
      prune_ratio: share of the channels, in [0, 1], or a schedule of it by the step; a channel
        stays in every group (`Group.least`).
      period: steps, such as those of an epoch.
      masking: what becomes of pruned filters until the next choice.
      biases: whether what is added to pruned channels becomes zero as well.
      spare: patterns of kernels and biases that are not zeroed.
      only: names, patterns or kinds of the only groups that are pruned; all by default.
      protect: names, patterns or kinds of groups that are not pruned.

    Returns:
      A transformation whose `update` needs `params`, the parameters alone or the whole variables.

    Raises:
      JaxpruneError: `prune_ratio` is not in [0, 1], `period` is no count, `masking` no Masking.
      PatternError: a pattern matches nothing, or no group is left that a kernel makes.
      ScoreError: (from `init`) the score gives a group none, or one of another shape.
      TreeError: (from `init`) the parameters lack a kernel of the graph, or it has another shape.

    Source: He et al., "Soft Filter Pruning", IJCAI 2018, algorithm 1; He et al., "Filter Pruning
    via Geometric Median", CVPR 2019 (hard: its code zeroes the gradients within an epoch, and lets
    momentum move what it has pruned); Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020,
    algorithm 1 (dynamic). The papers prune each layer by itself; coupled layers lose the same
    channels here.

    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 0.5]]), "b": jnp.ones((2, 1))}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = jp.sparsify.soft_pruning(graph, jp.scores.l2, prune_ratio=0.5, period=1)
    >>> updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> optax.apply_updates(params, updates)["a"].tolist(), state.keep["a"].tolist()
    ([[3.0, 0.0]], [True, False])
    """
    period = check_count(period, "soft_pruning: period", "period=steps of an epoch.")
    _check_masking(masking)
    zeroed = zeroed_slots(graph, biases=biases, spare=spare)
    chosen = scope(graph, list(zeroed), only=only, protect=protect, purpose="that a kernel makes")
    pruned = _Pruned.of(graph, score, prune_ratio, {group: zeroed[group] for group in chosen})

    def init(params: optax.Params) -> SoftPruningState:
        pruned.check(params)
        keep = {group: jnp.ones(graph.groups[group].shape, bool) for group in chosen}
        return SoftPruningState(step=jnp.zeros([], jnp.int32), keep=keep)

    def update(
        updates: optax.Updates,
        state: SoftPruningState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SoftPruningState]:
        del extra
        check_update(NAME, updates, state, params, SoftPruningState)
        due = jnp.remainder(jnp.asarray(state.step) + 1, period) == 0
        stepped = jax.tree.map(lambda w, u: wide(jnp.asarray(w)) + u, params, updates)
        keep = jax.lax.cond(due, lambda: pruned.keep(stepped, state.step), lambda: state.keep)
        if masking != Masking.DYNAMIC:
            free = jnp.logical_not(due) & (masking == Masking.SOFT)
            now = {name: mask | free for name, mask in keep.items()}
            updates = pruned.without(updates, params, now)
        return updates, SoftPruningState(step=optax.safe_increment(state.step), keep=keep)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


class _Pruned(NamedTuple):
    """What is pruned, and by what."""

    graph: ChannelGraph
    score: Score
    ratio: Any
    slots: Slots

    @classmethod
    def of(cls, graph: ChannelGraph, score: Score, ratio: Any, slots: Slots) -> "_Pruned":
        """Returns it, checked."""
        check_callable(score, f"{NAME}: score", "score=jp.scores.l2.")
        return cls(graph, score, check_ratio(NAME, ratio), slots)

    def check(self, params: Any) -> None:
        """Raises unless the parameters fit, and the score gives every group numbers."""
        tree = as_traced(params, self.places(paths.flatten(params)[0]))
        shapes: dict[str, Any] = {}

        def ask(tree: Any) -> int:
            given = check_mapping(self.score(self.graph, tree), _GIVEN, "{group: f[n]}", ScoreError)
            shapes.update({name: shape_of_numbers(given.get(name)) for name in self.slots})
            return 0

        jax.eval_shape(ask, tree)
        wanted = {name: list(self.graph.groups[name].shape) for name in self.slots}
        if bad := [name for name in wanted if shapes[name] != wanted[name]]:
            which = ", ".join(f"{n!r}: {shapes[n]} in place of {wanted[n]}" for n in bad[:5])
            fix = f"Fix: score=jp.scores.l2, or leave them out by protect={bad[:5]}."
            raise ScoreError(f"{NAME}: the scores do not fit the groups: {which}.\n{fix}")

    def places(self, leaves: Mapping[str, Any]) -> dict[str, str]:
        """Returns {path in the graph: path in the parameters} of what is zeroed."""
        return placed(NAME, self.graph, self.slots, self.slots, leaves)

    def keep(self, params: Any, step: Any) -> dict[str, jax.Array]:
        """Returns the masks by the scores of these parameters."""
        tree = as_traced(params, self.places(paths.flatten(params)[0]))
        scores = self.score(self.graph, tree)
        ratio = value_at(self.ratio, step)
        groups = self.graph.groups
        return {name: _kept(scores[name], ratio, groups[name].least) for name in self.slots}

    def without(self, updates: Any, params: Any, keep: Any) -> Any:
        """Returns updates after which the filters of pruned channels are zero to the bit."""
        leaves, named = paths.flatten(params)[0], paths.flatten(updates)[0]
        places = self.places(leaves)
        whole = {path: jnp.ones(jnp.shape(leaves[place]), bool) for path, place in places.items()}
        for path, mask in masked_slots(self.graph, whole, keep, self.slots).items():
            place = places[path]
            named[place] = jnp.where(mask, named[place], -leaves[place])
        return jax.tree.unflatten(jax.tree.structure(updates), named.values())


def _kept(scores: jax.Array, ratio: Any, least: int) -> jax.Array:
    """Returns bool[*layers, n]: all but the floor(n * ratio) lowest, and at least `least`."""
    size = scores.shape[-1]
    if isinstance(ratio, jax.Array):  # whose product has the rounding of float32
        count = jnp.floor(size * ratio + size * 2.0**-22)
    else:
        count = math.floor(size * ratio + 1e-6)
    ranks = jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1)
    return ranks >= jnp.minimum(count, size - least)


def _check_masking(masking: Any) -> None:
    if not isinstance(masking, str) or masking not in list(Masking):
        raise JaxpruneError(
            f"{NAME}: masking must be one of {[str(each) for each in Masking]}, got {masking!r}.\n"
            "Fix: masking=jp.sparsify.Masking.SOFT."
        )
