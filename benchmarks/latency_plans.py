"""Plans under a latency beside plans under MACs of the same value: which of them runs faster.

For each network of `benchmarks.latency` a table of latencies at widths of which every other one is
odd, so that it does not fill vectors. The plan under MACs keeps the most value within half of them;
the one under latency is the fastest, by the table, of at least that value. Both, and the first of
them once more, are measured in turn as `jp.narrow` runs them.

Command: python -m benchmarks.latency_plans [--batch 32] [--rounds 9] [network ...]
Device:  the present one, with nothing else on it
Writes:  benchmarks/results/latency_plans.md
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from benchmarks.latency import NETWORKS
from benchmarks.programs import narrowed

SHARE = 0.5
"""Of the MACs that stay."""
STEPS = 4
"""Even widths in the ladder of a group; as many odd ones lie between them."""
REPEATS = 5
"""How often the programs are measured, each time in so many rounds as were asked for."""
HALVINGS = 8
"""Of the range in which the latency of a plan is sought."""
RESULTS = Path(__file__).parent / "results" / "latency_plans.md"
TEXT = """# Plans under a latency

Written by `python -m benchmarks.latency_plans` on {device}, at batch {batch}: {repeats} times
{rounds} rounds in turn, the median of the ratios and their range. The plan under MACs
(`jp.plan.milp`, half of them, channels ranked by `jp.scores.l2`) and the one under latency are
worth the same, or the second one more; both take widths of one ladder, of which every other one is
odd and does not fill vectors. *MACs* and *odd* (groups that kept an odd width): of the plan under
latency, and of the one under MACs. *By the table* and *measured*: the time of the first in times of
the second. *Again*: the second beside itself.

| network | value | MACs | odd | by the table | measured | again |
|---|---|---|---|---|---|---|"""


def ladders(graph: jp.ChannelGraph) -> dict[str, tuple[int, ...]]:
    """Returns {group: widths}: shares of it, and an odd width below each of these."""
    found = {}
    for name, group in graph.groups.items():
        even = [max(1, group.size * step // STEPS) for step in range(1, STEPS + 1)]
        odd = [max(1, (width - group.size // (2 * STEPS)) | 1) for width in even]
        found[name] = tuple(sorted({*even, *odd}, reverse=True))
    return found


def fastest(problem: Callable[[Any], jp.plan.Problem], value: float, most: float) -> Any:
    """Returns the plan of the least latency, at most `most`, that is worth `value` or more."""
    low, high, best = 0.0, most, None
    for _ in range(HALVINGS):
        bound = (low + high) / 2 if best is not None else high
        plan = _milp(problem, bound)
        if plan is not None and plan.value >= value - 1e-9 * abs(value):
            best, high = plan, plan.costs["latency"]
        else:
            low = bound
    return best


def _milp(problem: Callable[[Any], jp.plan.Problem], bound: float) -> Any:
    try:
        return jp.plan.milp(problem(jp.Absolute(bound)), gap=1e-3)
    except jp.errors.BudgetError:
        return None  # faster than any of its plans


def row(name: str, asked: argparse.Namespace) -> str:
    """Returns the row of a network in the table."""
    graph, variables, x = NETWORKS[name](asked.batch)
    widths = ladders(graph)
    timer = functools.partial(jp.cost.interleaved, repeats=asked.rounds)
    seconds = jp.cost.tabled(jp.cost.latency_table(graph, ladder=widths, timer=timer))
    scores = jp.scores.normalized(jp.scores.l2(graph, variables))

    def problem(cost: jp.cost.Cost, bound: Any) -> jp.plan.Problem:
        return jp.plan.problem(graph, scores, bounds={cost: bound}, ladder=widths)

    macs = jp.plan.milp(problem(jp.cost.macs, jp.Share(SHARE)), gap=1e-3)
    slow = seconds(graph, macs.keep)
    quick = fastest(functools.partial(problem, seconds), macs.value, slow)
    calls = narrowed(graph, variables, x, [macs.keep, quick.keep, macs.keep])
    times = np.array([timer(calls) for _ in range(REPEATS)])
    left = [jp.cost.macs(graph, plan.keep) / jp.cost.macs(graph) for plan in (quick, macs)]
    odd = [str(sum(width % 2 for width in plan.widths.values())) for plan in (quick, macs)]
    return (
        " | ".join(
            [
                f"| {name}",
                f"{quick.value / macs.value:.4f}",
                *(f"{share:.1%}" for share in left),
                *odd,
                f"{seconds(graph, quick.keep) / slow:.3f}",
                *(_ratio(times[:, i] / times[:, 0]) for i in (1, 2)),
            ]
        )
        + " |"
    )


def _ratio(ratios: np.ndarray) -> str:
    return f"{np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})"


def main() -> None:
    """Writes the table of the networks that are named, or of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    about = {"batch": asked.batch, "rounds": asked.rounds, "repeats": REPEATS}
    lines = [TEXT.format(device=jax.devices()[0].device_kind, **about)]
    for name in asked.networks or NETWORKS:
        lines.append(row(name, asked))
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
