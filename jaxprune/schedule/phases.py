"""What a pruning procedure consists of: phases, as plain frozen values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune._numbers import is_count, is_number
from jaxprune.errors import BudgetError, JaxpruneError

Rates = tuple[tuple[float, float], ...]


class Part(StrEnum):
    """What trains; see `jaxprune.schedule.trained`."""

    ALL = "all"
    GATES = "gates"  # the scales and biases of BatchNorm, and the head
    NOTHING = "nothing"  # for scores without training


class Quota(StrEnum):
    """What the share that a pruning removes is a share of."""

    LEFT = "left"  # the channels that are left
    CHANNELS = "channels"  # the channels of the network before any pruning
    MACS = "macs"  # its multiply-accumulates
    WEIGHTS = "weights"  # the entries of its kernels


def constant(rate: float) -> Rates:
    """Returns the curve that stays at `rate`."""
    return ((0.0, rate),)


def triangular(low: float, high: float) -> Rates:
    """Returns the curve that rises from `low` to `high` in the first half and falls back."""
    return ((0.0, low), (0.5, high), (1.0, low))


def stepped(rate: float, *, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Rates:
    """Returns the curve that is multiplied by `factor` at each of these shares of a phase."""
    points = [(0.0, rate)]
    for share in at:
        points += [(share, points[-1][1]), (share, points[-1][1] * factor)]
    return tuple(points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How the network trains in a phase.

    It can be hashed: with `jax.jit(step, static_argnames="training")` all Ticks are one program.

    Attributes:
      epochs: passes over the data.
      rates: the learning rate, (share of the phase, rate) in order: straight lines between these
        points, a jump where two have one share. See `constant`, `triangular` and `stepped`.
      part: what trains.
      strength: coefficient of the penalty.
      momentum: that of SGD.
      weight_decay: coefficient of the L2 penalty.
      data: share of the training examples that one epoch passes over, in (0, 1].
    """

    epochs: int
    rates: Rates
    part: Part = Part.ALL
    strength: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    data: float = 1.0

    def __post_init__(self) -> None:
        """Raises JaxpruneError where a value makes no sense."""
        bad = [
            f"{name} must be a finite number, at least 0, got {value!r}"
            for name in ("strength", "momentum", "weight_decay")
            if not _at_least_0(value := getattr(self, name))
        ]
        if self.part not in list(Part):
            bad.append(f"part must be one of {[str(part) for part in Part]}, got {self.part!r}")
        if not is_count(self.epochs):
            bad.append(f"epochs must be an int, at least 1, got {self.epochs!r}")
        if not (is_number(self.data) and 0 < self.data <= 1):
            bad.append(f"data must be in (0, 1], the share of the examples, got {self.data!r}")
        shares = [share for share, _ in self.rates]
        if not shares or shares[0] != 0 or shares != sorted(shares) or shares[-1] > 1:
            bad.append(f"the shares of rates must rise from 0 to at most 1, got {shares}")
        if not all(_at_least_0(rate) for _, rate in self.rates):
            bad.append(f"the rates must be finite, at least 0, got {[r for _, r in self.rates]}")
        if bad:
            example = "Training(epochs=10, rates=jaxprune.schedule.constant(1e-3))"
            raise JaxpruneError("\n".join([*bad, f"Fix: {example}, and what you need beside it."]))

    def learning_rate(self, steps: int) -> optax.Schedule:
        """Returns the learning rate by step, for a phase of `steps` steps in all its epochs."""
        points = [*self.rates, (2.0, self.rates[-1][1])]  # a jump may come last
        places = jnp.array([share * steps for share, _ in points])
        rates = jnp.array([rate for _, rate in points])

        def at(step: jax.typing.ArrayLike) -> jax.Array:
            return jnp.interp(jnp.asarray(step, places.dtype), places, rates)

        return at


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """How far a pruning goes: by `share` of `of`, but no further than `keep_macs` asks for.

    Attributes:
      share: the share to remove, in (0, 1); None is as far as `keep_macs`.
      of: what it is a share of. `LEFT` counts anew at each pruning, the others add up over all of
        them.
      keep_macs: the share of the dense network's MACs at which it stops, in (0, 1].
    """

    share: float | None = None
    of: Quota = Quota.LEFT
    keep_macs: float | None = None

    def __post_init__(self) -> None:
        """Raises BudgetError where a value makes no sense."""
        bad = []
        if self.share is not None and not (is_number(self.share) and 0 < self.share < 1):
            bad.append(f"share must be in (0, 1), got {self.share!r}")
        if self.keep_macs is not None and not (
            is_number(self.keep_macs) and 0 < self.keep_macs <= 1
        ):
            bad.append(f"keep_macs must be in (0, 1], the share that stays, got {self.keep_macs!r}")
        if self.of not in list(Quota):
            bad.append(f"of must be one of {[str(of) for of in Quota]}, got {self.of!r}")
        if self.share is None and self.keep_macs is None:
            bad.append("neither share nor keep_macs is given, so nothing says how far to prune")
        if bad:
            raise BudgetError("\n".join([*bad, "Fix: share=0.01, keep_macs=0.5."]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of a procedure: train, then prune, then commit, each where it is asked for.

    It is all that a plan needs to say what comes next, so that a run that was killed goes on from
    the last phase that it finished.

    Attributes:
      kind: "tick", "tock", "score", "train", "ramp", "commit" or "finetune".
      number: from 1, among those of its kind.
      rounds: prunings so far, its own included.
      milestone: how many of the targets are reached and committed, its own included.
      training: None where nothing runs over the data.
      prune: what goes at its end. Scores that need data are gathered while it trains.
      commit: cut out what is masked.
    """

    kind: str
    number: int
    rounds: int
    milestone: int
    training: Training | None = None
    prune: Prune | None = None
    commit: bool = False

    @property
    def name(self) -> str:
        """Its name in the procedure, such as `tick-12`."""
        return f"{self.kind}-{self.number}"


def to_json(phase: Phase) -> dict[str, Any]:
    """Returns the JSON value of a phase."""
    return asdict(phase)


def from_json(value: Mapping[str, Any]) -> Phase:
    """Returns the phase of a JSON value.

    Raises:
      JaxpruneError: it lacks fields of a phase, or has others.
    """
    expected = {field.name for field in fields(Phase)}
    if value.keys() != expected:
        raise JaxpruneError(
            f"this is no phase: it lacks {sorted(expected - value.keys())} and has "
            f"{sorted(value.keys() - expected)} besides.\n"
            "Fix: pass what jaxprune.schedule.to_json returned, with the version that wrote it."
        )
    found = dict(value)
    if found["training"] is not None:
        rates = tuple((share, rate) for share, rate in found["training"]["rates"])
        part = Part(found["training"]["part"])
        found["training"] = Training(**(found["training"] | {"rates": rates, "part": part}))
    if found["prune"] is not None:
        found["prune"] = Prune(**(found["prune"] | {"of": Quota(found["prune"]["of"])}))
    return Phase(**found)


def _at_least_0(value: Any) -> bool:
    return is_number(value) and math.isfinite(value) and value >= 0
