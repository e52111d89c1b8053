"""The page of `benchmarks.depth`, made of its journals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import pages
from benchmarks.depth_cells import WAYS
from experiments.runner import directory

HEAD = """# Width, depth, or both

One trained network, cut in three ways to the same cost. *Depth*: residual branches go one after the
other, each time that without which the loss on 128 training examples is least (`jp.select.depth`).
*Width*: the channels of the least scores go: the same share of every stream and of all hidden
units, or as they rank over the network, heads too, whichever has the smaller loss there. *Both*:
branches until half of the cost is gone that depth alone takes, then channels, scored in the network
without these branches. Depth goes in steps of a branch; the others keep no more than it does.
*Before* is the network as it is cut (statistics of BatchNorm, if there are any, measured anew),
*after* the same network after the same short training.

* *Loss* is cross-entropy in nats (per byte for text), the mean over the seeds. Seeds choose the
  examples that scores look at and the order of training.
* Brackets are 95 % intervals of a bootstrap over the test examples (2,000 resamples, the same for
  all), of the loss, or of its difference to width alone, example by example. They hold for other
  test examples of the same kind, not for another trained network.
"""


def page(journals: Mapping[str, Any]) -> str:
    """Returns the page, in Markdown.

    Args:
      journals: {network: what `benchmarks.depth` wrote}.
    """
    return pages.page(HEAD, journals, _network)


def _network(journal: Mapping[str, Any]) -> Iterator[str]:
    about, how, whole = journal["about"], journal["how"], journal["dense"]
    yield (
        f"{pages.network(about)}, {about['epochs']} epochs; dense: loss {whole['loss']:.4f}, "
        f"accuracy {whole['accuracy']:.2%} on {about['test_examples']:,} test examples. Channels "
        f"by `{how['criterion']}`; {how['steps']} steps of Adam at {how['rate']:g} afterwards. "
        f"{directory.made(about)}"
    )
    yield ""
    for place, rows in journal["rows"].items():
        equal, share = place.split("/")
        what = "MACs" if equal == "macs" else "latency"
        yield f"### Equal {what}, depth to {float(share):.0%} of the MACs"
        yield ""
        yield from _table(place, rows, journal["cells"])
        yield ""
    missing = [name for name in journal["planned"] if name not in journal["cells"]]
    yield (
        f"Not measured yet: {', '.join(missing)}."
        if missing
        else f"All {len(journal['planned'])} planned cells are there."
    )
    yield ""


def _table(place: str, rows: Mapping[str, Any], cells: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "| way | seeds | MACs | parameters | branches gone | before | to width | after | to width |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for way in WAYS:
        here = [cell for name, cell in cells.items() if name.startswith(f"{place}/{way}/")]
        stages = [rows.get(f"{way}/{stage}") for stage in ("before", "after")]
        if not here or None in stages:
            continue
        counts = sorted({len(cell["branches"]) for cell in here})
        entries = [
            text
            for entry in stages
            if entry
            for text in (
                pages.interval(entry["loss"]),
                pages.interval(entry.get("to_width"), sign="+"),
            )
        ]
        shown = [
            way,
            str(len(here)),
            _range([cell["macs"] for cell in here]),
            _range([cell["params"] for cell in here]),
            " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))),
            *entries,
        ]
        yield f"| {' | '.join(shown)} |"


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{value:.1%}" for value in (min(values), max(values))))
