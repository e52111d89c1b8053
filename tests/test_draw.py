"""Drawings: every line is of the grammar that Mermaid and Graphviz read, and says what it should.

Both grammars below are those of the lines that the drawings use, much smaller than the languages.
"""

import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import PatternError
from jaxprune.inspecting.draw import draw

TEXT = r'"(?P<text>[^"]*)"'
MERMAID = {
    "open": rf"subgraph m[0-9_]+\[{TEXT}\]",
    "close": r"end",
    "box": rf"n(?P<id>\d+)\[{TEXT}\]",
    "round": rf"n(?P<id>\d+)\(\[{TEXT}\]\)",
    "edge": r"n(?P<a>\d+) --> n(?P<b>\d+)",
    "style": r"classDef (?P<name>g\d+|frozen) fill:#[0-9a-f]{6},(color:#000000|stroke-dasharray:4)",
    "class": r"class (?P<ids>n\d+(,n\d+)*) (?P<name>g\d+|frozen)",
}
QUOTED = r'"(?P<text>(?:[^"\\]|\\.)*)"'
FILL = r'(?:, fillcolor="(?P<fill>#[0-9a-f]{6})"(?P<dashed>, style="filled,dashed")?)?'
GRAPHVIZ = {
    "open": r"subgraph cluster_[0-9_]+ {",
    "label": rf"label={QUOTED};",
    "close": r"}",
    "round": rf'n(?P<id>\d+) \[label={QUOTED}, shape="ellipse"\];',
    "box": rf"n(?P<id>\d+) \[label={QUOTED}{FILL}\];",
    "edge": r"n(?P<a>\d+) -> n(?P<b>\d+);",
}


class Drawing(NamedTuple):
    """What a text draws: {id: (modules around it, lines)}, edges, {id: color}, gray ids."""

    nodes: dict[str, tuple[tuple[str, ...], list[str]]]
    edges: list[tuple[str, str]]
    colors: dict[str, str]
    gray: set[str]

    def named(self, first: str) -> list[str]:
        """Returns the ids of the nodes of which the first line is `first`."""
        return [key for key, (_, lines) in self.nodes.items() if lines[0] == first]


def statements(lines: list[str], grammar: dict[str, str]) -> list[tuple[str, re.Match[str]]]:
    found = []
    for line in lines:
        hits = [(kind, re.fullmatch(form, line.strip())) for kind, form in grammar.items()]
        ((kind, match),) = [(kind, match) for kind, match in hits if match]
        found.append((kind, match))
    return found


def check(drawing: Drawing, depth: list[str]) -> Drawing:
    assert not depth
    known = set(drawing.nodes)
    assert {key for edge in drawing.edges for key in edge} <= known
    assert set(drawing.colors) | drawing.gray <= known
    assert len(set(drawing.edges)) == len(drawing.edges)
    return drawing


def parse_mermaid(text: str) -> Drawing:
    first, *lines = text.splitlines()
    assert first == "flowchart TD"
    assert len(text) < 50_000  # more is refused by default
    drawing, depth, styles = Drawing({}, [], {}, set()), [], {}
    for kind, match in statements(lines, MERMAID):
        if kind == "open":
            depth.append(match["text"])
        elif kind == "close":
            depth.pop()
        elif kind in ("box", "round"):
            assert match["id"] not in drawing.nodes
            assert not re.search(r"[<>`&]", match["text"].replace("<br/>", ""))
            plain = re.sub(r"#(\d+);", lambda m: chr(int(m[1])), match["text"])
            drawing.nodes[match["id"]] = tuple(depth), plain.split("<br/>")
        elif kind == "edge":
            drawing.edges.append((match["a"], match["b"]))
        elif kind == "style":
            styles[match["name"]] = match[0].split("fill:")[1][:7]
        else:
            ids = match["ids"].replace("n", "").split(",")
            if match["name"] == "frozen":
                drawing.gray.update(ids)
            else:
                drawing.colors.update(dict.fromkeys(ids, styles[match["name"]]))
    return check(drawing, depth)


def parse_graphviz(text: str) -> Drawing:
    first, style, *lines, last = text.splitlines()
    assert (first, last) == ("digraph network {", "}")
    assert style == '  node [shape=box, style="filled", fillcolor="white"];'
    drawing, depth = Drawing({}, [], {}, set()), []
    for kind, match in statements(lines, GRAPHVIZ):
        if kind == "open":
            depth.append("")
        elif kind == "label":
            depth[-1] = match["text"]
        elif kind == "close":
            depth.pop()
        elif kind in ("box", "round"):
            assert match["id"] not in drawing.nodes
            plain = re.sub(r"\\(.)", lambda m: m[1].replace("n", "\n"), match["text"])
            drawing.nodes[match["id"]] = tuple(depth), plain.split("\n")
            if kind == "box" and match["fill"]:
                if match["dashed"]:
                    drawing.gray.add(match["id"])
                else:
                    drawing.colors[match["id"]] = match["fill"]
        else:
            drawing.edges.append((match["a"], match["b"]))
    return check(drawing, depth)


