"""Tables in plain text: what a graph holds, and what pruning changes."""

from collections import Counter
from collections.abc import Iterable, Iterator

from jaxprune.graph import ChannelGraph
from jaxprune.groups.kinds import kinds
from jaxprune.inspecting import cost, unread_variables
from jaxprune.inspecting.aligned import ruled, table
from jaxprune.inspecting.branches import branches


def graph_table(graph: ChannelGraph) -> str:
    """Returns one line per group, and how many axes are frozen for which reason."""
    per_macs, per_params = channel_costs(graph)
    every = kinds(graph)
    head = ("group", "channels", "slots", "MACs", "params", "kind", "")
    rows = [
        (
            name,
            f"{group.layers} x {group.size:,}" if group.layers else f"{group.size:,}",
            f"{len(group.slots)}",
            f"{per_macs[name]:,}",
            f"{per_params[name]:,}",
            every[name].value,
            "inexact" if group.inexact else "exact",
        )
        for name, group in graph.groups.items()
    ]
    lines = table([head, *rows], numbers={1, 2, 3, 4})
    reasons = Counter((frozen.reason, frozen.why.option) for frozen in graph.frozen).most_common()
    frozen = [
        f"frozen: {n:,} x {reason}" + (f"; {option}" if option else "")
        for (reason, option), n in reasons
    ]
    frozen += uncounted_lines(cost.uncounted(graph))
    note = "MACs and params are those of one channel; jaxprune.explain(graph) says more."
    frozen += [unread_variables.line(graph)] if graph.unread else []
    drawn = [*ruled(lines, after=(0, len(rows))), *branch_table(graph)]
    return "\n".join([headline(graph), *drawn, *frozen, note])


def branch_table(graph: ChannelGraph) -> list[str]:
    """Returns one line per branch of a residual sum, none where there are no such."""
    known = branches(graph)
    per_macs, per_params = cost.branch_cost(graph), cost.branch_cost(graph, cost.params)
    head = ("branch", "steps", "variables", "MACs", "params")
    rows = [
        (
            name,
            "" if branch.steps is None else f"{branch.steps}",
            f"{len(branch.variables)}",
            f"{per_macs[name]:,}",
            f"{per_params[name]:,}",
        )
        for name, branch in known.items()
    ]
    if not rows:
        return []
    return list(ruled(table([head, *rows], numbers={1, 2, 3, 4}), after=(0, len(rows))))


def headline(graph: ChannelGraph) -> str:
    """Returns the totals of a graph, in one line."""
    channels = sum((group.layers or 1) * group.size for group in graph.groups.values())
    return (
        f"{len(graph.groups)} channel groups with {channels:,} channels, "
        f"{len(graph.frozen)} frozen axes; {cost.macs(graph):,} MACs{at_symbols(graph.symbols)}, "
        f"{cost.params(graph):,} parameters"
    )


def at_symbols(symbols: Iterable[str]) -> str:
    """Says what symbolic sizes count as."""
    sizes = ", ".join(f"{name} = 1" for name in symbols)
    return f" at {sizes}" if sizes else ""


def channel_costs(graph: ChannelGraph) -> tuple[dict[str, int], dict[str, int]]:
    """Returns {group: MACs of one channel} and {group: its parameters}."""
    return cost.channel_cost(graph, cost.macs), cost.channel_cost(graph, cost.params)


def uncounted_lines(items: Iterable[cost.Uncounted]) -> Iterator[str]:
    """Says for every kind of operation that no cost counts how many there are, and where."""
    places: dict[str, list[str]] = {}
    for item in items:
        places.setdefault(item.name, []).append(item.place)
    for name, every in places.items():
        where = list(dict.fromkeys(every))
        more = f" and {len(where) - 3} more places" if len(where) > 3 else ""
        yield f"not counted: the MACs of {len(every):,} x {name}, at {', '.join(where[:3])}{more}"
