"""Cutting what is divided over a mesh: temporaries on each device for an 8B decoder, and a run.

Command: python -m benchmarks.sharded_slice
Eight CPU devices stand in for accelerators. The programs that cut the decoder of
`benchmarks.decoder` in bfloat16 are compiled for shapes, its layers stacked and apart, and XLA says
what each holds beside its arguments and results; they run one after the other, so the largest
counts. It must stay below 2.2 times a device's share of the largest unstacked leaf, and the script
fails if it does not. Then a tree of 1.6 GB is cut, put back, and compared with NumPy by its bits.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)

import math
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks import decoder
from jaxprune.cutting import on_devices
from jaxprune.cutting.entries import Cut
from jaxprune.graph import Variable
from jaxprune.keep.kept import Kept
from jaxprune.program import stacked_layers

MESHES = {"fsdp 8": {"fsdp": 8}, "fsdp 4 x tensor 2": {"fsdp": 4, "tensor": 2}}
WAYS = {"slice": "bfloat16", "optimizer state": "float32", "unslice": "bfloat16"}
LIMIT = 2.2
LAYERS, WIDTH, HIDDEN = 16, 2048, 8192


def layers_of(variable: Variable) -> bool:
    """True if an axis of a variable counts layers."""
    return any(stacked_layers.stack(space) is not None for space in variable.axes)


def sharding(mesh: jax.sharding.Mesh, variable: Variable) -> jax.NamedSharding:
    """Divides the longest axes but that of the layers, each over one mesh axis."""
    shape = variable.shape
    left = sorted(range(layers_of(variable), len(shape)), key=lambda axis: -shape[axis])
    spec: list[str | None] = [None] * len(shape)
    for name, size in mesh.shape.items():
        axis = next((axis for axis in left if shape[axis] % size == 0), None)
        if axis is not None:
            spec[axis] = name
            left.remove(axis)
    return jax.NamedSharding(mesh, jax.P(*spec))


def works(graph: jp.ChannelGraph, keep: Any, mesh: Any, dtype: Any, way: str) -> dict[str, Any]:
    """Returns {path: what cuts the leaf, or puts it back}."""
    kept = Kept(keep)
    found = {}
    for path, variable in graph.variables.items():
        axes, shape = variable.axes, variable.shape
        if all(kept.indices(space) is None for space in axes):
            continue
        cut = Cut.of(map(kept.indices, axes), axes)
        if way == "unslice":
            shape = kept.shape(variable)
            cut = Cut.of(map(kept.places, axes), axes, map(kept.mask, axes))
        own = sharding(mesh, variable)
        leaf = jax.ShapeDtypeStruct(shape, dtype, sharding=own)
        plan = on_devices.Plan(own, own, cut.layers)
        found[path] = on_devices.Work(plan, leaf, cut.indices, cut.kept, None)
    return found


def compiled(items: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Yields (bytes of temporaries on each device, the first path) of every program, once."""
    seen = set()
    for names in on_devices.together(items):
        work = [on_devices.blocked(items[name]) for name in names]
        if (key := tuple(item.key for item in work)) not in seen:
            seen.add(key)
            memory = on_devices.lowered(work).compile().memory_analysis()
            yield memory.temp_size_in_bytes, names[0]


def measure(graph: jp.ChannelGraph, keep: Any, name: str, mesh: jax.sharding.Mesh) -> None:
    """Prints a row for each way in which the tree is cut."""
    for way, dtype in WAYS.items():
        items = works(graph, keep, mesh, jnp.dtype(dtype), way)
        unstacked = [v for v in graph.variables.values() if not layers_of(v)]
        shares = [sharding(mesh, v).shard_shape(v.shape) for v in unstacked]
        largest = max(map(math.prod, shares)) * jnp.dtype(dtype).itemsize
        start = time.perf_counter()
        found = list(compiled(items))
        seconds = time.perf_counter() - start
        most, where = max(found)
        print(
            f"| {name} | {way} | {len(items)} | {len(found)} | {seconds:.1f} | {most / 1e6:.0f} "
            f"| {largest / 1e6:.0f} | {most / largest:.2f} | {where} |",
            flush=True,
        )
        assert most <= LIMIT * largest, name


