"""Round by round, every choice proposes how it alone meets the next target; the best goes on."""

from collections.abc import Callable
from os import PathLike
from typing import Any, NamedTuple

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.numbers import check_count, check_share, is_number, plain
from jaxprune.errors import BudgetError, ScoreError
from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Journal, digest
from jaxprune.plan.prices import Point, Prices
from jaxprune.plan.problems import Problem, check_problem
from jaxprune.plan.ranked_anew import Score, ranked_anew
from jaxprune.plan.recovering import Recover, Recovering

Preference = Callable[[float, float], float]
"""From the rise of the loss and the share of the cost that goes to what should be low."""


class _Proposal(NamedTuple):
    choice: int
    point: Point


class _Round(NamedTuple):
    number: int
    point: Point
    limit: int
    loss: float
    variables: Any


class _Evaluated(NamedTuple):
    proposal: _Proposal
    loss: float
    variables: Callable[[], Any]


def rise_per_cost(rise: float, saved: float) -> float:
    """Returns the rise of the loss for each share of the cost that goes: the authors' code.

    >>> rise_per_cost(0.5, 0.25)
    2.0
    """
    return rise / saved


def rise_alone(rise: float, saved: float) -> float:
    """Returns the rise of the loss, whatever goes for it: the paper, its highest accuracy.

    >>> rise_alone(0.5, 0.25)
    0.5
    """
    del saved
    return rise


def netadapt(
    problem: Problem,
    evaluate: Evaluate,
    *,
    recover: Recover | None = None,
    variables: Any = None,
    first: float = 0.025,
    decay: float = 0.96,
    rounds: int = 100,
    prefer: Preference = rise_per_cost,
    rescore: Score | None = None,
    journal: str | PathLike[str] | None = None,
) -> Allocation:
    """Returns the allocation where a network is narrowed one choice a round, measured every time.

    Every round has a target: what the network costs, less first * decay ** round of the dense cost,
    and no less than the bound. Each choice proposes its widest width with which the network meets
    it, is recovered for a short while and evaluated; the proposal that `prefer` puts lowest goes
    on, with its variables. Where the targets would end above a bound (0.025 and 0.96 add up to
    62.5 %), the first reduction is the one with which they reach it in `rounds` rounds. Where no
    choice alone meets a target, the reduction is halved until one does. Of several bounds a round
    serves the one that is furthest from being held, in shares of its dense cost.

    It knows the loss after a short training and what was cut before; it looks one round ahead. The
    channels go in the order of the scores of the problem, or with `rescore` in that of new scores
    every round: the paper ranks the filters that are left by their norms.

    Args:
      problem: what `jp.plan.problem` returned; its ladders say which widths there are (the paper's
        are multiples of 8: `multiple_of=8` and a ladder with many widths).
      evaluate: `evaluate(keep)`, with `recover` `evaluate(keep, variables)`, to a finite loss,
        lower is better, such as `jp.plan.evaluator` makes it.
      recover: from variables in the full shapes and a keep to such variables, shortly trained (the
        paper: 10,000 iterations, its code 10); it must give the same for the same.
      variables: what `recover` begins with.
      first: the reduction of the first round, a share of the dense cost.
      decay: of the reductions, from round to round.
      rounds: by which round each bound is met at the latest, if choices meet their targets.
      prefer: `jp.plan.rise_per_cost`, `jp.plan.rise_alone`, or a function of yours.
      rescore: (graph, variables) -> {group: f32[n]}, such as the paper's `jp.scores.l2`, called
        behind every round with the variables that went on: what is left leaves by these scores.
      journal: a file of losses. Killed and called again, it measures two of them again; it repeats
        the recovery of the one proposal that went on, of every round. The result is the same.

    Returns:
      The allocation; its `variables` are those of the last round, for the long training.

    Raises:
      JaxpruneError: `problem` is not one, or a loss is not finite: the message names the widths.
      BudgetError: a number makes no sense, or no choice lowers a cost that is above its bound.
      ScoreError: `rescore` without `recover`, or new scores that are NaN or lack a group.
      CheckpointError: the journal is of another problem, other bounds, options, weights or data.

    Costs: a recovery and an evaluation for every choice in every round.

    Source: Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile
    Applications", ECCV 2018, algorithm 1, and its code.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> loss = lambda keep: 29 - sum(np.sum(scores[name], where=keep[name]) for name in scores)
    >>> for decision in jp.plan.netadapt(found, loss).trace:
    ...     print(decision.what, decision.value)
    second 4 -> 3 of 2 proposals, macs 29 -1.0
    first 4 -> 3 of 2 proposals, macs 24 -2.0
    first 3 -> 2 of 2 proposals, macs 19 -3.0
    second 3 -> 2 of 2 proposals, macs 14 -5.0
    """
    check_problem(problem)
    check_callable(prefer, "prefer", "prefer=jp.plan.rise_per_cost.", BudgetError)
    first = check_share(first, "first", "first=0.025.", BudgetError)
    decay = check_share(decay, "decay", "decay=0.96.", BudgetError)
    rounds = check_count(rounds, "rounds", "rounds=100.", BudgetError)
    check_callable(rescore, "rescore", "rescore=jp.scores.l2.", ScoreError, optional=True)
    if rescore is not None and recover is None:
        raise ScoreError("nothing changes the weights to rescore.\nFix: recover=, or no rescore=.")
    asked = {
        "limits": [[x.name, float(x.value), float(x.dense)] for x in problem.limits],
        "series": [first, decay, rounds, getattr(prefer, "__name__", "")],
        "recovers": recover is not None,
        **({} if rescore is None else {"rescores": getattr(rescore, "__name__", "")}),
    }
    known = Journal(journal, {"of": "netadapt", "choices": digest(problem), **asked})
    losses = Recovering(problem, evaluate, recover, variables, known)
    point = Prices(problem).start([0] * len(problem.choices))
    reductions = first_reductions(problem, point, first, decay, rounds)
    served = [0] * len(problem.limits)
    loss, trace = losses.dense(), list[Decision]()
    while not point.surely_holds():
        limit = _furthest(problem, point)
        least = problem.limits[limit].value
        reduction = reductions[limit] * decay ** served[limit]
        target = max(least, point.totals[limit] - reduction)
        proposals = _proposals(point, limit, target if served[limit] < rounds else least)
        best = _best(losses, proposals, _Round(len(trace), point, limit, loss, variables), prefer)
        loss, variables = best.loss, best.variables()
        trace.append(_told(problem, point, best.proposal, len(proposals), limit, loss))
        point = best.proposal.point
        if rescore is not None:
            losses.problem = ranked_anew(problem, point.picks, rescore(problem.graph, variables))
            problem = losses.problem
        served[limit] += 1
    given = variables if recover is not None else None
    return allocation(problem, point.picks, value=-loss, trace=trace, variables=given)


