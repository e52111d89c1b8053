"""What a pruning procedure consists of: phases, as plain frozen values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import (
    check_count,
    check_finite,
    is_count,
    is_integer,
    is_number,
    plain,
)
from jaxprune.errors import BudgetError, JaxpruneError

Rates = tuple[tuple[float, float], ...]


class Part(StrEnum):
    """What trains; see `jaxprune.schedule.trainable`."""

    ALL = "all"
    GATES = "gates"  # the scales and biases of BatchNorm, and the head
    READERS = "readers"  # the kernels that read the groups of the phase
    NOTHING = "nothing"  # for scores without training


class Quota(StrEnum):
    """What the share that a pruning removes is a share of."""

    LEFT = "left"  # the channels that are left
    CHANNELS = "channels"  # the channels of the network before any pruning
    MACS = "macs"  # its multiply-accumulates
    WEIGHTS = "weights"  # the entries of its kernels


def constant(rate: float) -> Rates:
    """Returns the curve that stays at `rate`.

    Raises:
      JaxpruneError: (as the next) a rate is negative or not finite.
    """
    return ((0.0, _rate(rate)),)


def triangular(low: float, high: float) -> Rates:
    """Returns the curve that rises from `low` to `high` in the first half and falls back."""
    low, high = _rate(low), _rate(high)
    return ((0.0, low), (0.5, high), (1.0, low))


def stepped(rate: float, *, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Rates:
    """Returns the curve that is multiplied by `factor` at each of these shares of a phase.

    Raises:
      JaxpruneError: a rate or a factor is negative or not finite, or the shares do not rise.
    """
    points = [(0.0, _rate(rate))]
    factor = check_finite(factor, "factor", "factor=0.1.")
    shares = [plain(share) for share in at] if isinstance(at, Sequence) else [at]
    within = all(is_number(share) and 0 <= share <= 1 for share in shares)
    if not within or shares != sorted(shares):
        raise JaxpruneError(
            f"at must be shares that rise in [0, 1], got {at!r}.\nFix: (0.5, 0.75)."
        )
    for share in shares:
        points += [(share, points[-1][1]), (share, points[-1][1] * factor)]
    return tuple(points)


def _rate(value: Any) -> float:
    return check_finite(value, "rate", "rate=1e-3.")


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
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        bad = [
            f"{name} must be a finite number, at least 0, got {value!r}"
            for name in ("strength", "momentum", "weight_decay")
            if not _at_least_0(value := getattr(self, name))
        ]
        if not _is_word(self.part, Part):
            bad.append(f"part must be one of {[str(part) for part in Part]}, got {self.part!r}")
        if not is_count(self.epochs):
            bad.append(f"epochs must be an int, at least 1, got {self.epochs!r}")
        if not (is_number(self.data) and 0 < self.data <= 1):
            bad.append(f"data must be in (0, 1], the share of the examples, got {self.data!r}")
        bad += _bad_rates(self.rates)
        if not bad:
            rates = tuple((plain(share), plain(rate)) for share, rate in self.rates)
            object.__setattr__(self, "rates", rates)
        if bad:
            example = "Training(epochs=10, rates=jaxprune.schedule.constant(1e-3))"
            raise JaxpruneError("\n".join([*bad, f"Fix: {example}, and what you need beside it."]))

    def learning_rate(self, steps: int) -> optax.Schedule:
        """Returns the learning rate by step, for a phase of `steps` steps in all its epochs."""
        steps = check_count(steps, "steps", "the batches of all epochs of the phase.")
        points = [*self.rates, (2.0, self.rates[-1][1])]  # a jump may come last
        places = jnp.array([share * steps for share, _ in points])
        rates = jnp.array([rate for _, rate in points])

        def rate(step: jax.typing.ArrayLike) -> jax.Array:
            return jnp.interp(jnp.asarray(step, places.dtype), places, rates)

        return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """How far a pruning goes: by `prune_ratio` of `of`, but no further than `keep_macs` asks for.

    Attributes:
      prune_ratio: the share to remove, in (0, 1); None is as far as `keep_macs`.
      of: what it is a share of. `LEFT` counts anew at each pruning, the others add up over all of
        them.
      keep_macs: the share of the dense network's MACs at which it stops, in (0, 1].
    """

    prune_ratio: float | None = None
    of: Quota = Quota.LEFT
    keep_macs: float | None = None

    def __post_init__(self) -> None:
        """Raises BudgetError where a value makes no sense."""
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        bad = []
        if self.prune_ratio is not None and not (
            is_number(self.prune_ratio) and 0 < self.prune_ratio < 1
        ):
            bad.append(f"prune_ratio must be in (0, 1), got {self.prune_ratio!r}")
        if self.keep_macs is not None and not (
            is_number(self.keep_macs) and 0 < self.keep_macs <= 1
        ):
            bad.append(f"keep_macs must be in (0, 1], the share that stays, got {self.keep_macs!r}")
        if not _is_word(self.of, Quota):
            bad.append(f"of must be one of {[str(of) for of in Quota]}, got {self.of!r}")
        if self.prune_ratio is None and self.keep_macs is None:
            bad.append(
                "neither prune_ratio nor keep_macs is given, so nothing says how far to prune"
            )
        if self.prune_ratio is None and not bad and self.of != Quota.LEFT:
            bad.append(f"of={str(self.of)!r} has no effect without a prune_ratio")
        if bad:
            raise BudgetError("\n".join([*bad, "Fix: prune_ratio=0.01, keep_macs=0.5."]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of a procedure: train, then prune, then commit, each where it is asked for.

    It is all that a plan needs to say what comes next, so that a run that was killed goes on from
    the last phase that it finished.

    Attributes:
      kind: "tick", "tock", "score", "train", "ramp", "layer", "recover", "commit" or "finetune".
      number: from 1, among those of its kind.
      rounds: prunings so far, its own included.
      milestone: how many of the targets are reached and committed, its own included.
      training: None where nothing runs over the data.
      prune: what goes at its end. Scores that need data are gathered while it trains.
      commit: cut out what is masked.
      groups: those that are pruned, and whose readers train by `Part.READERS`; None is all.
    """

    kind: str
    number: int
    rounds: int
    milestone: int
    training: Training | None = None
    prune: Prune | None = None
    commit: bool = False
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raises JaxpruneError where a value makes no sense."""
        bad = [
            f"{name} of a phase must be an int, at least 0, got {value!r}"
            for name in ("number", "rounds", "milestone")
            if not is_integer(value := getattr(self, name)) or value < 0
        ]
        if not isinstance(self.kind, str):
            bad.append(f"kind of a phase must be a word, got {self.kind!r}")
        if not isinstance(self.training, Training | None):
            bad.append(f"training of a phase must be a Training, got {kind_of(self.training)}")
        if not isinstance(self.prune, Prune | None):
            bad.append(f"prune of a phase must be a Prune, got {kind_of(self.prune)}")
        if not isinstance(self.commit, bool):
            bad.append(f"commit of a phase must be True or False, got {self.commit!r}")
        if self.groups is not None and not (
            isinstance(self.groups, tuple) and all(isinstance(name, str) for name in self.groups)
        ):
            bad.append(f"groups of a phase must be a tuple of names, got {self.groups!r}")
        if bad:
            fix = "Fix: take the phases of a plan, such as jp.schedule.tick_tock(keep_macs=0.5)."
            raise JaxpruneError("\n".join([*bad, fix]))

    @property
    def name(self) -> str:
        """Its name in the procedure, such as `tick-12`."""
        return f"{self.kind}-{self.number}"


def to_json(phase: Phase) -> dict[str, Any]:
    """Returns the JSON value of a phase.

    Raises:
      JaxpruneError: this is not a phase.
    """
    return asdict(check_phase(phase))


def from_json(value: Mapping[str, Any]) -> Phase:
    """Returns the phase of a JSON value.

    Raises:
      JaxpruneError: it lacks fields of a phase, has others, or one of them makes no sense.
    """
    values = _fields(value, Phase)
    if values["training"] is not None:
        training = _fields(values["training"], Training)
        values["training"] = Training(
            **training | {"rates": _pairs(training["rates"]), "part": _word(Part, training["part"])}
        )
    if values["prune"] is not None:
        prune = _fields(values["prune"], Prune)
        values["prune"] = Prune(**prune | {"of": _word(Quota, prune["of"])})
    if isinstance(values["groups"], list):
        values["groups"] = tuple(values["groups"])
    return Phase(**values)


def check_phase(phase: Any) -> Phase:
    """Returns the phase.

    Raises:
      JaxpruneError: it is not a phase.
    """
    if not isinstance(phase, Phase):
        raise JaxpruneError(
            f"expected a phase, got {kind_of(phase)}.\n"
            "Fix: take what a plan gave, or jp.schedule.from_json of what was stored."
        )
    return phase


def _fields(value: Any, kind: type) -> dict[str, Any]:
    """The fields of a dataclass in a JSON value."""
    name, expected = kind.__name__.lower(), {field.name for field in fields(kind)}
    given = value.keys() if isinstance(value, Mapping) else set()
    if given != expected:
        raise JaxpruneError(
            f"this is not a {name}: it lacks {sorted(expected - given)} and has "
            f"{sorted(map(str, given - expected))} besides.\n"
            "Fix: pass what jaxprune.schedule.to_json returned, with the version that wrote it."
        )
    return dict(value)


def _pairs(rates: Any) -> Any:
    """The rates as tuples; `Training` checks them."""
    nested = isinstance(rates, Sequence) and all(isinstance(pair, Sequence) for pair in rates)
    return tuple(map(tuple, rates)) if nested else rates


def _word(words: type[StrEnum], value: Any) -> Any:
    """The member of an enum, or the value as it is, which is refused later."""
    return words(value) if _is_word(value, words) else value


def _is_word(value: Any, words: type[StrEnum]) -> bool:
    return isinstance(value, str) and value in list(words)


def _bad_rates(rates: Any) -> list[str]:
    """What is wrong with the points of a learning rate."""
    pairs = isinstance(rates, Sequence) and all(
        isinstance(pair, Sequence) and len(pair) == 2 and all(map(is_number, pair))
        for pair in rates
    )
    if not pairs:
        return [f"rates must be pairs (share of the phase, rate), got {kind_of(rates)}"]
    bad, shares = [], [share for share, _ in rates]
    rising = shares and shares[0] == 0 and shares == sorted(shares) and shares[-1] <= 1
    if not rising or any(map(math.isnan, shares)):
        bad.append(f"the shares of rates must rise from 0 to at most 1, got {shares}")
    if not all(_at_least_0(rate) for _, rate in rates):
        bad.append(f"the rates must be finite, at least 0, got {[rate for _, rate in rates]}")
    return bad


def _at_least_0(value: Any) -> bool:
    return is_number(value) and math.isfinite(value) and value >= 0
