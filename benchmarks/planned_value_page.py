"""The page of `benchmarks.planned_value`, made of its journals."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import pages
from experiments.runner import directory

ASKED = ("score", "evaluations", "batches", "steps", "size", "rate", "batch")
"""What all cells of a journal have in common."""

HEAD = """# The value of plans at equal cost

Every planner of `experiments/procedures/planning.py` cuts one dense network to the same share of
its MACs or of its latency, and no group below a tenth; one criterion ranks the channels of each
group, so that plans differ only in how many each of them keeps. *Before*: the dense weights,
masked. *After*: fine-tuned from them, the same steps on the same examples for all. Networks with
BatchNorm have its statistics measured anew. All losses are of the test examples, which no planner
sees; what planners measure is of validation examples.

* *Loss* is cross-entropy in nats (per byte for text). Brackets are 95 % intervals of a bootstrap
  over the test examples, the resamples the same for all. *To uniform* is the difference from the
  plan that keeps the same share of every group, paired example by example.
* *Losses*: how many the planner measured. *Forwards*: the CPU time of all of its planning in CPU
  times of one such loss: short recoveries, least squares, agents and compilation are in it. It is
  blank where a planner was interrupted.
* *Time*: of the latency that the dense network has, by the table that the planner read and measured
  beside the dense network. The table holds contractions alone.

NetAdapt has as many rounds as so many losses allow; a group that cannot make up a round's reduction
alone proposes nothing, so that it measures few. What trains on the way (NetAdapt, Play and Prune,
Energy-Aware) decides and is thrown away.

**What may be concluded**: how these plans order on this network and these examples, with so little
search and so little training. **What may not**: the intervals do not speak of another trained
network, another seed, or longer fine-tuning; the searches run far below the lengths of their
papers, and none of the many comparisons is corrected for their number.
"""
COLUMNS = "| planner | MACs | before | to uniform | after | to uniform | losses | forwards |"
LATENCY = "latency-"
"""Begins the names of cells whose share is one of the latency."""


def page(journals: Mapping[str, Any]) -> str:
    """Returns the page, in Markdown.

    Args:
      journals: {network: what `benchmarks.planned_value` wrote}.
    """
    return pages.page(HEAD, journals, _network)


def _network(journal: Mapping[str, Any]) -> Iterator[str]:
    about, dense, cells = journal["about"], journal["dense"], journal["cells"]
    asked = about["asked"]
    before, after = (pages.interval(dense[when]["loss"]) for when in ("before", "after"))
    yield (
        f"{pages.network(about)}; dense: {before} before and {after} after the fine-tuning of "
        f"{asked['steps']} steps of {asked['size']} examples (Adam, {asked['rate']:g}), on "
        f"{about['test_examples']:,} test examples. Channels ranked by "
        f"`{asked['score']}`; a loss is measured on {64 * asked['batches']} validation examples, "
        f"and searches measure about {asked['evaluations']}; a latency is that of "
        f"{asked['batch']} examples. {directory.made(about)}"
    )
    for bound in dict.fromkeys(key.partition("/")[0] for key in cells):
        of_time = bound.startswith(LATENCY)
        share = float(bound.removeprefix(LATENCY))
        yield from ("", f"### {share:.0%} of the {'latency' if of_time else 'MACs'}", "")
        yield COLUMNS + (" time, by the table | time |" if of_time else "")
        yield "|---" * (10 if of_time else 8) + "|"
        here = {
            key.partition("/")[2]: cell
            for key, cell in cells.items()
            if key.partition("/")[0] == bound
        }
        for planner, cell in sorted(here.items(), key=lambda item: item[1]["after"]["loss"][0]):
            yield _row(planner, cell)
    yield ""


def _row(planner: str, cell: Mapping[str, Any]) -> str:
    entries = [planner, f"{cell['macs']:.1%}"]
    for when in ("before", "after"):
        entries += [
            pages.interval(cell[when]["loss"]),
            pages.interval(cell[when].get("to_control"), sign="+"),
        ]
    forwards = cell["forwards"]
    entries += [f"{cell['measured']:,}", "" if forwards is None else f"{forwards:,.0f}"]
    entries += [f"{cell[of]:.1%}" for of in ("predicted_time", "time") if of in cell]
    return f"| {' | '.join(entries)} |"
