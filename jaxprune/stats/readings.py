"""What stands at a place when the program comes to it: its channels, and its matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.arguments.dtypes import wide
from jaxprune.gates.sites import Site
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules import contraction
from jaxprune.program.spaces import Atom, Space

Array = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One visit of a place: what a statistic reads.

    Attributes:
      channels: f32[*layers, samples, positions, n]: the entries of each channel of the group. Of
        what a contraction reads, `positions` are those that it sums over for one channel: the
        dimensions of a head, pixels after a flatten.
      group: the name of the group.
      key: the random key of this place and batch, of every example its own where they are apart.
      site: the contraction that reads the group; None where a place is none.
      op, operands, results: the operation of the place, what it is given and what it gives.
    """

    channels: Array
    group: str
    key: Array = None
    site: Site | None = None
    op: Op | None = None
    operands: Sequence[Array] = ()
    results: Sequence[Array] = ()


def by_channel(
    x: Array, axes: Sequence[Space], axis: int, group: str, beside: Sequence[int] = ()
) -> Array:
    """Returns f32[*layers, samples, positions, n]: the entries of the channels of a group.

    `axes` are the spaces of `x`, `axis` is the one that holds the group, and those `beside` it are
    positions of a channel too; all others are samples. There is a layer axis where `x` holds all
    layers of a stack of which each has its own channels.
    """
    atom = atom_of(axes[axis], group)
    layer = stacked_layers.layer_axis(axes, atom)
    front = [] if layer is None else [layer]
    inner = [i for i in beside if i not in (axis, layer)]
    rows = [i for i in range(len(axes)) if i not in (axis, layer, *inner)]
    moved = jnp.transpose(wide(x), (*front, *rows, *inner, axis))
    sizes = [math.prod(axes[i].size for i in some) for some in (rows, inner)]
    flat = moved.reshape(*(axes[i].size for i in front), *sizes, axes[axis].size)
    places = ax.positions(axes[axis], atom).T  # [positions, n]
    if places.size != flat.shape[-1] or (places.ravel() != np.arange(places.size)).any():
        flat = jnp.take(flat, places.ravel(), axis=-1)
    return flat.reshape(*flat.shape[:-2], -1, places.shape[-1])


def beside(op: Op, operand: int, axis: int) -> list[int]:
    """Returns the axes of an operand that a product sums over together with `axis`."""
    if not contraction.is_product(op):
        return []
    return [pair[operand] for pair in contraction.pairs(op) if pair[operand] != axis]


def atom_of(space: Space, group: str) -> Atom:
    """Returns the atom of a group in a space that holds it."""
    return next(atom for atom in ax.atoms(space) if atom.name == group)


def read_matrix(reading: Reading, rows: Array | None = None) -> Array:
    """Returns f32[blocks, samples, K]: what a contraction reads, one row for each result.

    Of a convolution these are its patches, in the order (channel, window) of
    `jax.lax.conv_general_dilated_patches`, zeros of the padding among them; blocks are its groups.
    Of a product of matrices, K is what is summed over, and blocks are the axes that both share.
    `rows` are those that are drawn; patches of others are never made.
    """
    site, op = _of(reading)
    x = wide(reading.operands[site.operand])
    if not contraction.is_product(op):
        return _patches(op, x) if rows is None else _patches_at(op, x, rows)
    shared, summed, rest = _axes(op, site.operand)
    return taken(_matrix(x, shared, rest, summed), rows)


def kernel_matrix(reading: Reading) -> Array:
    """Returns f32[blocks, K, O]: the kernel, so that `read @ kernel` is `written_matrix`."""
    site, _ = _of(reading)
    return in_blocks(reading, wide(reading.operands[1 - site.operand]))


