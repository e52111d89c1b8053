"""Cutting an 8B decoder that is divided over a mesh: temporaries on each device, and a real run.

Command: python -m benchmarks.sharded_slice
Eight CPU devices stand in for accelerators. The programs that cut the decoder of
`benchmarks.decoder` in bfloat16 are compiled for shapes, its layers stacked and apart, and XLA says
what each holds beside its arguments and results; they run one after the other, so the largest
counts. It must stay below 2.2 times a device's share of the largest unstacked leaf, and the script
fails if it does not. Then a tree of 1 GB is cut, scattered back and compared by its bits.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks import decoder
from jaxprune.arguments import paths
from jaxprune.cutting import on_devices
from jaxprune.cutting.entries import Cut
from jaxprune.keep.kept import Kept
from jaxprune.program import stacked_layers
from jaxprune.pruning import rescale

MESHES = {"fsdp 8": {"fsdp": 8}, "fsdp 4 x tensor 2": {"fsdp": 4, "tensor": 2}}
LIMIT = 2.2
LAYERS, WIDTH = 16, 2048


def sharding(mesh: jax.sharding.Mesh, shape: tuple[int, ...], stacked: bool) -> jax.NamedSharding:
    """Divides the longest axes but that of the layers, each over one mesh axis."""
    left = sorted(range(stacked, len(shape)), key=lambda axis: shape[axis])
    spec: list[str | None] = [None] * len(shape)
    for name, size in mesh.shape.items():
        axis = next((axis for axis in reversed(left) if shape[axis] % size == 0), None)
        if axis is not None:
            spec[axis] = name
            left.remove(axis)
    return jax.NamedSharding(mesh, jax.P(*spec))


def works(graph: jp.ChannelGraph, keep: Any, mesh: Any, dtype: Any, way: str) -> dict[str, Any]:
    """Returns {path: what cuts the leaf} of a slice, or of what undoes one."""
    kept = Kept(keep)
    found = {}
    for path, variable in graph.variables.items():
        axes = variable.axes
        if all(kept.indices(space) is None for space in axes):
            continue
        stacked = any(stacked_layers.stack(space) is not None for space in axes)
        before = sharding(mesh, variable.shape, stacked)
        cut, shape = Cut.of(map(kept.indices, axes), axes), variable.shape
        if way == "unslice":
            cut, shape = Cut.of(map(kept.places, axes), axes, map(kept.mask, axes)), kept.shape(variable)
        leaf = jax.ShapeDtypeStruct(shape, dtype, sharding=before)
        plan = on_devices.Plan(before, before, cut.layers)
        found[path] = on_devices.Work(plan, leaf, cut.indices, cut.kept, None)
    return found


def compiled(items: dict[str, Any]) -> Iterator[tuple[list[str], int]]:
    """Yields (paths, bytes of temporaries on each device) of every program, once."""
    seen = set()
    for names in on_devices.together(items):
        work = [on_devices.blocked(items[name]) for name in names]
        plans = tuple(item.plan for item in work)
        key = tuple(item.key for item in work)
        if key in seen:
            continue
        seen.add(key)
        if plans[0].block is None:
            lowered = on_devices.program(plans).lower([item.arguments for item in work])
        else:
            leaf = work[0].leaf
            result = jax.ShapeDtypeStruct(work[0].shape, leaf.dtype, sharding=leaf.sharding)
            lowered = on_devices.block_program(plans[0]).lower(
                result, np.int32(0), *work[0].arguments
            )
        yield names, lowered.compile().memory_analysis().temp_size_in_bytes


def measure(graph: jp.ChannelGraph, keep: Any, name: str, mesh: Any) -> None:
    """Prints a row for each way in which the tree is cut."""
    for way, dtype in (("slice", jnp.bfloat16), ("optimizer state", jnp.float32), ("unslice", jnp.bfloat16)):
        items = works(graph, keep, mesh, dtype, way)
        largest = max(
            math.prod(sharding(mesh, v.shape, False).shard_shape(v.shape)) * jnp.dtype(dtype).itemsize
            for v in graph.variables.values()
            if all(stacked_layers.stack(space) is None for space in v.axes)
        )
        start = time.perf_counter()
        found = list(compiled(items))
        seconds = time.perf_counter() - start
        most, which = max((size, names) for names, size in found)
        print(
            f"| {name} | {way} | {len(items)} | {len(found)} | {seconds:.1f} s | {most / 1e6:.0f} "
            f"| {largest / 1e6:.0f} | {most / largest:.2f} | {which[0]} |",
            flush=True,
        )
        assert most <= LIMIT * largest


if __name__ == "__main__":
    print("| model, mesh | way | leaves | programs | compiled in | temporaries, MB | largest unstacked leaf | ratio | where |")
    print("|---|---|---|---|---|---|---|---|---|")
    for stacked in (True, False):
        model = decoder.Decoder(stacked=stacked)
        shapes = jax.eval_shape(model.init, jax.random.key(0), decoder.TOKENS)
        graph = jp.trace(model.apply, shapes, decoder.TOKENS)
        scores = jp.scores.random(graph, jax.random.key(0))
        keep = jp.select.global_ratio(graph, scores, prune_ratio=0.4, multiple_of=8)
        print({n: int(np.count_nonzero(k))//(k.shape[0] if k.ndim==2 else 1) for n,k in list(keep.items())[:12]})
        for name, axes in MESHES.items():
            mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(jax.sharding.AxisType.Auto,)*len(axes))
            measure(graph, keep, f"{'stacked' if stacked else 'apart'}, {name}", mesh)
