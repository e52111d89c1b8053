"""A drawing of the layers of a network and the channel groups that tie them, as text to render."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxprune.errors import PatternError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups import dataflow
from jaxprune.groups.dataflow import Node
from jaxprune.program import spaces as ax
from jaxprune.program.traits import Trait

_COLORS = (
    "#aec7e8 #ffbb78 #98df8a #ff9896 #c5b0d5 #c49c94 #f7b6d2 #dbdb8d #9edae5 #e7cb94 #b5cf6b "
    "#d6616b"
).split()
_FROZEN = "#dddddd"


def _sign(node: Node) -> str:
    """What an operation is called at which layers meet."""
    if node.op is None or node.op.rule is None:
        return node.name
    if Trait.CONTRACTS in node.op.traits:
        return "contraction"
    return "add" if node.op.rule.weights == (1, 1) else node.name


class _Box(NamedTuple):
    """One node of the drawing: lines of text, in the module `path`, `round` if no layer."""

    lines: tuple[str, ...]
    path: tuple[str, ...]
    round: bool
    color: str | None
    frozen: bool
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Cluster:
    """What a module holds: modules by name, and indices of boxes."""

    modules: dict[str, "_Cluster"]
    boxes: list[int]


def draw(graph: ChannelGraph, language: str = "mermaid") -> str:
    """Returns the layers of the network in the order of data flow, as text that draws them.

    A box is a layer, with its channel group and the number of channels; boxes of one color have
    one group, which ties them. A gray, dashed box has no channels to prune, and says why. A round
    box is an operation at which layers meet. Modules are frames.

    Args:
      graph: what `jaxprune.trace` returned.
      language: `mermaid` (GitHub, GitLab and Jupyter render a block of that language,
        mermaid.live a pasted text) or `graphviz` (`dot -Tsvg`).

    Raises:
      PatternError: another language.

    Example:
      >>> import jaxprune as jp, numpy as np
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> print(draw(jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 2)))))
      flowchart TD
        n0(["input 1 x 2"])
        n1["a<br/>4 channels"]
        n2["b<br/>3, frozen: output"]
        n3(["output"])
        n0 --> n1
        n1 --> n2
        n2 --> n3
        classDef frozen fill:#dddddd,stroke-dasharray:4
        class n2 frozen
    """
    check_graph(graph)
    if not isinstance(language, str) or language not in _LANGUAGES:
        raise PatternError(
            f"language {language!r} is none of {list(_LANGUAGES)}.\nFix: draw(graph, 'graphviz')."
        )
    nodes = dataflow.nodes(graph)
    tied = _tied(graph)
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(tied)}
    modules = {_module(node) for node in nodes if node.kernels}
    known = {path[:end] for path in modules for end in range(len(path) + 1)}
    boxes = [_box(graph, node, tied, colors, known) for node in nodes]
    return "\n".join(_LANGUAGES[language](boxes))


def _tied(graph: ChannelGraph) -> dict[str, int]:
    """{group: how many layers it ties}, where that is more than one."""
    layers = {
        name: len({slot.path for slot in group.slots if slot.role == "out"})
        for name, group in graph.groups.items()
    }
    return {name: count for name, count in layers.items() if count > 1}


def _parts(node: Node) -> list[str]:
    return node.kernels[0].removeprefix("params/").split("/")


def _module(node: Node) -> tuple[str, ...]:
    """The modules around the one that holds the first variable of a layer."""
    return tuple(_parts(node)[:-2])


def _around(node: Node, known: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The innermost module around a node, as far as layers name modules."""
    if node.kernels:
        return _module(node)
    steps = tuple(node.place.split("/"))
    choices = [path[:end] for path in (steps, steps[1:]) for end in range(len(path) + 1)]
    return max((path for path in choices if path in known), key=len, default=())


def _box(
    graph: ChannelGraph,
    node: Node,
    tied: Mapping[str, int],
    colors: Mapping[str, str],
    known: set[tuple[str, ...]],
) -> _Box:
    path = _around(node, known)
    times = f" ({node.repeats} times)" if node.repeats > 1 else ""
    if not node.kernels:
        name = _sign(node)
        shape = f" {' x '.join(map(str, node.shape))}" if node.name == "input" else ""
        return _Box((name + shape + times,), path, True, None, False, node.sources)
    parts = _parts(node)
    name = parts[-2] if len(parts) > 1 else parts[-1]
    lines, shared, frozen = [name + times], [], True
    for space in dict.fromkeys(_owned(graph, node)):
        for atom in dict.fromkeys(ax.atoms(space)):
            if atom.name is not None:
                frozen = False
                shared += [atom.name] if atom.name in tied else []
                lines.append(_channels(graph, atom.name, node, tied))
            elif atom.size > 1 and atom.reason is not None:
                lines.append(f"{atom.size}, frozen: {atom.reason.text}")
    color = colors[shared[0]] if shared else None
    return _Box(tuple(dict.fromkeys(lines)), path, False, color, frozen, node.sources)


