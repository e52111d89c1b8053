"""A threshold and a penalty that follow from how much the loss may still rise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.numbers import check_count, check_finite, check_positive, check_share
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.groups.scored import check_scores
from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Journal, digest, told
from jaxprune.plan.prices import Point, Prices
from jaxprune.plan.problems import Problem, check_problem
from jaxprune.plan.ranked_anew import Score, ranked_anew
from jaxprune.scores.norm import l1

Keep = Mapping[str, np.ndarray]
Train = Callable[[Any, Any, Any, float], Any]
"""From variables, a keep, {group: bool[n]} of what is penalized, and a strength to variables."""


def play_and_prune(
    problem: Problem,
    evaluate: Evaluate,
    train: Train,
    variables: Any,
    *,
    scores: Score = l1,
    tolerance: float = 0.01,
    share: float = 0.05,
    strength: float = 1e-4,
    threshold: float | None = None,
    gain: float = 1.0,
    grow: float = 1.0,
    rounds: int = 100,
    journal: str | PathLike[str] | None = None,
) -> Allocation:
    """Returns the allocation that a game of pruning and training reaches at a tolerated loss.

    The slack is how much the loss may still rise, dense + tolerance - loss, but at least 0, in
    shares of the tolerance. Every round

      1. takes the weakest channels of every choice, a share of those that are left,
      2. trains, with a penalty of strength * slack on the weights of these,
      3. removes those of them whose score is then below gain * slack * threshold, and measures.

    So pruning slows down as the tolerance is used up, and where it is used up a round only trains.
    If the loss is above it still after such a round, that ends the game: what was within it last is
    returned, whether or not the limits hold, which `print` says. The game ends too where the limits
    hold, and the last round goes no further than to them.

    It knows the loss after training and decides by scores alone; branches stay.

    Args:
      problem: what `jp.plan.problem` returned. The method needs no bound; the least that the
        ladders reach leaves the tolerance alone to end it. Of the ladders use many widths.
      evaluate: `evaluate(keep, variables)` to a finite loss, lower is better. The tolerance of the
        paper is of the accuracy: give one minus it.
      train: `train(variables, keep, weak, strength)` to variables in the full shapes: some training
        of the masked network with the penalty strength * sum of `jp.scores.l1` over the channels
        where `weak`, {group: bool[n]}, is true. It must give the same for the same.
      variables: what it begins with.
      scores: (graph, variables) -> {group: f32[n]}, what is compared with the threshold.
      tolerance: epsilon, in units of the loss.
      share: alpha, of what is left of a choice, at least one channel.
      strength: lambda, at full slack.
      threshold: at full slack; by default the largest that the dense network bears without training
        within the tolerance, found by bisection over all its scores.
      gain: delta_w, a factor on the threshold.
      grow: above 1 the tolerance is multiplied by it where it is used up, and the threshold where
        nothing is below it, until the limits hold; 1 is the paper's.
      rounds: how many there are at most.
      journal: a file of losses. Killed and called again, it trains through the rounds again, and
        evaluates the dense network, the first round, and what is new. The result is the same.

    Returns:
      The allocation; its `variables` are those that go with it.

    Raises:
      JaxpruneError: `problem` is not one, `train` is not a function, or a loss is not finite: the
        message names the widths.
      BudgetError: a number makes no sense, or `grow` is above 1 and the limits do not hold after
        all rounds.
      ScoreError: the scores are NaN, or lack a group of the problem.
      CheckpointError: the journal is of another problem, other bounds, options, weights or data.

    Costs: a training and an evaluation in every round; before the first about as many evaluations
    as the number of channels has digits in binary.

    Source: Singh et al., "Play and Prune: Adaptive Filter Pruning for Deep Model Compression",
    IJCAI 2019, section 3: the adaptive filter pruning and the pruning rate controller, whose slack
    is of the accuracy and not in shares. The paper's constants were not at hand: the defaults of
    `share`, `strength` and `gain` are ours, as are `grow` and the stop at the limits.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.array([[4.0, 3.0, 2.0, 1.0]]), "second": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 1)))
    >>> found = jp.plan.problem(graph, jp.scores.l1(graph, v), bounds={jp.cost.macs: 0.25})
    >>> loss = lambda keep, v: float(np.sum(v["first"], where=~keep["first"])) / 10
    >>> still = lambda v, keep, weak, strength: v
    >>> plan = jp.plan.play_and_prune(found, loss, still, v, tolerance=0.4, rounds=3)
    >>> for decision in plan.trace:
    ...     print(decision.what, round(decision.value, 6))
    round 1: threshold 3, strength 0.0001, 1 removed, macs 12 -0.1
    round 2: threshold 2.25, strength 7.5e-05, 1 removed, macs 8 -0.3
    round 3: threshold 0.75, strength 2.5e-05, 0 removed, macs 8 -0.3
    """
    check_problem(problem)
    check_callable(evaluate, "evaluate", "evaluate=jp.plan.evaluator(...).")
    check_callable(train, "train", "train=lambda variables, keep, weak, strength: ...")
    check_callable(scores, "scores", "scores=jp.scores.l1.")
    if variables is None:
        raise JaxpruneError("train has no variables to begin with.\nFix: those of the graph.")
    grow = check_positive(grow, "grow", "grow=1.0.", BudgetError)
    options = {
        "tolerance": check_positive(tolerance, "tolerance", "tolerance=0.01.", BudgetError),
        "share": check_share(share, "share", "share=0.05.", BudgetError),
        "strength": check_finite(strength, "strength", "strength=1e-4.", BudgetError),
        "gain": check_positive(gain, "gain", "gain=1.0.", BudgetError),
        "grow": grow,
        "threshold": threshold
        if threshold is None
        else check_finite(threshold, "threshold", "threshold=None.", BudgetError),
    }
    if grow < 1:
        raise BudgetError(f"grow must be at least 1, got {grow!r}.\nFix: grow=2.0, or 1.0.")
    rounds = check_count(rounds, "rounds", "rounds=100.", BudgetError)
    limits = [[x.name, float(x.value), float(x.dense)] for x in problem.limits]
    head = {"of": "play_and_prune", "choices": digest(problem), "limits": limits, **options}
    known = Journal(journal, head)
    game = _Game(problem=problem, evaluate=evaluate, train=train, scores=scores, journal=known)
    return game.played(variables, rounds, options)


@dataclass(frozen=True, kw_only=True)
class _State:
    """Where the game stands: `point` has the widths, `problem` the order of what is left."""

    problem: Problem
    point: Point
    variables: Any
    loss: float


@dataclass(frozen=True, kw_only=True)
class _Game:
    problem: Problem
    evaluate: Evaluate
    train: Train
    scores: Score
    journal: Journal

    def played(self, variables: Any, rounds: int, options: Mapping[str, Any]) -> Allocation:
        """Returns what the rounds come to."""
        tolerated, grow, base = options["tolerance"], options["grow"], options["threshold"]
        start = Prices(self.problem).start([0] * len(self.problem.choices))
        values, problem = self._ranked(self.problem, start, variables)
        dense = self._measured(["dense"], problem, start.picks, variables)
        if base is None:
            base = self._largest(problem, values, variables, dense + tolerated)
        now = within = _State(problem=problem, point=start, variables=variables, loss=dense)
        trace = list[Decision]()
        for number in range(1, rounds + 1):
            if now.point.surely_holds() and (grow > 1 or now is within):
                break
            slack = max(0.0, (dense + tolerated - now.loss) / tolerated)
            threshold, strength = options["gain"] * slack * base, options["strength"] * slack
            before = now
            now = self._round(number, before, options["share"], threshold, strength)
            removed = _channels(before) - _channels(now)
            trace.append(_told(now, number, threshold, strength, removed))
            if now.loss <= dense + tolerated:
                within, base = now, base if removed else base * grow
            elif slack == 0 and grow == 1:
                break
            elif slack == 0:
                tolerated *= grow
        end = within if grow == 1 else now
        if grow > 1 and not end.point.surely_holds():
            raise BudgetError(
                f"after {rounds} rounds the limits do not hold: {_costs(end)}.\nFix: more rounds=, "
                "a larger grow=, or a looser bound."
            )
        return allocation(
            end.problem, end.point.picks, value=-end.loss, trace=trace, variables=end.variables
        )

    def _round(
        self, number: int, now: _State, share: float, threshold: float, strength: float
    ) -> _State:
        """Trains with the penalty, removes what is below the threshold, and measures."""
        counts, weak = _weakest(now, share)
        keep = now.problem.keep(now.point.picks)
        trained = self.train(now.variables, keep, weak, strength)
        values, problem = self._ranked(now.problem, now.point, trained)
        picks = _below(problem, now.point.picks, values, threshold, counts)
        point = _toward(problem, now.point, picks, values)
        loss = self._measured(["round", number], problem, point.picks, trained)
        return _State(problem=problem, point=point, variables=trained, loss=loss)

    def _ranked(
        self, problem: Problem, point: Point, variables: Any
    ) -> tuple[dict[str, np.ndarray], Problem]:
        values = check_scores(problem.graph, self.scores(problem.graph, variables))
        return values, ranked_anew(problem, point.picks, values)

    def _measured(self, key: Any, problem: Problem, picks: list[int], variables: Any) -> float:
        asked = key, lambda: self.evaluate(problem.keep(picks), variables), told(problem, picks)
        if key in self.journal and key in (["dense"], ["round", 1]):
            self.journal.check(*asked)
        return self.journal.value(*asked)

    def _largest(
        self, problem: Problem, values: Mapping[str, np.ndarray], variables: Any, most: float
    ) -> float:
        """Returns the largest score that may be a threshold within the loss, without training."""
        whole = [0] * len(problem.choices)
        every = np.unique(np.concatenate([values[name].ravel() for name in problem.order.ranked]))
        low, high = 0, len(every) - 1  # below the lowest score there is nothing
        while low < high:
            middle = (low + high + 1) // 2
            picks = _below(problem, whole, values, every[middle], None)
            loss = self._measured(["threshold", middle], problem, picks, variables)
            low, high = (middle, high) if loss <= most else (low, middle - 1)
        return float(every[low])


def _weakest(now: _State, share: float) -> tuple[dict[int, int], dict[str, np.ndarray]]:
    """How many of each choice are the weakest, at least what its next width leaves out, and which.

    What is at its narrowest has none.
    """
    counts, weak = {}, {}
    for place in now.point.moves(1):
        choice, pick = now.problem.choices[place], now.point.picks[place]
        if choice.branch is not None:
            continue
        left = choice.widths[pick]
        counts[place] = max(math.floor(share * left), left - choice.widths[pick + 1])
        for name in choice.members:
            ranked, shape = now.problem.order.ranked[name], now.problem.graph.groups[name].shape
            gone, weak[name] = ranked.shape[-1] - left, np.zeros(shape, bool)
            lowest = ranked[..., gone : gone + counts[place]]
            np.put_along_axis(weak[name], lowest, True, axis=-1)
    return counts, weak


def _below(
    problem: Problem,
    picks: list[int],
    values: Mapping[str, np.ndarray],
    threshold: float,
    counts: Mapping[int, int] | None,
) -> list[int]:
    """The narrowest widths that no channel at the threshold or above it goes for.

    `counts`: of how many channels of each choice at most; None of all.
    """
    found = list(picks)
    for place, choice in enumerate(problem.choices):
        if choice.branch is None and (counts is None or place in counts):
            rows = _left(problem, place, picks[place], values)
            below = min(int((row < threshold).sum(-1).min()) for row in rows)
            most = below if counts is None else min(below, counts[place])
            least = choice.widths[picks[place]] - most
            found[place] = max(i for i, width in enumerate(choice.widths) if width >= least)
    return found


def _toward(
    problem: Problem, point: Point, picks: list[int], values: Mapping[str, np.ndarray]
) -> Point:
    """Narrows to the picks, the lowest scores first, until the limits hold."""
    moved = point.copy()

    def highest(place: int) -> float:
        """The highest score that leaves at the next width of a choice."""
        choice, pick = problem.choices[place], moved.picks[place]
        gone = choice.widths[pick] - choice.widths[pick + 1]
        rows = _left(problem, place, pick, values)
        return max(float(row[..., gone - 1].max()) for row in rows)

    while steps := [i for i, pick in enumerate(picks) if moved.picks[i] < pick]:
        if moved.surely_holds():
            break
        place = min(steps, key=highest)
        moved.move(place, moved.picks[place] + 1)
    return moved


def _left(
    problem: Problem, place: int, pick: int, values: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The scores of the channels that are left of each group of a choice, ascending."""
    rows, choice = [], problem.choices[place]
    for name in choice.members:
        ranked = problem.order.ranked[name]
        left = ranked[..., ranked.shape[-1] - choice.widths[pick] :]
        rows.append(np.take_along_axis(values[name], left, axis=-1))
    return rows


def _channels(state: _State) -> int:
    pairs = zip(state.problem.choices, state.point.picks, strict=True)
    return sum(c.widths[pick] * len(c.members) for c, pick in pairs if c.branch is None)


def _costs(state: _State) -> str:
    pairs = zip(state.problem.limits, state.point.totals, strict=True)
    return ", ".join(f"{limit.name} {total:,}" for limit, total in pairs)


def _told(state: _State, number: int, threshold: float, strength: float, removed: int) -> Decision:
    what = f"threshold {threshold:.3g}, strength {strength:.3g}, {removed:,} removed"
    return Decision(f"round {number}: {what}, {_costs(state)}", -state.loss)
