"""The rows of what opens and slices variables in files; the package safetensors is there."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

import jaxprune as jp
from refused.rows import PATH, Row, file
from refused.values import COUNTS, GRAPH, NAN, TREES, VARIABLES, A, Arg, G, K, X, apply, bad

NAMES = Arg(None, bad(3, "x", {A: "nope"}, [A], lambda _: 3, lambda _: "nope"), "names")
AXES = Arg(
    None, bad(3, "x", {A: (0, 1)}, [A], lambda _: 3, lambda _: "no", lambda _: (0.5,)), "axes"
)
IGNORE = Arg((), bad(None, 3, "nope", ["nope"], [3]), "ignore")


def source(folder: str) -> str:
    """Writes the variables."""
    tensors = {
        jax.tree_util.keystr(key, simple=True, separator="."): np.asarray(leaf)
        for key, leaf in jax.tree_util.tree_leaves_with_path(VARIABLES)
    }
    Path(folder).mkdir()
    save_file(tensors, f"{folder}/model.safetensors")
    return folder


def opened(graph: Any, path: Any, **kwargs: Any) -> None:
    file(lambda found: jp.open_variables(graph, path or source(found), **kwargs))


def sliced(graph: Any, variables: Any, keep: Any, path: Any, **kwargs: Any) -> None:
    def call(found: str) -> None:
        stored = jp.open_variables(GRAPH, source(found))
        given = stored if variables == "stored" else variables
        jp.slice_stored(graph, given, keep, path or f"{found}/small", **kwargs)

    file(call)


ROWS: dict[str, Row] = {
    "open_variables": Row(
        opened, {"graph": G, "path": PATH, "names": NAMES, "axes": AXES, "ignore": IGNORE}
    ),
    "slice_stored": Row(
        sliced,
        {
            "graph": G,
            "variables": Arg("stored", TREES | {"in memory": VARIABLES}, "variable|tree|BatchNorm"),
            "keep": K,
            "path": PATH,
            "metadata": Arg(None, bad(apply, {1, 2}, {3: 1}, NAN, [X]), "metadata"),
            "format": Arg("orbax", bad(None, 3, True, "zarr", ["orbax"], b"orbax"), "format"),
            "shard_bytes": Arg(10**9, COUNTS, "shard_bytes"),
        },
    ),
}
