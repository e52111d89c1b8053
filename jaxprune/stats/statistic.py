"""What a statistic is: pure functions from what is read at a place to a number of a channel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jaxprune.arguments.checks import check_callable, check_flag
from jaxprune.arguments.numbers import is_number
from jaxprune.errors import JaxpruneError

Array = Any
State = Any


class At(Enum):
    """Where a statistic looks at the channels of a group."""

    READS = "what contractions read"  # as jp.tap hands it out: behind activation, pooling, sums
    WRITES = "what contractions write"  # the result of every layer that makes the group, no bias
    AFTER = "what follows the activation"  # before pooling; where nothing bends, what is read
    PRODUCTS = "activation times gradient"  # of what contractions read, entry by entry
    GATES = "the gradient by a gate"  # of the loss of a batch: the sum of the products
    EXAMPLES = "the gradient by a gate, per example"  # of the loss of every example


class Rows(NamedTuple):
    """What a statistic measures at a place.

    samples: arrays f32[..., samples, features], whose samples of several examples add up.
    fixed: arrays that are the same for all examples, such as a kernel.
    """

    samples: Any
    fixed: Any = ()


def added(ours: State, theirs: State) -> State:
    """Returns the sum of two states."""
    return jax.tree.map(lambda a, b: a + b, ours, theirs)


def row_count(x: Array) -> Array:
    """Returns f32[..., 1]: how many samples there are in f32[..., samples, n]."""
    return jnp.full((*x.shape[:-2], 1), x.shape[-2], x.real.dtype)


def total_of(results: Sequence[Any]) -> Any:
    """Returns the sum of the results of several places."""
    return reduce(added, results)


def itself(state: State) -> State:
    """Returns a state as the result."""
    return state


def columns(reading: Any) -> Rows:
    """Returns [*layers, samples, n]: all that each channel holds, its positions among samples."""
    return Rows(jnp.moveaxis(reading.channels, -2, -3).reshape(_joined(reading.channels)))


def _joined(channels: Array) -> tuple[int, ...]:
    *layers, samples, positions, n = channels.shape
    return (*layers, positions * samples, n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A triple of pure functions, `init`, `update` and `finalize`, and `merge`.

    They are made of five smaller ones, of which a new statistic needs the first:

    Attributes:
      measure: `measure(samples, fixed) -> state` of the rows of one batch, a tree of floats. It is
        finite where the rows are, and not where they are not: by that a bad batch is found.
      merge: the state of two sets of data together; their sum by default. States of stacked layers
        come with a leading axis in every array, over which `merge` and `finalize` broadcast.
      finalize: the result, made of a state on the host.
      read: `read(reading) -> Rows`, what is measured at a place: `columns` by default, f32[samples,
        n]. A reading has `channels` f32[*layers, samples, positions, n], what belongs to each
        channel; the operation itself (`op`, `operands`, `results`); `group` and `key`.
      empty: what fills the state of no data.
      at: where it looks; `At.PRODUCTS` takes states that are added, of all entries.
      each: rows are made of every example by itself.
      apart: every example is measured by itself, and the states merged.
      join: makes one result of those of all places of a group, such as `total_of` or `tuple`; by
        default the states of the places are merged, and there is one result.
      weighted: it looks at contractions with one kernel only, whose matrices it reads.

    >>> import numpy as np
    >>> largest = Statistic(measure=lambda x, _: abs(x).max(-2), merge=np.maximum)
    >>> state = largest.init(Rows(np.zeros((3, 2), np.float32)))
    >>> state = largest.update(state, Rows(np.array([[1.0, -3.0], [2.0, 0.0]], np.float32)))
    >>> np.asarray(largest.finalize(state)).tolist()
    [2.0, 3.0]
    """

    measure: Callable[[Any, Any], State]
    merge: Callable[[State, State], State] = added
    finalize: Callable[[State], Any] = itself
    read: Callable[[Any], Rows] = columns
    empty: float = 0.0
    at: At = At.READS
    each: bool = False
    apart: bool = False
    join: Callable[[Sequence[Any]], Any] | None = None
    weighted: bool = False

    def __post_init__(self) -> None:
        for name in ("measure", "merge", "finalize", "read"):
            check_callable(getattr(self, name), name, f"{name}=a function; see jp.stats.Statistic.")
        check_callable(self.join, "join", "join=tuple.", optional=True)
        for name in ("each", "apart", "weighted"):
            check_flag(getattr(self, name), name)
        if not is_number(self.empty):
            raise JaxpruneError(f"empty must be a number, got {self.empty!r}.\nFix: empty=0.0.")
        if not isinstance(self.at, At):
            places = ", ".join(map(str, At))
            raise JaxpruneError(f"at must be one of {places}, got {self.at!r}.\nFix: at=At.READS.")

        sums = self.merge is added and not (self.each or self.apart or self.weighted)
        if self.at is At.PRODUCTS and not sums:
            raise JaxpruneError(
                "at At.PRODUCTS only sums over all entries can be taken, in the backward pass.\n"
                "Fix: at=At.EXAMPLES, or mean_square(at=At.PRODUCTS)."
            )

    def init(self, rows: Rows) -> State:
        """Returns the state of no data, for rows like these (arrays or shapes)."""
        shapes = jax.eval_shape(self.measure, rows.samples, rows.fixed)
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, self.empty, leaf.dtype), shapes)

    def update(self, state: State, rows: Rows) -> State:
        """Returns the state with the rows of one batch more."""
        return self.merge(state, self.of(rows))

    def of(self, rows: Rows) -> State:
        """Returns the state of one batch; under `jax.vmap`, of the examples together."""
        return self._together(rows.samples, rows.fixed)

    def fold(self, states: State) -> State:
        """Returns the states along the leading axis merged."""
        if self.merge is added:
            return jax.tree.map(lambda leaf: leaf.sum(axis=0), states)
        first = jax.tree.map(lambda leaf: leaf[0], states)
        rest = jax.tree.map(lambda leaf: leaf[1:], states)
        return jax.lax.scan(lambda a, b: (self.merge(a, b), None), first, rest)[0]

    @property
    def _together(self) -> Callable[[Any, Any], State]:
        together = custom_vmap(self.measure)

        @together.def_vmap
        def _mapped(size: int, mapped: Any, samples: Any, fixed: Any) -> Any:
            assert not any(jax.tree.leaves(mapped[1])), "what is fixed depends on the examples"
            samples = jax.tree.map(
                lambda leaf, is_mapped: (
                    leaf if is_mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))
                ),
                samples,
                mapped[0],
            )
            if self.apart:
                states = self.fold(jax.vmap(self.measure, (0, None))(samples, fixed))
            else:
                states = self.measure(jax.tree.map(_side_by_side, samples), fixed)
            return states, jax.tree.map(lambda _: False, states)

        return together


def _side_by_side(samples: Array) -> Array:
    """[examples, ..., samples, n] -> [..., examples * samples, n]."""
    moved = jnp.moveaxis(samples, 0, -3)
    return moved.reshape(*moved.shape[:-3], -1, moved.shape[-1])
