"""Random cuts of arrays on random meshes, in blocks and at once: the bits that NumPy takes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxprune.cutting import entries, on_devices, shardings

DTYPES = ("float32", "bfloat16", "float16", "int8", "bool", "complex64", "float8_e4m3fn", "uint32")
ITEMS = (("a", "b"), ("b", "a"), "a", "b", None)


def random_spec(rng: np.random.Generator, mesh: jax.sharding.Mesh, shape: list[int]) -> jax.P:
    spec: list[Any] = [None] * len(shape)
    left = {"a", "b"}
    for axis in rng.permutation(len(shape)):
        item = ITEMS[rng.integers(len(ITEMS))]
        names = item if isinstance(item, tuple) else (item,) if item else ()
        size = np.prod([mesh.shape[name] for name in names], dtype=int)
        if set(names) <= left and shape[axis] % size == 0:
            spec[axis] = item
            left -= set(names)
    return jax.P(*spec)


def random_cut(rng: np.random.Generator, shape: list[int]) -> entries.Cut:
    """Along some axes, in some of them in every layer its own; some of the entries are not kept."""
    layer = int(rng.integers(len(shape))) if len(shape) > 1 and rng.integers(2) else None
    indices, layers, kept = [], [], []
    for axis, size in enumerate(shape):
        count, index, own = size, None, layer is not None and axis != layer and rng.integers(2)
        if axis != layer and rng.integers(3):
            count = int(rng.integers(1, size + 1))
            rows = [rng.permutation(size)[:count] for _ in range(shape[layer or 0] if own else 1)]
            index = np.stack(rows) if own else rows[0]
        indices.append(index)
        layers.append(layer if own and index is not None else None)
        several = (shape[layer or 0],) if layers[-1] is not None else ()
        kept.append(rng.random((*several, count)) < 0.5 if rng.integers(3) == 0 else None)
    return entries.Cut(tuple(indices), tuple(layers), tuple(kept))


def by_hand(x: np.ndarray, cut: entries.Cut, into: np.ndarray | None) -> np.ndarray:
    """What is taken and kept, entry by entry."""
    pairs = zip(x.shape, cut.indices, strict=True)
    sizes = [size if index is None else index.shape[-1] for size, index in pairs]
    out = np.zeros(sizes, x.dtype)
    for place in np.ndindex(*sizes):

        def own(table: Any, axis: int, place: Any = place) -> Any:
            return (
                table[place[axis]]
                if table.ndim == 1
                else table[place[cut.layers[axis]]][place[axis]]
            )

        if all(mask is None or own(mask, i) for i, mask in enumerate(cut.kept)):
            source = [
                p if t is None else own(t, i)
                for i, (p, t) in enumerate(zip(place, cut.indices, strict=True))
            ]
            out[place] = x[tuple(source)]
        elif into is not None:
            out[place] = into[place]
    return out


def check(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = (AxisType.Auto, AxisType.Explicit)[rng.integers(2)]
    sizes = ((8, 1), (4, 2), (2, 4))[rng.integers(3)]
    mesh = jax.make_mesh(sizes, ("a", "b"), axis_types=(kind, kind))
    leaves, cuts, into, wanted = {}, {}, {}, {}
    for path in "xyz"[: rng.integers(1, 4)]:
        shape = [
            int(8 * rng.integers(1, 3)) if rng.integers(2) else int(rng.integers(1, 7))
            for _ in range(rng.integers(1, 4))
        ]
        dtype = jnp.dtype(DTYPES[rng.integers(len(DTYPES))])
        cut = random_cut(rng, shape)

        def bits(shape: Any, dtype: Any = dtype) -> np.ndarray:
            count = int(np.prod(shape)) * dtype.itemsize
            return np.frombuffer(
                rng.integers(2 if dtype.kind == "b" else 256, size=count, dtype=np.uint8), dtype
            ).reshape(shape)

        host = bits(shape)
        into[path] = bits(entries._shape(host, cut))
        wanted[path] = cut, host
        leaves[path] = jax.device_put(host, jax.NamedSharding(mesh, random_spec(rng, mesh, shape)))
        cuts[path] = cut
    for base in (None, into):
        found = entries.take(leaves, cuts, into=base, fit=True)
        here = entries.take({p: host for p, (_, host) in wanted.items()}, cuts, into=base)
        for path, (cut, host) in wanted.items():
            expected = by_hand(host, cut, None if base is None else base[path])
            assert np.asarray(found[path]).tobytes() == expected.tobytes(), path
            assert here[path].tobytes() == expected.tobytes(), path
            place = shardings.fitted(leaves[path].sharding, expected.shape)
            assert found[path].sharding.is_equivalent_to(place, expected.ndim), path


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [64, 2**25], ids=["in blocks", "at once"])
def test_a_few_cuts(seed: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_devices, "PIECE", size)
    monkeypatch.setattr(entries, "_AT_ONCE", size)
    check(seed)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [64, 2**25], ids=["in blocks", "at once"])
def test_arrays_whose_axes_lie_in_another_order(
    seed: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_AT_ONCE", size)
    rng = np.random.default_rng(seed)
    turned = rng.normal(size=(5, 8, 6)).astype(np.float32).transpose(rng.permutation(3))
    for x in (turned, turned[:, ::-1]):
        cut = random_cut(rng, list(x.shape))
        found = entries.take({"": x}, {"": cut})[""]
        assert found.tobytes() == by_hand(x, cut, None).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 180))
def test_many_cuts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_devices, "PIECE", (64, 256)[seed % 2])
    monkeypatch.setattr(entries, "_AT_ONCE", 64)
    check(seed)
