"""The page of `benchmarks.criteria`, made of its journals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import pages
from benchmarks.criterion_cells import OWN, RECOVERIES
from experiments.runner import directory

HEAD = """# Criteria and reconstructions, with no training after the cut

Every criterion of `python -m experiments agp --score` chooses channels of one dense network at a
share of its MACs; every reconstruction of `jp.recover` then makes up for what went, from 256
training examples. Scores read 256 training examples. Nothing is trained; BatchNorm's statistics, if
there are any, are measured anew on 1,000 training images. All numbers are of the test examples.

* *Same widths*: every group (streams, heads, hidden units) loses the same share of its channels, so
  that criteria differ only in which channels they choose. *Own widths*: the scores, each over the
  mean of its group, are ranked over the whole network, as `jp.prune` does. Networks with heads
  also lose half of the channels of one kind alone.
* *Loss* is cross-entropy in nats (per byte for text). Brackets are 95 % intervals of a bootstrap
  over the test examples (2,000 resamples, the same for all), of the loss, or of the difference of
  two losses example by example.
* *To random*: the loss less the mean loss of the random choices at the same widths with the same
  reconstruction. *To none*: the loss less that of the same channels without reconstruction.
  Its interval leaves out how far random choices differ among themselves: compare their rows.

**What may be concluded**: how these choices order on this network, for these test examples, before
any fine-tuning. **What may not**: the intervals hold for other test examples of the same kind, not
for another trained network, another seed, or other training examples for scores and fits; one
network of each kind was measured. Many comparisons are made, and none is corrected for their
number: of twenty intervals that say nothing, one excludes zero. What fine-tuning makes of these
networks is another question. Where the images are the JPEG re-encoding of CIFAR-10 (below), no
number compares with published ones.
"""

TITLES = {"uniform": "the same widths for all", "global": "own widths"}


def page(journals: Mapping[str, Any]) -> str:
    """Returns the page, in Markdown.

    Args:
      journals: {network: what `benchmarks.criteria` wrote}.
    """
    return pages.page(HEAD, journals, _network)


def _network(journal: Mapping[str, Any]) -> Iterator[str]:
    about, dense, cells = journal["about"], journal["dense"], journal["cells"]
    yield (
        f"{pages.network(about)}, {about['epochs']} epochs; dense: loss {dense['loss']:.4f}, "
        f"accuracy {dense['accuracy']:.2%} on {about['test_examples']:,} test examples. "
        f"{directory.made(about)}"
    )
    yield ""
    tables = sorted({tuple(key.split("/")[:2]) for key in cells}, key=_order)
    for share, widths in tables:
        here = {
            tuple(key.split("/")[2:]): cell
            for key, cell in cells.items()
            if key.startswith(f"{share}/{widths}/")
        }
        macs = sorted(cell["macs"] for cell in here.values() if "macs" in cell)
        ends = dict.fromkeys(f"{part:.1%}" for part in (*macs[:1], *macs[-1:]))
        kept = f"{' to '.join(ends) or 'nothing'} of the MACs"
        title = TITLES.get(widths)
        what = (
            f"the MACs, {title}" if title else f"the channels of every {widths} group, others whole"
        )
        yield f"### {float(share):.0%} of {what} ({kept} left)"
        yield ""
        yield from _plain(here)
        yield ""
        if any(recovery != "none" for _, recovery in here):
            yield from _recovered(here)
            yield ""
    yield from _missing(journal)


def _order(table: tuple[str, ...]) -> tuple[str, float]:
    share, widths = table
    return ("" if widths == "uniform" else widths, -float(share))


def _plain(here: Mapping[Any, Any]) -> Iterator[str]:
    """Yields the table of criteria without reconstruction, best first."""
    rows = {key: cell for key, cell in here.items() if "loss" in cell}
    rows = {key: cell for key, cell in rows.items() if key[1] == "none" or key[1] in OWN}
    yield "| criterion | loss | accuracy | to random |"
    yield "|---|---|---|---|"
    for (criterion, recovery), cell in sorted(rows.items(), key=lambda row: row[1]["loss"]):
        name = criterion if recovery == "none" else f"{criterion}, weights of `recover.{recovery}`"
        cells = [pages.interval(cell["loss_interval"]), f"{cell['accuracy']:.2%}"]
        cells.append(pages.interval(cell.get("to_random"), sign="+"))
        yield f"| {name} | {' | '.join(cells)} |"


def _recovered(here: Mapping[Any, Any]) -> Iterator[str]:
    """Yields the table of reconstructions: loss, accuracy, and the difference to none."""
    names = [name for name in RECOVERIES if name != "none"]
    names = [name for name in names if any(key[1] == name and "loss" in here[key] for key in here)]
    if not names:
        return
    yield "| criterion | none | " + " | ".join(f"{n} | to none" for n in names) + " |"
    yield "|---|---" + "|---|---" * len(names) + "|"
    plain = {key[0]: cell for key, cell in here.items() if key[1] == "none" and "loss" in cell}
    for criterion in sorted(plain, key=lambda name: _best(here, name, names)):
        cells = [_point(plain[criterion])]
        for name in names:
            cell = here.get((criterion, name), {})
            cells += [_point(cell), pages.interval(cell.get("to_none"), sign="+")]
        yield f"| {criterion} | {' | '.join(cells)} |"


def _best(here: Mapping[Any, Any], criterion: str, names: Sequence[str]) -> float:
    losses = (here.get((criterion, name), {}).get("loss") for name in names)
    return min((loss for loss in losses if loss is not None), default=float("inf"))


def _missing(journal: Mapping[str, Any]) -> Iterator[str]:
    cells, planned = journal["cells"], journal["planned"]
    failed: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if "failed" in cell:
            failed.setdefault(cell["failed"], []).append(name)
    for why, names in failed.items():
        yield f"Not for this network: {', '.join(names)}: {why}"
        yield ""
    missing = [name for name in planned if name not in cells]
    yield (
        f"Not measured yet ({len(missing)} of {len(planned)}): {', '.join(missing)}."
        if missing
        else f"All {len(planned)} planned cells are there."
    )
    yield ""


def _point(cell: Mapping[str, Any]) -> str:
    return f"{cell['loss']:.4f}, {cell['accuracy']:.1%}" if "loss" in cell else ""