def decoders() -> None:
    """Prints what the programs hold that cut an 8B decoder, and how long they compile."""
    print(
        "| decoder, mesh | what | leaves | programs | compile s | temporaries, MB "
        "| largest unstacked leaf, MB | ratio | in |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for stacked in (True, False):
        model = decoder.Decoder(stacked=stacked)
        shapes = jax.eval_shape(model.init, jax.random.key(0), decoder.TOKENS)
        graph = jp.trace(model.apply, shapes, decoder.TOKENS)
        scores = jp.scores.random(graph, jax.random.key(0))
        keep = jp.select.global_ratio(graph, scores, prune_ratio=0.4, multiple_of=8)
        for name, axes in MESHES.items():
            mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
            measure(graph, keep, f"{'stacked' if stacked else 'apart'}, {name}", mesh)


def mlps(v: Any, x: jax.Array) -> jax.Array:
    """Returns f32[batch, WIDTH]: gated MLPs on a stream, stacked."""

    def layer(x: jax.Array, v: Any) -> tuple[jax.Array, None]:
        return x + (jax.nn.silu(x @ v["gate"]) * (x @ v["up"])) @ v["down"], None

    return jax.lax.scan(layer, x @ v["first"], v["layers"])[0] @ v["last"]


def peak() -> float:
    """Returns the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check(graph: jp.ChannelGraph, keep: Any, full: Any, small: Any) -> None:
    """Raises unless every layer of the small tree has the bits that NumPy takes of the full one."""
    kept = Kept(keep)
    leaves = zip(
        graph.variables.values(), jax.tree.leaves(full), jax.tree.leaves(small), strict=True
    )
    for variable, before, after in leaves:
        masks = [kept.mask(space) for space in variable.axes]
        old, new = (np.asarray(leaf).view(np.uint16) for leaf in (before, after))
        for i in range(len(before)) if layers_of(variable) else (slice(None),):
            ours = old[i]
            own = masks[1:] if isinstance(i, int) else masks
            for axis, mask in enumerate(own):
                if mask is not None:
                    ours = ours.compress(mask if mask.ndim == 1 else mask[i], axis)
            np.testing.assert_array_equal(new[i], ours, err_msg=variable.path)


def timed(what: str, fn: Callable[[], Any]) -> Any:
    """Returns what `fn` gives; prints how long it took and by what the peak memory grew."""
    start, before = time.perf_counter(), peak()
    found = jax.block_until_ready(fn())
    print(f"{what}: {time.perf_counter() - start:.2f} s, peak memory + {peak() - before:.0f} MB")
    return found


def really() -> None:
    """Cuts a tree of bfloat16 on the devices."""
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"))
    sizes = {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    struct = partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    layers = {name: struct((LAYERS, *size)) for name, size in sizes.items()}
    shapes = {"first": struct((8, WIDTH)), "last": struct((WIDTH, 8)), "layers": layers}
    graph = jp.trace(mlps, shapes, struct((1, 8)))

    def made(i: int, variable: Variable) -> jax.Array:
        random = np.random.default_rng(i)
        own = sharding(mesh, variable)

        def part(index: Any) -> np.ndarray:
            size = [
                len(range(*own.indices(n))) for own, n in zip(index, variable.shape, strict=True)
            ]
            return random.integers(2**16, size=size, dtype=np.uint16).view(jnp.bfloat16)

        return jax.make_array_from_callback(variable.shape, own, part)

    leaves = [made(i, variable) for i, variable in enumerate(graph.variables.values())]
    full = jax.tree.unflatten(graph.treedef, leaves)
    size = sum(leaf.nbytes for leaf in leaves) / 1e6
    scores = jp.scores.random(graph, jax.random.key(0))
    keep = jp.select.global_ratio(graph, scores, prune_ratio=0.5, multiple_of=8)
    print(f"\n{size:.0f} MB on 8 devices, of random bits; peak memory so far {peak():.0f} MB")
    small = timed("slice, with compiling", lambda: jp.slice(graph, full, keep))
    print(f"result {sum(leaf.nbytes for leaf in jax.tree.leaves(small)) / 1e6:.0f} MB")
    timed("slice again", lambda: jp.slice(graph, full, keep))
    check(graph, keep, full, small)
    back = timed("unslice into the full tree", lambda: jp.unslice(graph, small, keep, into=full))
    check(graph, {}, full, back)
    print("every bit is that of NumPy")


if __name__ == "__main__":
    jax.random.uniform(jax.random.key(0), (2,))  # what JAX itself allocates at its first call
    really()
    decoders()
