"""NetAdapt: its order of decisions and constants by hand, recoveries, and what is refused."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.errors import BudgetError, CheckpointError, JaxpruneError
from jaxprune.plan import Problem, netadapt, problem, rise_alone, rise_per_cost
from jaxprune.plan.prices import Prices
from jaxprune.plan.proposals import first_reductions
from test_level_swaps import PROBLEMS, picks_of
from test_measured_plans import Dying


def free(found: Problem, seed: int = 0) -> Callable[[Any], float]:
    """A table of losses, one for every combination of widths."""
    sizes = [len(choice.widths) for choice in found.choices]
    table = np.random.default_rng(seed).uniform(size=sizes)
    return lambda keep: float(table[tuple(picks_of(found, keep))])


def by_hand(found: Problem, loss: Any, first: float, per_cost: bool) -> list[list[int]]:
    """The picks of every round under one bound: the algorithm of the paper, written out."""
    (limit,) = found.limits

    def cost(picks: list[int]) -> int:
        return limit.cost(found.graph, found.keep(picks))

    picks, path, k = [0] * len(found.choices), [], 0
    while cost(picks) > limit.value:
        target = max(limit.value, cost(picks) - first * 0.96**k * limit.dense)
        proposals = []
        while not proposals:
            for i, choice in enumerate(found.choices):
                options = [[*picks[:i], n, *picks[i + 1 :]] for n in range(len(choice.widths))]
                met = [o for o in options[picks[i] + 1 :] if cost(o) <= target]
                proposals += met[:1]
            target = (target + cost(picks)) / 2
        rise = [loss(found.keep(o)) - loss(found.keep(picks)) for o in proposals]
        saved = [(cost(picks) - cost(o)) / limit.dense if per_cost else 1 for o in proposals]
        picks = proposals[int(np.argmin(np.array(rise) / saved))]
        path.append(picks)
        k += 1
    return path


@pytest.mark.parametrize("per_cost", [True, False])
@pytest.mark.parametrize("share", [0.6, 0.2])
@pytest.mark.parametrize("which", ["chain", "tied", "rounded"])
def test_the_order_of_decisions_is_that_of_the_paper(
    which: str, share: float, per_cost: bool
) -> None:
    options: dict[str, Any] = {"tied": {"equal": [["layer_0/kernel", "layer_2/kernel"]]}}
    options["rounded"] = {"multiple_of": 2}
    graph = chain(8, 6, 8)[0]
    scores = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    bounds = {jp.cost.macs: share}
    found = problem(graph, scores, bounds=bounds, **options.get(which, {}))
    loss, seen = free(found), []

    def watched(keep: Any) -> float:
        seen.append(keep)
        return loss(keep)

    prefer = rise_per_cost if per_cost else rise_alone
    plan = netadapt(found, watched, prefer=prefer)
    needed = 1 - found.limits[0].value / found.limits[0].dense
    first = max(0.025, needed * 0.04 / (1 - 0.96**100))
    assert (first > 0.025) == (share == 0.2)
    path = by_hand(found, loss, first, per_cost)
    assert picks_of(found, plan.keep) == path[-1]
    assert [step.value for step in plan.trace] == [-loss(found.keep(picks)) for picks in path]
    assert plan.value == -loss(plan.keep)
    assert picks_of(found, seen[0]) == [0] * len(found.choices)


@pytest.mark.parametrize(("share", "first"), [(0.9, 0.025), (0.5, 0.025), (0.1, None)])
def test_the_series_of_reductions_reaches_the_bound(share: float, first: float | None) -> None:
    """The paper's ends at 0.025 / (1 - 0.96) = 62.5 % of the dense cost."""
    graph = chain(64, 64)[0]
    scores = {name: np.ones(group.size) for name, group in graph.groups.items()}
    found = problem(graph, scores, bounds={jp.cost.macs: share})
    ((_, limit, dense),) = [(x.name, x.value, x.dense) for x in found.limits]
    (reduction,) = first_reductions(found, Prices(found).start([0, 0]), 0.025, 0.96, 100)
    series = sum(reduction * 0.96**k for k in range(100))
    if first is None:
        assert series == pytest.approx(dense - limit)
    else:
        assert reduction == first * dense
        assert series > dense - limit


@pytest.mark.parametrize("which", PROBLEMS)
def test_every_bound_is_met_under_ties_multiples_and_branches(which: str) -> None:
    found = PROBLEMS[which]()
    plan = netadapt(found, lambda keep: -float(sum(map(np.sum, keep.values()))))
    assert found.holds(plan.keep)
    assert plan.variables is None


def recovered() -> tuple[Problem, Any, Any]:
    """Variables that count the rounds they were recovered in, which lowers the loss."""
    found = PROBLEMS["chain"]()
    loss = free(found, 3)

    def recover(variables: Any, keep: Any) -> Any:
        return {"steps": [*variables["steps"], picks_of(found, keep)]}

    def evaluate(keep: Any, variables: Any) -> float:
        return loss(keep) - 0.1 * len(variables["steps"])

    return found, evaluate, recover


def test_the_variables_of_the_best_proposal_go_on() -> None:
    found, evaluate, recover = recovered()
    plan = netadapt(found, evaluate, recover=recover, variables={"steps": []})
    steps = plan.variables["steps"]
    assert len(steps) == len(plan.trace) > 3
    assert steps[-1] == picks_of(found, plan.keep)
    changed = [np.sum(np.array(x) != y) for x, y in pairwise(steps)]
    assert set(changed) == {1}
    assert plan.value == -evaluate(plan.keep, plan.variables)


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    found, evaluate, recover = recovered()
    counted = Dying(recover)
    start: Any = {"variables": {"steps": []}}
    whole = netadapt(found, evaluate, recover=counted, **start, journal=tmp_path / "whole")
    for after in (1, 9, counted.calls - 1):
        path = tmp_path / f"{after}"
        with pytest.raises(KeyboardInterrupt):
            netadapt(found, evaluate, recover=Dying(recover, after), **start, journal=path)
        again = Dying(recover)
        plan = netadapt(found, evaluate, recover=again, **start, journal=path)
        assert (plan.widths, plan.trace) == (whole.widths, whole.trace)
        assert plan.variables == whole.variables
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()
        assert again.calls <= counted.calls - after + len(whole.trace)
    with pytest.raises(CheckpointError, match="series is"):
        netadapt(found, evaluate, recover=recover, **start, decay=0.9, journal=tmp_path / "1")


def test_what_cannot_be_met_is_refused() -> None:
    found, evaluate, recover = recovered()
    with pytest.raises(JaxpruneError, match="recover has no variables"):
        netadapt(found, evaluate, recover=recover)
    with pytest.raises(JaxpruneError, match=r"gave nan for 'layer_0/kernel' at width"):
        netadapt(found, lambda keep: np.nan if not keep["layer_0/kernel"].all() else 0.0)
    graph = found.graph

    def stuck(graph: Any, keep: Any = None) -> float:
        """Falls only where everything is narrow."""
        return 1.0 if all(n < 3 for n in jp.widths(graph, keep).values()) else 2.0

    scores = {name: np.ones(group.size) for name, group in graph.groups.items()}
    with pytest.raises(BudgetError, match=r"stuck is 2.0, above its bound 1.5, and no choice"):
        netadapt(problem(graph, scores, bounds={stuck: jp.Absolute(1.5)}), lambda _: 0.0)
