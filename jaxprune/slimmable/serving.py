"""A slimmable network in use: switched at run time, exported, priced."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jaxprune.arguments.checks import check_callable, check_mapping
from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import JaxpruneError, KeepError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import cost
from jaxprune.keep import check
from jaxprune.keep.check import Keep, check_keep
from jaxprune.slimmable.calibration import warn_outside
from jaxprune.slimmable.checks import named_keeps
from jaxprune.slimmable.state import Split, check_splits, is_named, variables

Serve = Callable[[Keep], Callable[..., Any]]
"""keep -> run(variables, *inputs) -> outputs, in eval mode."""


class Switch:
    """A network whose width is chosen call by call; see `switch`."""

    def __init__(self, served: Mapping[Any, Callable[..., Any]]):
        self._served = dict(served)

    @property
    def widths(self) -> tuple[Any, ...]:
        """The names of the widths."""
        return tuple(self._served)

    def at(self, width: Hashable) -> Callable[..., Any]:
        """Returns the network at one width, `outputs = net.at(0.5)(x)`.

        Raises:
          KeepError: there is no such width.
        """
        if not isinstance(width, Hashable) or width not in self._served:
            raise KeepError(
                f"the switch has no width {width!r}, only {list(self._served)}.\nFix: name it in "
                "switch(..., widths), calibrated before."
            )
        return self._served[width]

    def warm_up(self, *inputs: Any) -> "Switch":
        """Compiles every width for inputs of these shapes, and returns itself."""
        for run in self._served.values():
            jax.block_until_ready(run(*inputs))
        return self


def switch(
    network: Serve,
    graph: ChannelGraph,
    params: Split,
    rest: Split,
    widths: Mapping[Any, Keep],
    *,
    trained: Mapping[Any, Keep] | None = None,
) -> Switch:
    """Returns the network with a switch for its width: each is compiled once for shapes of inputs.

    The variables of every width are cut out now and held: memory grows by what the smaller widths
    have. Switching then costs nothing.

    Args:
      network: `keep -> run(variables, *inputs) -> outputs`, in eval mode:
        `lambda keep: jp.linen.resize(model, graph, keep).apply`. What `jp.nnx.function` gives
        returns (outputs, updates), of which the first is wanted.
      graph: what `jaxprune.trace` returned.
      params: what was trained.
      rest: what was not, calibrated for every one of the widths if there is BatchNorm.
      widths: {name: keep}.
      trained: the widths of training: a warning names the widths outside of their range.

    Raises:
      KeepError: a keep does not fit, or a width lacks trained leaves or statistics of its own that
        others have.
    """
    widths = named_keeps(widths, graph)
    if not widths:
        raise KeepError("no widths.\nFix: widths={w: prefix(graph, w) for w in (1.0, 0.5)}.")
    if trained is not None:
        trained = named_keeps(trained, graph)
    served = {}
    for name, keep in widths.items():
        warn_outside(graph, name, keep, trained)
        run, small = extract(network, graph, params, rest, name, keep)
        served[name] = jax.tree_util.Partial(jax.jit(run), small)
    return Switch(served)


def extract(
    network: Serve, graph: ChannelGraph, params: Split, rest: Split, name: Hashable, keep: Keep
) -> tuple[Callable[..., Any], Any]:
    """Returns (run, variables) of one width: a plain network, in which nothing is slimmable.

    `jp.export(path, run, variables, x)` makes one file of it, `jp.save(path, variables,
    jp.spec(graph, keep))` a checkpoint. Arguments and errors as in `switch`.
    """
    check_callable(network, "network", "lambda keep: jp.linen.resize(model, graph, keep).apply.")
    keep = check_keep(graph, keep)
    check_splits(params, rest)
    if rest.private and not is_named(rest, name):
        raise KeepError(
            f"width {name!r} has no statistics of its own; those that have are "
            f"{list(rest.private)}.\nFix: rest = calibrate(network, graph, params, rest, "
            "{name: keep}, batches)."
        )
    return network(keep), variables(graph, params, rest, name, keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """What widths cost and give; `str()` is a table.

    columns: {name of a column: its values, one for each width}.
    """

    widths: tuple[Any, ...]
    columns: Mapping[str, tuple[float, ...]]

    def __str__(self) -> str:
        """One line for each width."""
        rows = [("width", *self.columns)]
        for width, *values in zip(self.widths, *self.columns.values(), strict=True):
            rows.append((str(width), *map(_number, values)))
        sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True))
            for row in rows
        )


def spectrum(
    graph: ChannelGraph,
    widths: Mapping[Any, Keep],
    **columns: Callable[[Any], float],
) -> Spectrum:
    """Returns the channels, MACs and parameters of every width, and columns of your own.

    Args:
      graph: what `jaxprune.trace` returned.
      widths: {name: keep}.
      **columns: functions of the name of a width, such as `accuracy=lambda w: ...` or
        `latency=lambda w: jp.latency(net.at(w), x).median`.
    """
    given = check_mapping(widths, "widths", "{name of a width: keep}", KeepError)
    keep = "{group: bool[n]}, a keep, or {group: count}"
    for name, value in given.items():
        check_mapping(value, f"width {name!r}", keep, KeepError)
    counts = [check.widths(graph, value) for value in given.values()]
    for name, column in columns.items():
        check_callable(column, f"column {name!r}", f"{name}=lambda width: ..., a number.")
    return Spectrum(
        widths=tuple(widths),
        columns={
            "channels": tuple(sum(sizes.values()) for sizes in counts),
            "MACs": tuple(cost.macs(graph, sizes) for sizes in counts),
            "parameters": tuple(cost.params(graph, sizes) for sizes in counts),
            **{name: tuple(map(value, widths)) for name, value in columns.items()},
        },
    )


class Device(NamedTuple):
    """How many multiply-accumulates a device does in a second, from low to high."""

    low: float
    high: float


MOBILE_CORE = Device(2e9, 2e9)
"""One core of a phone."""
MOBILE_SOC = Device(12e9, 16e9)
"""All of a phone: MobileNetV2, of 0.3 GMACs, runs at 40 to 53 frames a second."""


def estimate_fps(macs: float, device: Device | float) -> tuple[float, float]:
    """Returns (low, high), the frames a second of a network of so many MACs: a rule of thumb.

    Args:
      macs: multiply-accumulates of one frame.
      device: a `Device`, or its multiply-accumulates a second.

    Raises:
      JaxpruneError: a number is not above 0.

    Source: Yu et al., "Slimmable Neural Networks", ICLR 2019, with the rates of its devices.

    >>> [round(fps) for fps in estimate_fps(300e6, MOBILE_SOC)]
    [40, 53]
    """
    rates = device if isinstance(device, tuple) else (device, device)
    numbers = [plain(x) for x in (macs, *rates)]
    if len(numbers) != 3 or not all(is_number(x) and x > 0 for x in numbers):
        raise JaxpruneError(
            f"estimate_fps: macs={macs!r} and device={device!r} must be above 0.\nFix: "
            "estimate_fps(jp.cost.macs(graph, keep), MOBILE_SOC), traced at batch 1."
        )
    macs, low, high = numbers
    return low / macs, high / macs


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