def both(graph: jp.ChannelGraph) -> Drawing:
    """Returns what both languages draw, which is the same."""
    drawing = parse_mermaid(draw(graph))
    assert parse_graphviz(draw(graph, "graphviz")) == drawing
    return drawing


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut, which projects where it must."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = 4 * self.features
        shortcut = x
        for features, window, stride in ((self.features, 1, 1), (self.features, 3, self.stride)):
            x = nn.Conv(features, (window, window), stride)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(wide, (1, 1))(x))
        if shortcut.shape != x.shape:
            shortcut = nn.Conv(wide, (1, 1), self.stride, name="project")(shortcut)
        return nn.relu(x + shortcut)


class ResNet(nn.Module):
    """Of the depth of ResNet-50, with few channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(6, (7, 7), 2, name="stem")(x))
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Bottleneck(2 + stage, stride, name=f"stage{stage}_{block}")(x)
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


def test_a_resnet_50_is_drawn_by_layers_and_blocks():
    model, x = ResNet(), jnp.ones((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    drawing = both(jp.trace(model.apply, variables, x))
    assert len(drawing.nodes) == 1 + 53 + 16 + 1 + 1  # input, convolutions, sums, head, output
    assert len(drawing.edges) == 1 + 16 * 3 + 4 + 16 * 2 + 2
    assert len(drawing.named("add")) == 16
    first = drawing.named("project")[0]
    assert drawing.nodes[first] == (
        ("stage0_0",),
        ["project", "stage0_0/Conv_2/kernel: 8 channels, 4 layers"],
    )
    tied = [key for key, color in drawing.colors.items() if color == drawing.colors[first]]
    modules = {drawing.nodes[key][0] for key in tied}
    assert modules == {("stage0_0",), ("stage0_1",), ("stage0_2",)}
    assert len(set(drawing.colors.values())) == 4
    (head,) = drawing.named("head")
    assert drawing.gray == {head}
    assert drawing.nodes[head] == ((), ["head", "10, frozen: output"])
    (stem,) = drawing.named("stem")
    assert drawing.nodes[stem][1] == ["stem", "6 channels"]
    assert {b for a, b in drawing.edges if a == stem} == {first, _conv(drawing, "stage0_0", 0)}


def _conv(drawing: Drawing, module: str, index: int) -> str:
    (key,) = (k for k in drawing.named(f"Conv_{index}") if drawing.nodes[k][0] == (module,))
    return key


def test_attention_has_boxes_for_its_contractions_and_names_factors():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.MultiHeadDotProductAttention(2, qkv_features=6, name="attend")(
                nn.Dense(4)(x)
            )

    model, x = Net(), jnp.ones((1, 3, 4))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    drawing = both(jp.trace(model.apply, variables, x))
    scores, mixed = drawing.named("contraction")
    names = {key: lines[0] for key, (_, lines) in drawing.nodes.items()}
    assert [names[a] for a, b in drawing.edges if b == scores] == ["query", "key"]
    assert {names[a] for a, b in drawing.edges if b == mixed} == {"value", "contraction"}
    (key,) = drawing.named("key")
    assert drawing.nodes[key] == (
        ("attend",),
        [
            "key",
            "attend/key/kernel[1]: 2 channels, 3 layers",
            "attend/key/kernel[2]: 3 channels, 2 layers",
        ],
    )
    assert drawing.nodes[drawing.named("add")[0]][0] == ()
    assert drawing.nodes[drawing.named("value")[0]][1][-1] == "[2] 3 channels"


def test_a_scan_says_how_often_and_updated_statistics_are_no_output():
    def fn(v, x):
        h = jax.lax.scan(lambda h, _: (jnp.tanh(h @ v["a"]), None), x @ v["in"], None, length=5)[0]
        return h @ v["out"], {"mean": 0.9 * v["mean"] + h.mean(axis=0)}

    shapes = {"a": (3, 3), "in": (2, 3), "out": (3, 2), "mean": (3,)}
    variables = {path: np.ones(shape, np.float32) for path, shape in shapes.items()}
    drawing = both(jp.trace(fn, variables, np.ones((1, 2), np.float32)))
    (loop,) = drawing.named("a (5 times)")
    (out,), (end,) = drawing.named("out"), drawing.named("output")
    assert (loop, out) in drawing.edges
    assert [a for a, b in drawing.edges if b == end] == [out]


def test_any_text_is_escaped():
    name = 'x"#<br>&`\\'
    v = {name: {"end": np.ones((2, 4))}, 'b"': {"\\w": np.ones((4, 3))}}
    channels = jp.trace(lambda v, x: x @ v[name]["end"] @ v['b"']["\\w"], v, np.ones((1, 2)))
    assert parse_mermaid(draw(channels)).named(name)
    assert parse_graphviz(draw(channels, "graphviz")).named(name)


def test_another_language():
    channels = jp.trace(lambda v, x: x @ v["a"], {"a": np.ones((2, 3))}, np.ones((1, 2)))
    with pytest.raises(PatternError, match=r"(?s)'svg' is none of .*mermaid.*Fix: draw\("):
        draw(channels, "svg")