def _owned(graph: ChannelGraph, node: Node) -> Iterator[ax.Space]:
    """The axes of a layer's result that its variables bring."""
    assert node.op is not None
    brought = {
        atom
        for path in node.kernels
        for space in graph.variables[path].axes
        for atom in ax.atoms(space)
    }
    for space in map(ax.resolve, node.op.outs[0]):
        if not brought.isdisjoint(ax.atoms(space)):
            yield space


def _channels(graph: ChannelGraph, name: str, node: Node, tied: Mapping[str, int]) -> str:
    """What a layer says of a group: its size; its name where others have it too."""
    count = f"{graph.groups[name].size} channels"
    if name in tied:
        return f"{name}: {count}, {tied[name]} layers"
    kernel = node.kernels[0].removeprefix("params/")
    return count if name == kernel else f"{name.removeprefix(kernel)} {count}"


def _clustered(boxes: list[_Box]) -> _Cluster:
    top = _Cluster({}, [])
    for i, box in enumerate(boxes):
        here = top
        for name in box.path:
            here = here.modules.setdefault(name, _Cluster({}, []))
        here.boxes.append(i)
    return top


def _edges(boxes: list[_Box]) -> Iterator[tuple[int, int]]:
    for i, box in enumerate(boxes):
        for source in box.sources:
            yield source, i


def _mermaid(boxes: list[_Box]) -> Iterator[str]:
    yield "flowchart TD"
    yield from _mermaid_cluster(boxes, _clustered(boxes), "  ", "m")
    yield from (f"  n{a} --> n{b}" for a, b in _edges(boxes))
    colors = dict.fromkeys(box.color for box in boxes if box.color)
    for i, color in enumerate(colors):
        here = ",".join(f"n{k}" for k, box in enumerate(boxes) if box.color == color)
        yield f"  classDef g{i} fill:{color},color:#000000"
        yield f"  class {here} g{i}"
    if here := ",".join(f"n{k}" for k, box in enumerate(boxes) if box.frozen):
        yield f"  classDef frozen fill:{_FROZEN},stroke-dasharray:4"
        yield f"  class {here} frozen"


def _mermaid_cluster(boxes: list[_Box], here: _Cluster, indent: str, key: str) -> Iterator[str]:
    for i in here.boxes:
        text = "<br/>".join(map(_mermaid_text, boxes[i].lines))
        yield f'{indent}n{i}(["{text}"])' if boxes[i].round else f'{indent}n{i}["{text}"]'
    for k, (name, cluster) in enumerate(here.modules.items()):
        yield f'{indent}subgraph {key}{k}["{_mermaid_text(name)}"]'
        yield from _mermaid_cluster(boxes, cluster, f"{indent}  ", f"{key}{k}_")
        yield f"{indent}end"


def _mermaid_text(text: str) -> str:
    return "".join(f"#{ord(c)};" if c in '#"<>&`' else c for c in text)


def _graphviz(boxes: list[_Box]) -> Iterator[str]:
    yield "digraph network {"
    yield '  node [shape=box, style="filled", fillcolor="white"];'
    yield from _graphviz_cluster(boxes, _clustered(boxes), "  ", "cluster_")
    yield from (f"  n{a} -> n{b};" for a, b in _edges(boxes))
    yield "}"


def _graphviz_cluster(boxes: list[_Box], here: _Cluster, indent: str, key: str) -> Iterator[str]:
    for i in here.boxes:
        box = boxes[i]
        text = "\\n".join(map(_graphviz_text, box.lines))
        style = ', shape="ellipse"' if box.round else ""
        style += f', fillcolor="{box.color}"' if box.color else ""
        style += f', fillcolor="{_FROZEN}", style="filled,dashed"' if box.frozen else ""
        yield f'{indent}n{i} [label="{text}"{style}];'
    for k, (name, cluster) in enumerate(here.modules.items()):
        yield f"{indent}subgraph {key}{k} {{"
        yield f'{indent}  label="{_graphviz_text(name)}";'
        yield from _graphviz_cluster(boxes, cluster, f"{indent}  ", f"{key}{k}_")
        yield f"{indent}}}"


def _graphviz_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


_LANGUAGES: Mapping[str, Callable[[list[_Box]], Iterator[str]]] = {
    "mermaid": _mermaid,
    "graphviz": _graphviz,
}