def in_blocks(reading: Reading, kernel: Array) -> Array:
    """Returns [blocks, K, O]: an array in the shape of the kernel as `kernel_matrix` has it."""
    site, op = _of(reading)
    if contraction.is_product(op):
        shared, summed, rest = _axes(op, 1 - site.operand)
        return _matrix(kernel, shared, summed, rest)
    spec, groups = op.params["dimension_numbers"].rhs_spec, op.params["feature_group_count"]
    moved = jnp.transpose(kernel, spec)
    return jnp.swapaxes(moved.reshape(groups, moved.shape[0] // groups, -1), 1, 2)


def written_matrix(reading: Reading) -> Array:
    """Returns f32[blocks, samples, O]: what a contraction writes, without any bias."""
    site, op = _of(reading)
    out = wide(reading.results[0])
    if not contraction.is_product(op):
        spec, groups = op.params["dimension_numbers"].out_spec, op.params["feature_group_count"]
        rows = jnp.transpose(out, (spec[0], *spec[2:], spec[1]))
        rows = rows.reshape(-1, groups, rows.shape[-1] // groups)
        return jnp.swapaxes(rows, 0, 1)
    made = contraction.free(op, 1 - site.operand)
    shared = list(range(len(contraction.batches(op))))
    rest = [i for i in range(out.ndim) if i not in (*shared, *made)]
    return _matrix(out, shared, rest, made)


def owners(reading: Reading) -> np.ndarray:
    """Returns int[blocks, K]: which channel of the group a column of `read_matrix` is of, or -1."""
    site, op = _of(reading)
    places = ax.positions(site.space, atom_of(site.space, reading.group))
    owner = np.full(site.space.size, -1)
    for channel, entries in enumerate(places):
        owner[entries] = channel
    shape = [1] * len(op.ins[site.operand])
    shape[site.axis] = -1
    return in_columns(reading, owner.reshape(shape))


def in_columns(reading: Reading, values: np.ndarray) -> np.ndarray:
    """Returns [blocks, K]: what belongs to the columns of `read_matrix`.

    `values` broadcast to what is read, and differ along axes that are summed over or shared only.
    """
    site, op = _of(reading)
    axes = op.ins[site.operand]
    if not contraction.is_product(op):
        features, groups = values.shape[site.axis], op.params["feature_group_count"]
        spec = op.params["dimension_numbers"].rhs_spec
        window = math.prod(op.ins[1][i].size for i in spec[2:])
        return np.repeat(values.reshape(groups, features // groups), window, axis=1)
    shared, summed, _ = _axes(op, site.operand)
    spread = np.broadcast_to(values, [space.size for space in axes])
    index = tuple(slice(None) if i in (*shared, *summed) else 0 for i in range(len(axes)))
    left = [i for i in range(len(axes)) if i in (*shared, *summed)]
    order = [left.index(i) for i in (*shared, *summed)]
    blocks = math.prod(axes[i].size for i in shared)
    return spread[index].transpose(order).reshape(blocks, -1)


def layers_of(reading: Reading) -> np.ndarray | None:
    """Returns bool[blocks, layers]: of which layer a block is; None where none counts layers."""
    site, op = _of(reading)
    axes = op.ins[site.operand]
    layer = stacked_layers.layer_axis(axes, atom_of(site.space, reading.group))
    shared = [pair[site.operand] for pair in contraction.batches(op)]
    if layer not in shared:
        return None
    sizes = [axes[i].size for i in shared]
    places = np.indices(sizes)[shared.index(layer)].ravel()
    return places[:, None] == np.arange(axes[layer].size)


def weights_read(reading: Reading, entry: Any) -> Array:
    """Returns f32[*layers, positions, n]: Σ `entry(w)` over the weights that read each channel."""
    site, op = _of(reading)
    other = 1 - site.operand
    pair = next(pair for pair in contraction.pairs(op) if pair[site.operand] == site.axis)
    kernel = entry(wide(reading.operands[other]))
    along = beside(op, other, pair[other])
    return by_channel(kernel, op.ins[other], pair[other], reading.group, along).sum(axis=-3)


def _of(reading: Reading) -> tuple[Site, Op]:
    assert reading.site is not None
    assert reading.op is not None
    return reading.site, reading.op


def _axes(op: Op, operand: int) -> tuple[list[int], list[int], list[int]]:
    """The axes of an operand that both operands share, that are summed over, and the others."""
    shared = [pair[operand] for pair in contraction.batches(op)]
    summed = [pair[operand] for pair in contraction.pairs(op)]
    rest = [i for i in range(len(op.ins[operand])) if i not in (*shared, *summed)]
    return shared, summed, rest


def _matrix(x: Array, blocks: Sequence[int], rows: Sequence[int], columns: Sequence[int]) -> Array:
    sizes = [math.prod(x.shape[i] for i in axes) for axes in (blocks, rows, columns)]
    return jnp.transpose(x, (*blocks, *rows, *columns)).reshape(sizes)


def _patches(op: Op, x: Array) -> Array:
    params, dims = op.params, op.params["dimension_numbers"]
    window = [op.ins[1][i].size for i in dims.rhs_spec[2:]]
    patches = lax.conv_general_dilated_patches(
        jnp.transpose(x, dims.lhs_spec),
        window,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        precision=lax.Precision.HIGHEST,
    )
    groups = params["feature_group_count"]
    rows = jnp.moveaxis(patches, 1, -1).reshape(-1, groups, patches.shape[1] // groups)
    return jnp.swapaxes(rows, 0, 1)


def _patches_at(op: Op, x: Array, rows: Array) -> Array:
    """The same, of some rows alone."""
    params, dims = op.params, op.params["dimension_numbers"]
    pads = zip(params["padding"], params["lhs_dilation"], strict=True)
    inner = [(*pad, gap - 1) for pad, gap in pads]
    x = lax.pad(jnp.transpose(x, dims.lhs_spec), np.zeros((), x.dtype), [(0, 0, 0)] * 2 + inner)
    window = [op.ins[1][i].size for i in dims.rhs_spec[2:]]
    strides, dilations = params["window_strides"], params["rhs_dilation"]
    ends = [1 + (size - 1) * step for size, step in zip(window, dilations, strict=True)]
    edges = zip(x.shape[2:], ends, strides, strict=True)
    sizes = [(size - end) // stride + 1 for size, end, stride in edges]
    example, *places = jnp.unravel_index(rows, (len(x), *sizes))
    index = [example.reshape(-1, *(1,) * len(window)), slice(None)]
    for i, (place, size) in enumerate(zip(places, window, strict=True)):
        at = place[:, None] * strides[i] + np.arange(size)[None] * dilations[i]
        index.append(at.reshape(len(rows), *(size if j == i else 1 for j in range(len(window)))))
    patches = jnp.moveaxis(x[tuple(index)], -1, 1)  # [rows, *window, channels] before
    groups = params["feature_group_count"]
    return jnp.swapaxes(patches.reshape(len(rows), groups, -1), 0, 1)


def drawn(count: int, key: Array, positions: int | None) -> Array | None:
    """Returns which of `count` rows are drawn, without replacement; None where all are."""
    if positions is None or positions >= count:
        return None
    return jax.random.choice(key, count, (positions,), replace=False)


def taken(matrix: Array, rows: Array | None) -> Array:
    """Returns the rows that are drawn of f32[blocks, rows, ...]."""
    return matrix if rows is None else jnp.take(matrix, rows, axis=-2)
