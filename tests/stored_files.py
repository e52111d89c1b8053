"""A network of stacked layers whose variables stand in files, and what is done to such files."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.checkpoint import unfinished

WIDTH, HIDDEN, LAYERS = 6, 10, 3
TURNED = {
    "layers/gate": (1, 2, 0),
    "layers/up": (1, 0, 2),
    "layers/down": (0, 2, 1),
    "last": (1, 0),
}
"""How the tensors of some variables are transposed."""


def network(v, x):
    def layer(x, v):
        return x + (jax.nn.relu(x @ v["gate"]) * (x @ v["up"])) @ v["down"], None

    return jax.lax.scan(layer, x @ v["first"] + v["bias"][None], v["layers"])[0] @ v["last"]


def made(seed=0):
    random = np.random.default_rng(seed)
    shapes = {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    layers = {n: random.normal(size=(LAYERS, *s)).astype(np.float32) for n, s in shapes.items()}
    half = random.normal(size=(7, WIDTH)).astype(jnp.bfloat16)
    last = random.normal(size=(WIDTH, 2)).astype(np.float32)
    return {"first": half, "bias": -np.zeros(WIDTH, np.float32), "last": last, "layers": layers}


def planned():
    """Returns the graph, the variables and what is kept."""
    v = made()
    graph = jp.trace(network, jax.eval_shape(lambda: v), jax.ShapeDtypeStruct((1, 7), jnp.float32))
    scores = jp.scores.l2(graph, v)
    assert any(group.layers for group in graph.groups.values())
    return graph, v, jp.select.global_ratio(graph, scores, prune_ratio=0.4)


def written(folder, v, shards=1, turned=None):
    """Writes the tensors as others do, in files of their own with an index."""
    from safetensors.numpy import save_file  # an extra

    folder.mkdir()
    flat = {
        jax.tree_util.keystr(key, simple=True, separator="/"): leaf
        for key, leaf in jax.tree_util.tree_leaves_with_path(v)
    }
    tensors = {
        path.replace("/", "."): np.ascontiguousarray(
            leaf.transpose(np.argsort(turned[path])) if turned and path in turned else leaf
        )
        for path, leaf in flat.items()
    }
    places = {}
    for number in range(shards):
        file = f"part-{number}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / "x.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def close(got, expected):
    assert got.keys() == expected.keys()
    for group, score in expected.items():
        np.testing.assert_allclose(got[group], score, rtol=1e-5)


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def killing(patch, place):
    """Ends the next slice at a place: in its third tensor, after it, or with all on the disk."""
    calls = itertools.count(1)
    write, append = unfinished.Unfinished.write, unfinished._append
    rename = unfinished.os.rename

    def torn(parts):
        yield next(parts)
        raise Killed

    def writes(self, name, parts):
        write(self, name, torn(parts) if next(calls) == 3 else parts)

    def appends(*args):
        if next(calls) == 4:  # the first line is of the slice
            raise Killed
        append(*args)

    def renames(source, target):
        if str(source).endswith(".partial"):
            raise Killed
        rename(source, target)

    if place == "in a tensor":
        patch.setattr(unfinished.Unfinished, "write", writes)
    elif place == "before the journal":
        patch.setattr(unfinished, "_append", appends)
    else:
        patch.setattr(unfinished.os, "rename", renames)


def flip(path, place=-3):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
