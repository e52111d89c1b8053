"""Arrays on devices, cut where they lie: no device gathers more than a vector.

An axis that a mesh divides cannot be cut in its parts: the kept entries must be divided anew. Such
an axis is moved together, while another one, which stays whole meanwhile, is divided in its place;
it is cut on each device, and moved back. The numbers travel as bits, so that they come back as they
were: -0.0 and every NaN.

One program for all leaves would hold all their temporaries at once. So leaves share a program up to
`PIECE` bytes on each device, equal leaves share it one after the other, and a larger leaf goes
through it in blocks of an axis that stays. The programs of a tree are compiled beside each other.
"""

import math
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxprune.cutting import shardings
from jaxprune.program import stacked_layers

PIECE = 2**25
"""Bytes of a leaf, or of several, that one program cuts on each device."""

Names = tuple[str, ...]


class Plan(NamedTuple):
    """How one array is cut: all that its program depends on beside shapes."""

    before: Any
    """The sharding of the array."""
    after: Any
    """The sharding of the result: of every divided axis the same mesh axes, or the first ones."""
    layers: tuple[int | None, ...]
    """Per axis the axis that counts the layers which have their own positions."""
    block: tuple[int, int] | None = None
    """(axis, size on each device): what is cut at a time."""

    @property
    def mesh(self) -> Any:
        """The mesh; None for shardings that have none, which XLA divides by itself."""
        return self.before.mesh if isinstance(self.before, jax.NamedSharding) else None

    def names(self, sharding: Any, axis: int) -> Names:
        """The mesh axes that divide an axis."""
        if self.mesh is None or axis >= len(sharding.spec):
            return ()
        return shardings.names_of(sharding, sharding.spec[axis])

    def parts(self, names: Names) -> int:
        """Into how many parts the mesh axes divide."""
        return shardings.parts_of(self.mesh, names)


class Work(NamedTuple):
    """One array, what to take of it, which of these entries to keep, and what to put elsewhere."""

    plan: Plan
    leaf: Any
    indices: tuple[np.ndarray | None, ...]
    kept: tuple[np.ndarray | None, ...]
    into: Any
    """An array of the shape and sharding of the result, or None for zeros."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a program takes of it."""
        return self.leaf, self.indices, self.kept, self.into

    @property
    def key(self) -> Any:
        """Equal for work that one program does."""
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), self.arguments)
        return self.plan, jax.tree.structure(shapes), tuple(jax.tree.leaves(shapes))

    @property
    def share(self) -> int:
        """The bytes of the leaf, or of the larger result, on each device."""
        leaf = self.plan.before.shard_shape(self.leaf.shape)
        result = self.plan.after.shard_shape(self.shape)
        return max(math.prod(leaf), math.prod(result)) * self.leaf.dtype.itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        sizes = list(self.leaf.shape)
        for axis, index in enumerate(self.indices):
            sizes[axis] = sizes[axis] if index is None else index.shape[-1]
        return tuple(sizes)

    @property
    def dtype(self) -> Any:
        """The dtype of the result."""
        return self.leaf.dtype if self.into is None else self.into.dtype


def run(works: Mapping[str, Work]) -> dict[str, jax.Array]:
    """Returns {path: result}; several processes make the same programs in one order."""
    results = {}
    batches = [{path: blocked(works[path]) for path in paths} for paths in together(works)]
    distinct = {tuple(item.key for item in batch.values()): batch for batch in batches}
    if len(distinct) > 1:
        waiting = [lowered([*batch.values()]) for batch in distinct.values()]
        with ThreadPoolExecutor() as pool:  # the calls below find what was compiled
            list(pool.map(lambda item: item.compile(), waiting))
    for batch in batches:
        items = [*batch.values()]
        plans = tuple(item.plan for item in items)
        if plans[0].block is not None:
            outs = [_in_blocks(items[0])]
        else:
            outs = program(plans)([item.arguments for item in items])
        results |= zip(batch, map(_done, outs), strict=True)
    return results


def lowered(items: Sequence[Work]) -> Any:
    """Returns the program for work that is done together, before XLA compiles it."""
    plans = tuple(item.plan for item in items)
    if plans[0].block is None:
        return program(plans).lower([item.arguments for item in items])
    (work,) = items
    result = jax.ShapeDtypeStruct(work.shape, work.dtype, sharding=work.plan.after)
    return block_program(work.plan).lower(result, np.int32(0), *work.arguments)


def together(works: Mapping[str, Work]) -> Iterator[list[str]]:
    """Yields the paths that share a program."""
    machines: dict[Any, list[str]] = {}
    for path, work in works.items():
        devices = work.plan.mesh or frozenset(work.leaf.devices())
        machines.setdefault(devices, []).append(path)
    for paths in machines.values():
        shares = {path: works[path].share for path in paths}
        if sum(shares.values()) <= PIECE:
            yield paths
            continue
        keys = {path: works[path].key for path in paths}
        equal = Counter(keys.values())
        pack: list[str] = []
        for path in paths:
            if equal[keys[path]] > 1 or shares[path] > PIECE:
                yield [path]
            elif sum(shares[p] for p in pack) + shares[path] > PIECE:
                yield pack
                pack = [path]
            else:
                pack.append(path)
        if pack:
            yield pack


