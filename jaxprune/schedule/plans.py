"""Pruning procedures as plans: what is done and what is left -> the next phase.

A plan is a pure function. It keeps nothing between calls, so that a run goes on after a crash by
being asked for what follows the last finished phase, and it may look at what has been reached.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from jaxprune.arguments.bounds import Absolute, Share
from jaxprune.arguments.checks import check_callable, check_names, kind_of
from jaxprune.arguments.numbers import check_count, check_finite, check_positive, is_number, plain
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.schedule.phase import (
    Part,
    Phase,
    Prune,
    Quota,
    Training,
    check_phase,
    constant,
    triangular,
)

Plan = Callable[[Phase | None, float], Phase | None]
"""(the last finished phase, the share of the MACs that is left) -> the next phase, None at the end.

The first phase follows None.
"""

_CURVE = triangular(1e-3, 1e-2)

TICK = Training(epochs=1, rates=constant(1e-3), part=Part.GATES)
TOCK = Training(epochs=10, rates=_CURVE, strength=1e-3)
SCORE = Training(epochs=1, rates=constant(0.0), part=Part.NOTHING)
FINETUNE = (
    Training(epochs=40, rates=_CURVE, momentum=0.0),
    Training(epochs=10, rates=constant(1e-3), momentum=0.0),
)
"""The settings of Gate Decorator for ResNet-56 on CIFAR-10, from its released code.