def _best(
    losses: Recovering, proposals: list[_Proposal], now: _Round, prefer: Preference
) -> _Evaluated:
    """The proposal that `prefer` puts lowest, recovered and evaluated as all are."""
    dense, best = losses.problem.limits[now.limit].dense, list[tuple[float, _Evaluated]]()
    for proposal in proposals:
        picks = proposal.point.picks
        key = [now.number, proposal.choice, picks[proposal.choice]]
        proposed, after = losses.loss(key, picks, now.variables)
        saved = (now.point.totals[now.limit] - proposal.point.totals[now.limit]) / dense
        rank = _ranked(prefer, proposed - now.loss, saved)
        if not best or rank < best[0][0]:
            best = [(rank, _Evaluated(proposal, proposed, after))]
    return best[0][1]


def first_reductions(
    problem: Problem, point: Point, first: float, decay: float, rounds: int
) -> list[float]:
    """Returns what the first round takes of each cost, so that the series reaches its bound."""
    series = float(rounds) if decay == 1 else (1 - decay**rounds) / (1 - decay)
    return [
        max(first * limit.dense, (total - limit.value) / series)
        for limit, total in zip(problem.limits, point.totals, strict=True)
    ]


def _furthest(problem: Problem, point: Point) -> int:
    """The limit that is furthest from being held."""
    pairs = zip(problem.limits, point.totals, strict=True)
    beyond = [(total - limit.value) / limit.dense for limit, total in pairs]
    return beyond.index(max(beyond))


def _proposals(point: Point, limit: int, target: float) -> list[_Proposal]:
    """Every choice at its widest width that meets the target; it gives way until there is one."""
    total = point.totals[limit]
    narrower = [_narrower(point, choice, limit) for choice in point.moves(1)]
    if not any(each and each[-1].point.totals[limit] < total for each in narrower):
        stuck = point.prices.problem.limits[limit]
        raise BudgetError(
            f"{stuck.name} is {total:,}, above its bound {stuck.value:,}, and no choice alone "
            f"lowers it any more.\nFix: a looser bound, jp.Absolute({total}), or a cost that falls "
            "with every width."
        )
    while True:
        met = [[item for item in each if item.point.totals[limit] <= target] for each in narrower]
        if proposals := [each[0] for each in met if each]:
            return proposals
        target = (target + total) / 2


def _narrower(point: Point, choice: int, limit: int) -> list[_Proposal]:
    """A choice at its narrower widths, the widest first."""
    proposals = []
    for pick in range(point.picks[choice] + 1, len(point.prices.problem.choices[choice].widths)):
        moved = point.copy()
        moved.move(choice, pick)
        if moved.totals[limit] < point.totals[limit]:
            proposals.append(_Proposal(choice, moved))
    return proposals


def _ranked(prefer: Preference, rise: float, saved: float) -> float:
    rank = prefer(rise, saved)
    if not is_number(rank) or plain(rank) != plain(rank):
        raise BudgetError(
            f"prefer gave {rank!r}, not a number.\nFix: prefer=jp.plan.rise_per_cost."
        )
    return float(plain(rank))


def _told(
    problem: Problem, before: Point, proposal: _Proposal, of: int, limit: int, loss: float
) -> Decision:
    choice = problem.choices[proposal.choice]
    old, new = (choice.widths[p.picks[proposal.choice]] for p in (before, proposal.point))
    cost = f"{problem.limits[limit].name} {proposal.point.totals[limit]:,}"
    return Decision(f"{choice.name} {old:,} -> {new:,} of {of} proposals, {cost}", -loss)
