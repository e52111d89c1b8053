"""BatchNorm statistics of any width, measured after training."""

import warnings
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from jaxprune.arguments.checks import check_batches, check_callable
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.recover.batch_norm import recalibrate
from jaxprune.slimmable.checks import named_keeps
from jaxprune.slimmable.state import Split, check_splits, combine, only, statistics, variables
from jaxprune.slimmable.training import NETWORK, Network
from jaxprune.slimmable.widths import outside_trained_range


def calibrate(
    network: Network,
    graph: ChannelGraph,
    params: Split,
    rest: Split,
    widths: Mapping[Any, Keep],
    batches: Iterable[Any],
    *,
    trained: Mapping[Any, Keep] | None = None,
) -> Split:
    """Returns `rest` in which every one of `widths` has statistics of its own, those of `batches`.

    The old statistics are forgotten; those of other widths stay. See `jp.recover.recalibrate`. All
    widths see the same batches.

    Args:
      network: as in `gradients`, in train mode.
      graph: what `jaxprune.trace` returned.
      params: what was trained.
      rest: what was not.
      widths: {name: keep}, any widths.
      batches: inputs of one shape; the paper finds one batch of 1024 random images good enough.
      trained: the widths of training: a warning names the widths outside of their range.

    Raises:
      KeepError: a keep does not fit, or a width lacks trained leaves that others have.
      TreeError: there is no BatchNorm.
      JaxpruneError: no batches, or statistics that are not finite.

    Source: Yu and Huang, "Universally Slimmable Networks", ICCV 2019, post-statistics of batch
    normalization. Their release leaves the statistics of a US-Net at 0 and 1.
    """
    widths = named_keeps(widths, graph)
    if not widths:
        raise KeepError("no widths.\nFix: widths={w: prefix(graph, w) for w in (1.0, 0.5)}.")
    check_callable(network, "network", NETWORK)
    check_splits(params, rest)
    batches, private = list(check_batches(batches, "calibrate")), dict(rest.private)
    for name, keep in widths.items():
        warn_outside(graph, name, keep, trained)
        small, run = variables(graph, params, rest, name, keep), network(keep)
        updated = recalibrate(lambda v, x, run=run: run(v, x)[1], small, batches, graph=graph)
        measured = only(updated, statistics(updated, graph))
        private[name] = combine(measured, *([private[name]] if name in private else []))
    return rest._replace(private=private)


def warn_outside(
    graph: ChannelGraph, name: Hashable, keep: Keep, trained: Mapping[Any, Keep] | None
) -> None:
    """Warns if a width is outside of the range of the trained ones."""
    if trained is not None:
        trained = named_keeps(trained, graph)
    if trained and (groups := outside_trained_range(graph, keep, trained.values())):
        warnings.warn(
            f"width {name!r} is outside of the trained range in {len(groups)} groups, such as "
            f"{groups[0]!r}: its accuracy was never trained for.\nFix: train from the narrowest "
            "to the widest width that shall be used.",
            stacklevel=3,
        )
