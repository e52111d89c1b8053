"""Opens the variables of a network in files, without reading them."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxprune.checkpoint.orbax_arrays as orbax_arrays
import jaxprune.checkpoint.safetensors_directories as safetensors_directories
from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_path, kind_of
from jaxprune.arguments.stored_arrays import StoredArray, permutation
from jaxprune.checkpoint.tensors import Found
from jaxprune.checkpoint.values import raise_if
from jaxprune.errors import CheckpointError
from jaxprune.graph import ChannelGraph, check_graph

Names = Callable[[str], str] | Mapping[str, str] | None
Axes = Callable[[str], Sequence[int] | None] | Mapping[str, Sequence[int]] | None


def open_variables(
    graph: ChannelGraph,
    path: str | os.PathLike[str],
    *,
    names: Names = None,
    axes: Axes = None,
    ignore: str | Iterable[str] = (),
) -> Any:
    """Returns the tree of the variables of a graph, of arrays that stay in files.

    The files are of safetensors, or a checkpoint of `jp.save` or Orbax. The graph may come from
    shapes: `jp.trace(fn, jax.eval_shape(init), x)`. What is opened goes into the scores that need
    weights alone, such as `jp.scores.l2`, and into `jp.slice_stored`, which read 8 MB at a time, or
    one row of a tensor (one layer of stacked ones) where that is more. Of Orbax no less is read
    than a chunk, which is a whole array, or the part of one device, unless it was saved with a
    `chunk_byte_size`; `jp.save` does so. `jp.slice` and `jp.mask` read a leaf at a time, and
    `np.asarray` reads one. It is not for compiled functions.

    What `jp.slice_stored` or `jp.save` wrote is checked by SHA-256 before it is used: a tensor of
    safetensors, also in a file that is opened alone, when it is first read; all variables of Orbax
    when the first of them is. Other files say nothing of what was written.

    Args:
      graph: the channel graph of the network.
      path: a file of safetensors, a directory with one or several of them and perhaps their index,
        a directory of `jp.save`, or the directory of a tree that Orbax wrote.
      names: the name of the tensor of a variable, `names("params/Dense_0/kernel")`, or a mapping of
        those that are not the default, `params.Dense_0.kernel`. In Orbax it is the keys with dots.
      axes: where the variable is a transposed tensor, the axes for `tensor.transpose(axes)`:
        `axes(path)`, which may be None, or a mapping, such as
        `{"params/Dense_0/kernel": (1, 0)}`.
      ignore: patterns of the tensors that are not variables of the graph. Others that no variable
        is in are refused.

    Raises:
      CheckpointError: there are no such files, one is damaged, or the tensors are not the variables
        of the graph: every difference is listed. The package safetensors is not installed.
      PatternError: a pattern of `ignore` matches nothing.

    >>> import tempfile, jax.numpy as jnp, numpy as np, jaxprune as jp
    >>> from safetensors.numpy import save_file
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> v = {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 2), np.float32)}
    >>> save_file(v, path)
    >>> graph = jp.trace(lambda v, x: jnp.maximum(x @ v["a"], 0) @ v["b"], v, np.ones((1, 3)))
    >>> stored = jp.open_variables(graph, path)
    >>> stored["a"].shape, jp.scores.l1(graph, stored)["a"].tolist()
    ((3, 4), [3.0, 3.0, 3.0, 3.0])
    """
    check_graph(graph)
    check_path(path, CheckpointError)
    known = _found(Path(path))
    what = f"cannot open {os.fspath(path)!r}"
    wanted = _given(graph, names, "names", lambda path: path.replace("/", "."))
    orders = _given(graph, axes, "axes", lambda _: None)
    others = [name for name in known if name not in wanted.values()]
    left = paths.require(ignore, others, what="ignore") if ignore != () else set[str]()
    failures = [
        *_name_failures(wanted, known),
        *_fit_failures(graph, wanted, orders, known),
        *(f"tensor {name!r} is not that of a variable" for name in others if name not in left),
    ]
    raise_if(
        failures,
        what,
        "names= says which tensor is a variable, axes= how it is transposed, and ignore= which "
        "tensors the network does not have.",
    )
    leaves = []
    for place, name in wanted.items():
        order, opened = permutation(orders[place], len(known[name].shape)), known[name].opened
        assert order is not None
        assert opened is not None
        leaves.append(opened(order))
    return jax.tree.unflatten(graph.treedef, leaves)


def stored_leaves(directory: Path, content: Mapping[str, Any]) -> list[StoredArray]:
    """Returns the leaves of what `slice_stored` wrote, in the order of its tree.

    Raises:
      CheckpointError: a file is missing, damaged, or of another slice.
    """
    known = safetensors_directories.found(directory)
    leaves = [
        opened(tuple(axes))
        for name, axes in content["tensors"]
        if (opened := known[name].opened) is not None
    ]
    raise_if(
        [
            f"tensor {leaf.name!r} is {leaf.dtype}{list(leaf.shape)}, not that of the manifest"
            for leaf, said in zip(leaves, content["trees"]["variables"]["leaves"], strict=True)
            if (leaf.dtype.name, list(leaf.shape)) != (said["dtype"], said["shape"])
        ],
        f"{str(directory)!r} is damaged",
        "use another copy, or slice again.",
    )
    return leaves


def _given(
    graph: ChannelGraph, given: Any, what: str, default: Callable[[str], Any]
) -> dict[str, Any]:
    """Returns {variable: what a function or a mapping gives, else the default}."""
    if given is None:
        return {path: default(path) for path in graph.variables}
    if isinstance(given, Mapping):
        raise_if(
            [
                f"{path!r} is not a variable; near: {paths.near(path, graph.variables)}"
                for path in given
                if path not in graph.variables
            ],
            f"{what} names other variables",
            "list them with print(graph); what the mapping leaves out has the default.",
        )
        return {path: given[path] if path in given else default(path) for path in graph.variables}
    if not callable(given):
        raise CheckpointError(
            f"{what} must be a function of the path of a variable or a mapping, got "
            f"{kind_of(given)}.\nFix: {what}={{'params/Dense_0/kernel': ...}}."
        )
    return {path: given(path) for path in graph.variables}


def _name_failures(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for path, name in wanted.items():
        if not isinstance(name, str):
            yield f"variable {path!r}: its tensor is {kind_of(name)}, not a name"
        elif name not in known:
            yield f"variable {path!r}: no tensor {name!r}; near: {paths.near(name, known)}"
    counts = Counter(name for name in wanted.values() if isinstance(name, str))
    for name, count in counts.items():
        if count > 1:
            yield f"tensor {name!r} is that of {count} variables"


def _fit_failures(
    graph: ChannelGraph,
    wanted: Mapping[str, Any],
    orders: Mapping[str, Any],
    known: Mapping[str, Found],
) -> Iterator[str]:
    for path, name in wanted.items():
        entry = known.get(name) if isinstance(name, str) else None
        if entry is None:
            continue
        expected, order = graph.variables[path].shape, permutation(orders[path], len(entry.shape))
        what = f"variable {path!r}: tensor {name!r} is {entry.said}"
        if order is None:
            yield f"{what}, and axes {orders[path]!r} are not a permutation of its axes"
        elif (shape := tuple(entry.shape[axis] for axis in order)) != expected:
            turned = "" if orders[path] is None else f", transposed {list(shape)}"
            yield f"{what}{turned}, the graph has {list(expected)}"
        if entry.opened is None:
            yield f"{what}, a dtype that safetensors does not read into NumPy"


def _found(path: Path) -> Mapping[str, Found]:
    """Returns {name: tensor} of files of either format."""
    if not (path.is_file() or path.is_dir()):
        raise CheckpointError(f"no file or directory {str(path)!r}.\nFix: check the path.")
    return (orbax_arrays if orbax_arrays.is_at(path) else safetensors_directories).found(path)