@lru_cache(maxsize=512)
def program(plans: tuple[Plan, ...]) -> Any:
    """Returns the program that cuts leaves; positions are arguments, so that it serves others."""

    def cut(works: Any) -> Any:
        return [_cut(plan, *work) for plan, work in zip(plans, works, strict=True)]

    return jax.jit(cut, out_shardings=[plan.after for plan in plans])


@lru_cache(maxsize=512)
def block_program(plan: Plan) -> Any:
    """Returns the program that cuts one block of a leaf, and writes it where it belongs."""

    def cut(result: Any, number: Any, *work: Any) -> Any:
        return _mapped(plan, _block, *work, number, result)

    return jax.jit(cut, donate_argnums=0, out_shardings=plan.after)


def _in_blocks(work: Work) -> jax.Array:
    assert work.plan.block is not None
    axis, size = work.plan.block
    result = _done(jnp.zeros(work.shape, work.dtype, device=work.plan.after))
    cut = block_program(work.plan)
    blocks = -(-work.plan.before.shard_shape(work.leaf.shape)[axis] // size)
    for number in range(blocks):  # the last starts where it fits, and does some entries again
        result = _done(cut(result, np.int32(number), *work.arguments))
    return result


def blocked(work: Work) -> Work:
    """Returns work in blocks of at most `PIECE` bytes, if it is larger and an axis stays."""
    own_bits = jnp.issubdtype(work.leaf.dtype, jax.dtypes.extended) or work.leaf.weak_type
    if work.share <= PIECE or work.plan.mesh is None or own_bits:
        return work
    shape = work.plan.before.shard_shape(work.leaf.shape)
    stay = [i for i, n in enumerate(shape) if n > 1 and _stays(work, i)]
    if not stay:
        return work
    axis = max(stay, key=lambda i: (i in work.plan.layers, shape[i]))
    parts = math.prod(work.plan.mesh.shape.values())
    size = max(1, shape[axis] * PIECE // work.share)
    size -= size % parts if size > parts else 0
    return work._replace(plan=work.plan._replace(block=(axis, size)))


def _stays(work: Work, axis: int) -> bool:
    """True if an axis is not cut, and is divided as it was."""
    whole = axis >= len(work.indices) or work.indices[axis] is None
    plan = work.plan
    return whole and plan.names(plan.before, axis) == plan.names(plan.after, axis)


def _done(result: Any) -> Any:
    """Returns a result; on the CPU when it is there.

    There programs run beside each other on a few threads, and may hold them all while each waits
    for its parts on other devices, which then never start.
    """
    if not isinstance(result, Tracer) and next(iter(result.devices())).platform == "cpu":
        result.block_until_ready()
    return result


def _cut(plan: Plan, leaf: Any, indices: Any, kept: Any, into: Any) -> Any:
    """Cuts a whole array, in a program."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _mapped(plan, _piece, leaf, indices, kept, into)
    base = None if into is None else jax.random.key_data(into)
    data = _mapped(plan, _piece, jax.random.key_data(leaf), indices, kept, base)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def _block(
    plan: Plan, leaf: Any, indices: Any, kept: Any, into: Any, number: Any, result: Any
) -> Any:
    """Cuts one block of an array on one device, and writes it into the result."""
    assert plan.block is not None
    axis, size = plan.block
    start = number * size

    def part(x: Any, along: int) -> Any:
        return lax.dynamic_slice_in_dim(x, start, size, along)

    def rows(x: Any, i: int) -> Any:
        return part(x, 0) if x is not None and x.ndim == 2 and plan.layers[i] == axis else x

    indices = [rows(x, i) for i, x in enumerate(indices)]
    masks = [rows(x, i) for i, x in enumerate(kept)]
    if masks[axis] is not None:
        masks[axis] = part(masks[axis], masks[axis].ndim - 1)
    base = None if into is None else part(into, axis)
    piece = _piece(plan, part(leaf, axis), indices, masks, base)
    return lax.dynamic_update_slice_in_dim(result, piece, start, axis)


def _mapped(plan: Plan, fn: Any, leaf: Any, indices: Any, kept: Any, into: Any, *more: Any) -> Any:
    """Runs `fn` on every device with its parts of the arrays, all of them as bits."""
    dtype = leaf.dtype if into is None else into.dtype
    leaf = leaf if leaf.dtype == dtype else leaf.astype(dtype)
    as_bits = _as_bits if _has_bits(leaf) else lambda x: x

    def on_each(leaf: Any, indices: Any, kept: Any, into: Any, *more: Any) -> Any:
        indices, kept = _own(plan, indices, kept)
        into = None if into is None else as_bits(into)
        more = (*more[:-1], *map(as_bits, more[-1:]))
        result = fn(plan, as_bits(leaf), indices, kept, into, *more)
        return result if result.dtype == dtype else lax.bitcast_convert_type(result, dtype)

    if plan.mesh is None:
        return on_each(leaf, indices, kept, into, *more)
    before, after = plan.before.spec, plan.after.spec
    mapped = jax.shard_map(
        on_each,
        mesh=plan.mesh,
        in_specs=(before, jax.P(), jax.P(), after, *(jax.P(), after)[: len(more)]),
        out_specs=after,
        check_vma=False,
    )
    return mapped(leaf, indices, kept, into, *more)


def _has_bits(x: Any) -> bool:
    real = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize in (1, 2, 4, 8)
    return real and not getattr(x, "weak_type", False)


def _as_bits(x: Any) -> Any:
    return lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")


def _own(plan: Plan, indices: Any, kept: Any) -> tuple[list[Any], list[Any]]:
    """Returns the positions of the layers of this device, and the masks of its entries."""
    ours, masks = list(indices), list(kept)
    for axis, layer in enumerate(plan.layers):
        if layer is not None and ours[axis] is not None and ours[axis].ndim == 2:
            ours[axis] = _share(plan, ours[axis], 0, plan.names(plan.before, layer))
        if masks[axis] is not None:
            masks[axis] = _share(plan, masks[axis], -1, plan.names(plan.after, axis))
            if layer is not None and masks[axis].ndim == 2:
                masks[axis] = _share(plan, masks[axis], 0, plan.names(plan.after, layer))
    return ours, masks


def _share(plan: Plan, x: Any, axis: int, names: Names) -> Any:
    """Returns the part of this device of an array that every device has."""
    if not names:
        return x
    size = x.shape[axis] // plan.parts(names)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(names) * size, size, axis)


def _piece(plan: Plan, x: Any, indices: Any, kept: Any, into: Any) -> Any:
    """Cuts the part of an array that is on one device, or that XLA divides."""
    divided = [bool(plan.names(plan.before, axis)) for axis in range(len(indices))]
    for axis in sorted(range(len(indices)), key=divided.__getitem__):  # what is whole comes first
        index = indices[axis]
        layer = plan.layers[axis] if index is not None and index.ndim == 2 else None
        if index is not None:
            x = (_moved if divided[axis] else _taken)(x, index, axis, layer, plan)
    return filled(x, kept, plan.layers, into)


def _taken(x: Any, index: Any, axis: int, layer: int | None, plan: Plan | None = None) -> Any:
    """Takes positions along an axis that is whole, every layer its own."""
    del plan
    if layer is None:
        return jnp.take(x, index, axis=axis, mode="clip")
    along = axis - (layer < axis)
    take = partial(jnp.take, axis=along, mode="clip")
    return jax.vmap(take, (layer, 0), layer)(x, index)


def _moved(x: Any, index: Any, axis: int, layer: int | None, plan: Plan) -> Any:
    """Takes positions along a divided axis, while another one is divided in its place."""
    before, after = plan.names(plan.before, axis), plan.names(plan.after, axis)
    parts = plan.parts(before)
    others = [i for i in range(x.ndim) if i not in (axis, layer)]
    if not others:
        whole = lax.all_gather(x, before, axis=axis, tiled=True)
        return _taken(whole, _share(plan, index, -1, after), axis, layer)
    to = max(others, key=lambda i: (x.shape[i] % parts == 0, x.shape[i]))
    size = x.shape[to]
    x = _padded(x, to, -size % parts)
    x = lax.all_to_all(x, before, split_axis=to, concat_axis=axis, tiled=True)
    x = _taken(x, index, axis, layer)
    if dropped := before[len(after) :]:
        x = lax.all_gather(x, dropped, axis=to, tiled=True)
    if after:
        x = lax.all_to_all(x, after, split_axis=axis, concat_axis=to, tiled=True)
    return lax.slice_in_dim(x, 0, size, axis=to)


def _padded(x: Any, axis: int, more: int) -> Any:
    widths = [(0, more if i == axis else 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), widths) if more else x


def filled(x: Any, kept: Sequence[Any], layers: Sequence[int | None], into: Any) -> Any:
    """Returns an array where all masks of its axes hold, elsewhere `into` or zero.

    Args:
      x: the array, on the host or on devices.
      kept: per axis bool[n], or bool[layers, n]; None where all stay.
      layers: per axis the axis that counts these layers.
      into: an array of that shape, or None.
    """
    masks = [
        stacked_layers.in_rank(mask, axis, layers[axis], np.ndim(x))
        for axis, mask in enumerate(kept)
        if mask is not None
    ]
    if not masks:
        return x
    where = reduce(operator.and_, masks)
    xp = np if all(isinstance(item, np.ndarray) for item in (x, where)) else jnp
    if into is None:
        weak = getattr(x, "weak_type", False)
        return xp.where(where, x, 0 if weak else xp.zeros((), x.dtype))
    into = xp.asarray(into)
    return xp.where(where, x if x.dtype == into.dtype else x.astype(into.dtype), into)