There a Tick passes over all of the data; the paper has a subset (`data=`). The batches are of 128
images, and of 64 in the fine-tuning.
"""

Target = float | Share
Targets = Target | Sequence[Target]


def phases(plan: Plan, left: Callable[[], float], *, after: Phase | None = None) -> Iterator[Phase]:
    """Yields the phases of a plan, one by one as they are asked for.

      for phase in jp.schedule.phases(plan, lambda: progress.left(), after=done):

    Args:
      plan: what a function of this module returned.
      left: the share of the MACs that is left, asked for after each phase.
      after: the last phase that is finished, to go on with a run; None is the beginning.
    """
    check_callable(plan, "plan", "plan=jp.schedule.tick_tock(keep_macs=0.5).")
    check_callable(left, "left", "left=lambda: progress.left().")
    after = None if after is None else check_phase(after)
    while (after := plan(after, left())) is not None:
        yield after


def tick_tock(
    *,
    keep_macs: Targets,
    prune_ratio: float = 0.002,
    ticks: int = 10,
    tick: Training = TICK,
    tock: Training = TOCK,
    finetune: Sequence[Training] = FINETUNE,
) -> Plan:
    """Returns the plan of Gate Decorator.

      Tock, then `ticks` times Tick, then Tock, ... until the last target, then fine-tuning

    A Tick trains gates, biases and head while it gathers scores; then a small share of the channels
    goes. A Tock trains all with an L1 penalty on the gates. At each target there is a commit.

    Args:
      keep_macs: the share of the MACs that shall stay, in (0, 1), a number or a `jp.Share`; or
        several, from large to small, each of which is committed.
      prune_ratio: of the channels left, how many go in a Tick; 0.002 is for ResNet-56, 0.005 for
        VGG-16.
      ticks: between two Tocks.
      tick: how the network trains in a Tick.
      tock: and in a Tock.
      finetune: the trainings at the end; may be empty.

    Raises:
      BudgetError: a ratio is not in (0, 1), or the targets do not fall.
      JaxpruneError: `ticks` is not a count.

    Source: You et al., "Gate Decorator", NeurIPS 2019; the numbers are those of the released code.
    There the last Tick goes its whole share; here no further than the target.

    >>> plan = tick_tock(keep_macs=0.5, ticks=2)
    >>> left = iter([1.0, 1.0, 0.8, 0.6, 0.6, 0.4, 0.4, 0.4, 0.4])
    >>> [phase.name for phase in phases(plan, lambda: next(left))]
    ['tock-1', 'tick-1', 'tick-2', 'tock-2', 'tick-3', 'commit-1', 'finetune-1', 'finetune-2']
    """
    ticks = check_count(ticks, "ticks", "ticks=10.")
    _check_trainings(tick=tick, tock=tock)
    ticked = _rounds("tick", tick)

    def work(kind: str, rounds: int, milestone: int, prune: Prune) -> Phase:
        if kind == "tock" or rounds % ticks:
            return ticked(kind, rounds, milestone, prune)
        number = rounds // ticks + 1
        return Phase(kind="tock", number=number, rounds=rounds, milestone=milestone, training=tock)

    return _toward(keep_macs, _ratio(prune_ratio), work, finetune)


def tick_only(
    *,
    keep_macs: Targets,
    prune_ratio: float = 0.002,
    tick: Training = TICK,
    finetune: Sequence[Training] = FINETUNE,
) -> Plan:
    """Returns the plan of Gate Decorator without Tocks; arguments and errors as of `tick_tock`."""
    return _toward(keep_macs, _ratio(prune_ratio), _rounds("tick", tick), finetune)


def iterative(
    *,
    keep_macs: Targets,
    prune_ratio: float,
    training: Training,
    finetune: Sequence[Training] = (),
) -> Plan:
    """Returns the plan of OICSR: train with the penalty, prune, go on so; then fine-tune.

    Args:
      keep_macs: as of `tick_tock`.
      prune_ratio: of the channels left, how many go in a round. The paper gives neither this nor
        how it trains; it lets no layer lose more than half (`max_prune_ratio`).
      training: of each round, before its pruning.
      finetune: the trainings at the end; may be empty.

    Raises:
      BudgetError: a ratio is not in (0, 1), or the targets do not fall.

    Source: Li et al., "OICSR", CVPR 2019, figure 2.
    """
    return _toward(keep_macs, _ratio(prune_ratio), _rounds("train", training), finetune)


def one_shot(
    *, keep_macs: Target, score: Training = SCORE, finetune: Sequence[Training] = FINETUNE
) -> Plan:
    """Returns the plan that scores once and prunes once, down to `keep_macs`, then fine-tunes.

    Args:
      keep_macs: the share of the MACs that shall stay, in (0, 1).
      score: the pass over the data that gathers the scores; by default nothing trains in it.
      finetune: the trainings at the end; may be empty.

    Raises:
      BudgetError: `keep_macs` is not in (0, 1).
    """
    return _toward(keep_macs, None, _rounds("score", score), finetune)


def agp(
    *,
    prune_ratio: float,
    rounds: int,
    training: Training,
    initial: float = 0.0,
    power: float = 3.0,
    of: Quota = Quota.CHANNELS,
    finetune: Sequence[Training] = (),
) -> Plan:
    """Returns the plan of automated gradual pruning: fast at first, slower toward the end.

    After round k of `rounds` the share that is gone is

      prune_ratio + (initial - prune_ratio) * (1 - k / rounds) ** power

    Args:
      prune_ratio: the share that is gone at the end, in (0, 1).
      rounds: how many prunings.
      training: of each round, before its pruning.
      initial: the share that is gone before the first round, in [0, prune_ratio).
      power: 3 in the paper; 1 is a straight line.
      of: what these are shares of; not `LEFT`.
      finetune: the trainings at the end; may be empty.

    Raises:
      BudgetError: a ratio or `of` makes no sense.
      JaxpruneError: `rounds` is not a count, or `power` not positive.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, equation 1.

    >>> training = Training(epochs=1, rates=constant(0.01))
    >>> plan = agp(prune_ratio=0.8, rounds=4, training=training)
    >>> [phase.prune and round(phase.prune.prune_ratio, 4) for phase in phases(plan, lambda: 1.0)]
    [0.4625, 0.7, 0.7875, 0.8, None]
    """
    prune_ratio, initial, power = plain(prune_ratio), plain(initial), plain(power)
    if not (is_number(prune_ratio) and is_number(initial) and 0 <= initial < prune_ratio < 1):
        raise BudgetError(
            f"the ramp must rise from initial in [0, 1) to a higher prune_ratio below 1, got "
            f"{initial!r} to {prune_ratio!r}.\nFix: prune_ratio=0.5 removes half."
        )
    if not isinstance(of, str) or of not in list(Quota):
        raise BudgetError(f"of must be one of {[str(of) for of in Quota]}, got {of!r}.\nFix: MACS.")
    if of == Quota.LEFT:
        raise BudgetError(
            "a ramp is not a share of what is left.\nFix: of=Quota.CHANNELS, or MACS."
        )
    rounds = check_count(rounds, "rounds", "rounds=10.")
    power = check_positive(power, "power", "power=3.")
    work_of = _rounds("ramp", training)

    def work(kind: str, done: int, milestone: int) -> Phase:
        gone = prune_ratio + (initial - prune_ratio) * (1 - (done + 1) / rounds) ** power
        return work_of(kind, done, milestone, Prune(prune_ratio=gone, of=of))

    return _plan(lambda done, _: int(done == rounds), 1, work, finetune)


def layerwise(
    groups: Sequence[str],
    *,
    prune_ratio: float,
    training: Training | None,
    finetune: Sequence[Training] = (),
) -> Plan:
    """Returns the plan that prunes group after group, and lets its readers make up for it.

      prune the first, train, prune the second, train, ..., commit, then fine-tuning

    Args:
      groups: in this order; `list(graph.groups)` is that of the program.
      prune_ratio: the share of the channels that each loses, in (0, 1).
      training: after each of them; with `part=Part.READERS` all but the kernels that read the group
        is frozen. None where nothing trains, since a closed form makes up for it.
      finetune: the trainings at the end; may be empty.

    Raises:
      BudgetError: `prune_ratio` is not in (0, 1).
      JaxpruneError: `groups` are not names, or a name comes twice.

    Source: Luo et al., "ThiNet", ICCV 2017, section 3.1, which trains all layers for one or two
    epochs after each; He et al., "Channel Pruning", ICCV 2017, which trains none.

    >>> training = Training(epochs=1, rates=constant(0.01), part=Part.READERS)
    >>> plan = layerwise(["a", "b"], prune_ratio=0.5, training=training)
    >>> [phase.name for phase in phases(plan, lambda: 1.0)]
    ['layer-1', 'recover-1', 'layer-2', 'recover-2', 'commit-1']
    """
    names = tuple(check_names(groups, "groups", JaxpruneError))
    if not names or len(set(names)) < len(names):
        raise JaxpruneError(
            f"groups must be names, each once, got {names}.\nFix: list(graph.groups)."
        )
    prune = Prune(prune_ratio=_ratio(prune_ratio), of=Quota.CHANNELS)
    if training is not None:
        _check_trainings(training=training)

    def work(kind: str, rounds: int, milestone: int) -> Phase:
        del kind
        return Phase(
            kind="layer",
            number=rounds + 1,
            rounds=rounds + 1,
            milestone=milestone,
            prune=prune,
            groups=(names[rounds],),
        )

    pruned = _plan(lambda rounds, _: int(rounds == len(names)), 1, work, finetune)

    def plan(done: Phase | None, left: float) -> Phase | None:
        if training is None or done is None or check_phase(done).kind != "layer":
            return pruned(done, left)
        return replace(done, kind="recover", training=training, prune=None)

    return plan


Work = Callable[[str, int, int, Prune], Phase]
"""(kind of the last phase, prunings so far, targets reached, how to prune) -> the next phase."""


def _rounds(kind: str, training: Training) -> Work:
    _check_trainings(training=training)

    def work(last: str, rounds: int, milestone: int, prune: Prune) -> Phase:
        del last
        return Phase(
            kind=kind,
            number=rounds + 1,
            rounds=rounds + 1,
            milestone=milestone,
            training=training,
            prune=prune,
        )

    return work


def _toward(
    keep_macs: Targets, prune_ratio: float | None, work: Work, finetune: Sequence[Training]
) -> Plan:
    """Returns the plan that works down to each target."""
    single = str | float | int | Share | Absolute
    several = [keep_macs] if isinstance(keep_macs, single) else keep_macs
    several = several if isinstance(several, Sequence) else [several]
    targets = [plain(t.value if isinstance(t, Share) else t) for t in several]
    shares = all(is_number(target) and 0 < target < 1 for target in targets)
    if not targets or not shares or targets != sorted(set(targets), reverse=True):
        raise BudgetError(
            "keep_macs must be a share in (0, 1) of the MACs that stay, or several from large to "
            f"small, got {keep_macs!r}.\nFix: keep_macs=0.5, or keep_macs=(0.7, 0.5)."
        )
    prunes = [Prune(prune_ratio=prune_ratio, keep_macs=target) for target in targets]

    def reached(rounds: int, left: float) -> int:
        del rounds
        return sum(left < target + 1e-6 for target in targets)  # `budget` rounds so too

    def toward(kind: str, rounds: int, milestone: int) -> Phase:
        return work(kind, rounds, milestone, prunes[milestone])

    return _plan(reached, len(targets), toward, finetune)


def _ratio(prune_ratio: Any) -> float:
    if not (is_number(prune_ratio) and 0 < plain(prune_ratio) < 1):
        raise BudgetError(
            f"prune_ratio must be in (0, 1), got {prune_ratio!r}.\nFix: prune_ratio=0.01."
        )
    return plain(prune_ratio)


def _check_trainings(**trainings: Any) -> None:
    for name, training in trainings.items():
        if not isinstance(training, Training):
            raise JaxpruneError(
                f"{name} must be a Training, got {kind_of(training)}.\n"
                "Fix: jp.schedule.Training(epochs=10, rates=jp.schedule.constant(1e-3))."
            )


def _plan(
    reached: Callable[[int, float], int],
    milestones: int,
    work: Callable[[str, int, int], Phase],
    finetune: Sequence[Training],
) -> Plan:
    """Returns the plan that works, commits at each milestone, and fine-tunes after the last."""
    if not isinstance(finetune, Sequence) or isinstance(finetune, str):
        raise JaxpruneError(
            f"finetune must be a sequence of trainings, got {kind_of(finetune)}.\n"
            "Fix: finetune=(training,), or () for none."
        )
    finetune = tuple(finetune)
    _check_trainings(**{f"finetune[{i}]": training for i, training in enumerate(finetune)})

    def plan(done: Phase | None, left: float) -> Phase | None:
        done = None if done is None else check_phase(done)
        left = check_finite(left, "left", "left=progress.left().")
        kind, rounds, milestone = (done.kind, done.rounds, done.milestone) if done else ("", 0, 0)
        if milestone < (target := reached(rounds, left)):
            return Phase(kind="commit", number=target, rounds=rounds, milestone=target, commit=True)
        if milestone < milestones:
            return work(kind, rounds, milestone)
        number = done.number + 1 if done and kind == "finetune" else 1
        if number > len(finetune):
            return None
        return Phase(
            kind="finetune",
            number=number,
            rounds=rounds,
            milestone=milestone,
            training=finetune[number - 1],
        )

    return plan
