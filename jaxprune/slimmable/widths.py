"""Prefix widths: how many leading channels of every group a width keeps."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, TypedDict, Unpack

import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_mapping, check_options, kind_of
from jaxprune.arguments.numbers import check_count, check_finite, is_count, is_number, plain
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph, Contraction, check_graph
from jaxprune.groups.constraints import Groups
from jaxprune.groups.kinds import matching
from jaxprune.inspecting.parameters import each_contraction
from jaxprune.keep import check
from jaxprune.keep.check import Keep, check_keep
from jaxprune.program import spaces as ax
from jaxprune.program.spaces import Space
from jaxprune.slimmable.checks import check_generator, named_keeps
from jaxprune.slimmable.width_constants import following


class Rounding(TypedDict, total=False):
    """How a multiplier becomes channels."""

    divisor: int  # counts are multiples of it, or the full size; default 8
    min_channels: int  # no group gets fewer, rounded up to the divisor; default 1
    supernet: float  # the multiplier of the network that was traced; default 1.0
    expansion: Mapping[str, int]  # {pattern: t}: counts are t times a multiple of the divisor
    protect: Groups  # names, patterns or kinds of groups that never slim; default none


def make_divisible(value: float, divisor: int = 8, least: int = 1) -> int:
    """Returns the multiple of `divisor` nearest to `value`, and never less than 90 % of it.

    Raises:
      KeepError: `value` is not a finite number of at least 0, or the others are not counts.

    Source: Yu et al., "Slimmable Neural Networks", ICLR 2019, the authors' code. Below half of a
    divisor its `least` of 1 is not a multiple: 2 channels of 8 become 9.

    >>> [make_divisible(32 * width) for width in (0.25, 0.35, 0.5, 0.75, 1.0)]
    [8, 16, 16, 24, 32]
    """
    value = check_finite(value, "value", "the channels that are asked for.", KeepError)
    divisor = check_count(divisor, "divisor", "divisor=8.", KeepError)
    least = check_count(least, "least", "least=1.", KeepError)
    return _divisible(value, divisor, least)


def _divisible(value: float, divisor: int, least: int) -> int:
    count = max(least, int(value + divisor / 2) // divisor * divisor)
    return count + divisor if count < 0.9 * value else count


def prefix(
    graph: ChannelGraph, width: float | Mapping[str, float], **rounding: Unpack[Rounding]
) -> dict[str, np.ndarray]:
    """Returns the keep of the first channels of every group.

    Where a width is a product of groups, as in a grouped convolution, GroupNorm or attention, one
    factor slims: the innermost that is exact. So a grouped convolution keeps the first channels
    inside each of its groups, and attention keeps its first heads at their size. The other factors
    stay whole, unless a pattern matches nothing else.

    Args:
      graph: what `jaxprune.trace` returned.
      width: a multiplier in (0, supernet], where `supernet` is the whole network; or {pattern of
        groups: a multiplier, or an int, which is a count}. A later pattern overrides an earlier
        one, and groups that none matches stay whole.
      **rounding: see `Rounding`. A count is `make_divisible(size * width / supernet, divisor)`,
        with the divisor as its least value, which makes it rise with the multiplier.

    Returns:
      {group: bool[n]} of the groups that may slim.

    Raises:
      KeepError: a width is out of range, the rounding makes no sense, or a stream loses channels
        that one of its readers (`jp.select_inputs`) keeps.
      PatternError: a pattern matches nothing.
      JaxpruneError: there is no such option.

    Source: Yu et al., ICLR 2019; Yu and Huang, ICCV 2019 (expansion); the authors' code.

    >>> from jaxprune import trace
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> prefix(graph, 0.5, divisor=1)
    {'first': array([ True,  True, False, False])}
    """
    check_graph(graph)
    rounding = _checked(rounding)
    width = {k: plain(v) for k, v in width.items()} if isinstance(width, Mapping) else plain(width)
    counted = isinstance(width, Mapping)
    names = scope(graph, rounding.get("protect", ()))
    wanted = _wanted(graph, width, rounding) if counted else dict.fromkeys(names, width)
    _check_widths(graph, width, wanted, rounding.get("supernet", 1.0))
    times = _expanded(rounding.get("expansion", {}), graph, "expansion pattern")
    keep = {}
    for name, group in graph.groups.items():
        if name in wanted:
            count = wanted[name]
            if not (counted and is_count(count)):
                count = _count(count, group.size, times.get(name, 1), rounding)
            keep[name] = np.arange(group.size) < count
    check_keep(graph, keep)
    return keep


def uniform(
    graph: ChannelGraph,
    rng: np.random.Generator,
    low: float,
    high: float,
    **rounding: Unpack[Rounding],
) -> dict[str, np.ndarray]:
    """Returns the `prefix` of one multiplier drawn from [low, high); other arguments as there."""
    low, high = _range(graph, rng, low, high, rounding)
    return prefix(graph, rng.uniform(low, high), **rounding)


def nonuniform(
    graph: ChannelGraph,
    rng: np.random.Generator,
    low: float,
    high: float,
    **rounding: Unpack[Rounding],
) -> dict[str, np.ndarray]:
    """Returns the `prefix` of a multiplier drawn from [low, high) for every group by itself.

    Source: Yu and Huang, "AutoSlim", 2019: so its supernet is trained, from 0.15 to 1.5.
    """
    low, high = _range(graph, rng, low, high, rounding)
    drawn = {name: rng.uniform(low, high) for name in scope(graph, rounding.get("protect", ()))}
    return prefix(graph, drawn, **rounding)


def sandwich(
    widths: Mapping[Hashable, Keep], rng: np.random.Generator, n: int = 4
) -> dict[Any, Keep]:
    """Returns the widths of one training step: the largest, the smallest, and n - 2 others.

    Args:
      widths: {name: keep}, from which the others are drawn without repetition.
      rng: what draws.
      n: how many, at least 2; all of `widths` where it has fewer.

    Raises:
      KeepError: `n` or the number of widths is below 2.

    Source: Yu and Huang, "Universally Slimmable Networks", ICCV 2019, the sandwich rule. They draw
    from the continuum; a grid bounds the number of programs.
    """
    widths = named_keeps(widths)
    check_generator(rng)
    n = plain(n)
    if not is_count(n) or min(n, len(widths)) < 2:
        raise KeepError(
            f"sandwich: n={n!r} of {len(widths)} widths; a sandwich is the largest and the "
            "smallest at least.\nFix: n=4 and a grid of four widths or more."
        )
    largest, *others, smallest = sorted(widths, key=lambda name: _removed(widths[name]))
    drawn = rng.permutation(len(others))[: n - 2]
    return {name: widths[name] for name in (largest, smallest, *(others[i] for i in drawn))}


def outside_trained_range(graph: ChannelGraph, keep: Keep, trained: Iterable[Keep]) -> list[str]:
    """Returns the groups that are narrower, or wider, in `keep` than in any of `trained`.

    Raises:
      KeepError: there are no trained widths.
    """
    here = {**check.widths(graph), **check.widths(graph, check_keep(graph, keep))}
    if not isinstance(trained, Iterable) or isinstance(trained, str | Mapping):
        raise KeepError(f"trained must be keeps, got {kind_of(trained)}.\nFix: widths.values().")
    trained = [check_keep(graph, other) for other in trained]
    if not (known := [check.widths(graph, other) for other in trained]):
        raise KeepError("no trained widths.\nFix: trained=widths.values().")
    return [
        name
        for name, count in here.items()
        if not min(each[name] for each in known) <= count <= max(each[name] for each in known)
    ]


def _removed(keep: Keep) -> int:
    """How many channels go; groups that are absent stay whole."""
    return sum(int(np.size(kept) - np.sum(kept)) for kept in keep.values())


def _count(width: float, size: int, times: int, rounding: Rounding) -> int:
    """Returns how many of `size` channels a multiplier keeps."""
    supernet = rounding.get("supernet", 1.0)
    if width == supernet:
        return size
    divisor = rounding.get("divisor", 8)
    least = -(-rounding.get("min_channels", 1) // divisor) * divisor
    return min(size, times * _divisible(size * width / supernet / times, divisor, least))


def _wanted(
    graph: ChannelGraph, widths: Mapping[str, float], rounding: Rounding
) -> dict[str, float]:
    """Returns {group: width} of {pattern: width}, without what is protected."""
    whole = matching(graph, rounding.get("protect", ()), graph.groups, what="protect pattern")
    expanded = _expanded(widths, graph, "width pattern", held(graph))
    return {name: value for name, value in expanded.items() if name not in whole}


def _expanded(
    table: Mapping[str, Any], graph: ChannelGraph, what: str, last: Set[str] = frozenset()
) -> dict[str, Any]:
    """Returns {group: value} of {pattern: value}; a later pattern overrides an earlier one.

    A pattern stands for the groups `last` only where it matches no other.
    """
    paths.require([name for name in table if name not in graph.groups], graph.groups, what=what)
    values: dict[str, Any] = {}
    for pattern, value in table.items():
        exact = pattern in graph.groups
        names = {pattern} if exact else paths.require([pattern], graph.groups, what=what)
        values |= dict.fromkeys(names - last or names, value)
    return values


def scope(graph: ChannelGraph, protect: Groups = ()) -> list[str]:
    """Returns the groups that a multiplier slims."""
    check_graph(graph)
    whole = matching(graph, protect, graph.groups, what="protect pattern")
    whole |= held(graph)
    return [name for name in graph.groups if name not in whole]


def held(graph: ChannelGraph) -> set[str]:
    """Returns the groups that stay whole because another factor of their width slims."""
    slims: set[str] = set()
    whole: set[str] = set()

    def rank(place: int, names: set[str]) -> tuple[bool, bool, bool, int]:
        exact = not any(graph.groups[name].inexact or name in following(graph) for name in names)
        return bool(names & slims), not names & whole, exact, place

    for factors in _products(graph):
        _, chosen = max(enumerate(factors), key=lambda pair: rank(*pair))
        slims |= chosen - whole
        whole |= set().union(*factors) - slims
    return whole


def _products(graph: ChannelGraph) -> Iterator[list[set[str]]]:
    """Yields the groups of each factor, for every width that is a product of several.

    It is one axis, or the axes that a kernel makes at once: heads and head size.
    """
    kernels = (tuple(_made(graph, term)) for term in each_contraction(graph.contractions))
    axes = (space for variable in graph.variables.values() for space in variable.axes)
    for spaces in (*kernels, *(product for space in axes for product in _factors(space))):
        named = [{a.name for a in ax.atoms(space) if a.name is not None} for space in spaces]
        if len(factors := [names for names in named if names]) > 1:
            yield factors


def _made(graph: ChannelGraph, term: Contraction) -> Iterator[Space]:
    """Yields the axes of a result that come from a kernel."""
    axes = [space for path in term.kernels for space in graph.variables[path].axes]
    atoms = {atom for space in axes for atom in ax.atoms(space)}
    for space in term.output:
        if atoms & set(ax.atoms(space)):
            yield space


def _factors(space: Space) -> Iterator[Sequence[Space]]:
    """Yields the factors of every product in a space."""
    space = ax.find(space)
    if not isinstance(space, ax.Atom):
        inner = space.parts if isinstance(space, ax.Sum) else space.factors
        if isinstance(space, ax.Prod):
            yield inner
        for item in inner:
            yield from _factors(item)


def _checked(rounding: Rounding) -> Rounding:
    """Returns the options with plain numbers.

    Raises:
      JaxpruneError: there is no such option.
      KeepError: one makes no sense.
    """
    check_options(rounding, Rounding, "prefix")
    expansion = rounding.get("expansion", {})
    example = "{pattern: t}, an int for each"
    expansion = check_mapping(expansion, "expansion", example, KeepError)
    bad = [
        f"{name} must be an int, at least 1, got {value!r}"
        for name, value in (
            ("divisor", rounding.get("divisor", 8)),
            ("min_channels", rounding.get("min_channels", 1)),
            *((f"expansion of {k!r}", v) for k, v in expansion.items()),
        )
        if not is_count(value)
    ]
    supernet = plain(rounding.get("supernet", 1.0))
    if not (is_number(supernet) and 0 < supernet < float("inf")):
        bad.append(f"supernet must be a multiplier above 0, got {supernet!r}")
    if bad:
        raise KeepError("\n".join([*bad, "Fix: leave an option out to have its default."]))
    options: Any = {name: plain(value) for name, value in rounding.items()}
    return options | {"expansion": {name: plain(times) for name, times in expansion.items()}}


def _range(
    graph: ChannelGraph, rng: Any, low: Any, high: Any, rounding: Rounding
) -> tuple[float, float]:
    """Returns the ends of a range of multipliers as plain numbers."""
    check_graph(graph)
    check_generator(rng)
    supernet = _checked(rounding).get("supernet", 1.0)
    low, high = plain(low), plain(high)
    if not (_is_multiplier(low, supernet) and _is_multiplier(high, supernet) and low <= high):
        raise KeepError(
            f"widths cannot be drawn from [{low!r}, {high!r}).\nFix: two multipliers in "
            f"(0, {supernet}], the lower one first."
        )
    return low, high


def _check_widths(
    graph: ChannelGraph, width: Any, wanted: Mapping[str, Any], supernet: float
) -> None:
    failures = []
    if isinstance(width, Mapping) and not width:
        failures = ["width {} says nothing of any group"]
    if not isinstance(width, Mapping):
        if not _is_multiplier(width, supernet):
            failures = [f"width {width!r}{_why(width, supernet)}"]
        wanted = {}
    for name, value in wanted.items():
        size = graph.groups[name].size
        if is_count(value) and value > size:
            failures.append(f"width {value} of {name!r}: the group has {size} channels")
        elif not is_count(value) and not _is_multiplier(value, supernet):
            failures.append(f"width {value!r} of {name!r}{_why(value, supernet)}")
    if failures:
        raise KeepError(
            "\n".join(failures[:8])
            + f"\nFix: multipliers in (0, {supernet}], or counts of at least 1 for single groups."
        )


def _is_multiplier(value: Any, supernet: float) -> bool:
    return is_number(value) and 0 < value <= supernet


def _why(value: Any, supernet: float) -> str:
    if is_number(value) and value <= 0:
        return " would empty its groups"
    if is_number(value) and value > supernet:
        return (
            f" is above {supernet}, the network that was traced; for more, trace a wider network "
            f"and say supernet={value!r}"
        )
    return " is not a multiplier"
