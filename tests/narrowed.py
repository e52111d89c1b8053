"""The network that one would write by hand for the kept widths: an oracle without the library.

It is read from the shapes of the small variables, and, where one shape has two meanings, from
which entries of the full ones are kept. Linen names layers in the order of their calls, so the
blocks are walked in that order.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from blocks import (
    Activation,
    Block,
    Blocks,
    Concatenate,
    Conv,
    Dense,
    Depthwise,
    Dropout,
    Flatten,
    GlobalPool,
    Grouped,
    GroupNorm,
    LayerNorm,
    Norm,
    Parallel,
    Pool,
    Residual,
    RMSNorm,
    Shared,
    Shuffle,
    SpatialGate,
    Split,
    SqueezeExcite,
    Stacked,
    SwiGLU,
    UNet,
)
from blocks_attention import Attention, FusedAttention, GroupedQuery


class Narrowed(NamedTuple):
    """The network at the kept widths, None where its blocks cannot be written with them.

    `hard_coded` are the blocks that have numbers in their code which the keep changes, such as
    that of the heads: the module of the full network cannot run at these widths.
    """

    spec: Blocks | None
    hard_coded: frozenset[str]


def narrowed(spec: Blocks, small: Any, kept: Any) -> Narrowed:
    """Returns the network of `spec` at the widths of the variables `small`.

    `kept` is a tree of bool in the form of the full variables: which entries are in `small`.
    """
    reader = _Reader(small["params"], kept["params"])
    found = reader.blocks(spec)
    return Narrowed(None if reader.unwritten else found, frozenset(reader.hard_coded))


class _Reader:
    """Reads the variables of a module, layer by layer."""

    def __init__(self, small: Mapping[str, Any], kept: Mapping[str, Any]):
        self.small, self.kept = small, kept
        self.counts: Counter[str] = Counter()
        self.hard_coded: set[str] = set()
        self.unwritten = False

    def blocks(self, spec: Blocks) -> Blocks:
        return tuple(_RULES[type(block)](self, block) for block in spec)

    def next(self, kind: str) -> str:
        """Returns the name of the next layer of a kind."""
        name = f"{kind}_{self.counts[kind]}"
        self.counts[kind] += 1
        return name

    def width(self, kind: str) -> int:
        """Returns how many features the next layer of a kind has."""
        return self.small[self.next(kind)]["kernel"].shape[-1]

    def positions(self, kind: str, leaf: str = "kernel") -> np.ndarray:
        """Returns which of its features the next layer of a kind keeps."""
        kept = self.kept[self.next(kind)][leaf]
        return kept.reshape(-1, kept.shape[-1]).any(axis=0)

    def inside(self, name: str, body: Blocks, *, stacked: bool = False) -> Blocks:
        """Returns `body`, the blocks of a module of its own; of a stack the first layer tells."""
        kept = jax.tree.map(lambda leaf: leaf[0], self.kept[name]) if stacked else self.kept[name]
        reader = _Reader(self.small[name], kept)
        body = reader.blocks(body)
        self.hard_coded |= reader.hard_coded
        self.unwritten |= reader.unwritten
        return body


def _parts(positions: np.ndarray, count: int) -> int:
    """Returns of how many of `count` equal parts something is kept."""
    return int(positions.reshape(count, -1).any(axis=1).sum())


def _same(_reader: _Reader, block: Block) -> Block:
    return block


def _features(kind: str, *names: str) -> Callable[[_Reader, Any], Block]:
    """Returns the rule of a block that makes a layer of a kind for each of the fields `names`."""

    def rule(reader: _Reader, block: Any) -> Block:
        widths = [reader.width(kind) for _ in names]
        return replace(block, **dict(zip(names, widths, strict=True)))

    return rule


def _depthwise(reader: _Reader, block: Depthwise) -> Block:
    positions = reader.positions("Conv")
    channels = _parts(positions, positions.size // block.multiplier)
    return replace(block, multiplier=int(positions.sum()) // channels)


def _grouped(reader: _Reader, block: Grouped) -> Block:
    positions = reader.positions("Conv")
    groups = _parts(positions, block.groups)
    return replace(block, features=int(positions.sum()), groups=groups)


def _group_norm(reader: _Reader, block: GroupNorm) -> Block:
    return replace(block, groups=_parts(reader.positions("GroupNorm", "scale"), block.groups))


def _residual(reader: _Reader, block: Residual) -> Block:
    project = None if block.project is None else reader.width("Conv")
    return replace(block, project=project, body=reader.blocks(block.body))


def _body(reader: _Reader, block: Concatenate | UNet) -> Block:
    return replace(block, body=reader.blocks(block.body))


def _split(reader: _Reader, block: Split) -> Block:
    left = reader.blocks(block.left)
    return replace(block, left=left, right=reader.blocks(block.right))


def _squeeze_excite(reader: _Reader, block: SqueezeExcite) -> Block:
    hidden, _ = reader.width("Dense"), reader.next("Dense")
    return replace(block, hidden=hidden)


def _spatial_gate(reader: _Reader, block: SpatialGate) -> Block:
    reader.next("Conv")
    return block


def _swiglu(reader: _Reader, block: SwiGLU) -> Block:
    hidden, _, features = (reader.width("Dense") for _ in range(3))
    return replace(block, hidden=hidden, features=features)


def _shared(reader: _Reader, block: Shared) -> Block:
    reader.next("Dense" if block.dense else "Conv")
    return block


def _stacked(reader: _Reader, block: Stacked) -> Block:
    return replace(block, body=reader.inside(reader.next("ScanLayer"), block.body, stacked=True))


def _attention(reader: _Reader, block: Attention) -> Block:
    layer = reader.small[reader.next("MultiHeadDotProductAttention")]
    heads, head_dim = layer["query"]["kernel"].shape[-2:]
    reader.unwritten |= layer["value"]["kernel"].shape[-1] != head_dim
    features = layer["out"]["kernel"].shape[-1]
    return replace(block, heads=heads, head_dim=head_dim, features=features)


def _grouped_query(reader: _Reader, block: GroupedQuery) -> Block:
    query, key, value = (reader.positions("Dense") for _ in range(3))
    heads, kv_heads = _parts(query, block.heads), _parts(key, block.kv_heads)
    if (heads, kv_heads) != (block.heads, block.kv_heads):
        reader.hard_coded.add("GroupedQuery")
    reader.unwritten |= key.sum() != value.sum()
    return replace(
        block,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(query.sum()) // heads,
        features=reader.width("Dense"),
    )


def _fused_attention(reader: _Reader, block: FusedAttention) -> Block:
    query, _, value = np.split(reader.positions("Dense"), 3)
    heads, uneven = _parts(query, block.heads), query.sum() != value.sum()
    if uneven or heads != block.heads:
        reader.hard_coded.add("FusedAttention")
    reader.unwritten |= uneven
    head_dim, features = int(query.sum()) // heads, reader.width("Dense")
    return replace(block, heads=heads, head_dim=head_dim, features=features)


_RULES: dict[type, Callable[[_Reader, Any], Block]] = {
    Conv: _features("Conv", "features"),
    Dense: _features("Dense", "features"),
    Parallel: _features("Conv", "left", "right"),
    Depthwise: _depthwise,
    Grouped: _grouped,
    GroupNorm: _group_norm,
    Residual: _residual,
    Concatenate: _body,
    UNet: _body,
    Split: _split,
    SqueezeExcite: _squeeze_excite,
    SpatialGate: _spatial_gate,
    SwiGLU: _swiglu,
    Shared: _shared,
    Stacked: _stacked,
    Attention: _attention,
    GroupedQuery: _grouped_query,
    FusedAttention: _fused_attention,
    **dict.fromkeys(
        (Activation, Dropout, Flatten, GlobalPool, LayerNorm, Norm, Pool, RMSNorm, Shuffle), _same
    ),
}
