"""Slices variables in files into new files: a part at a time, and on from where it was killed.

Where every byte goes is known before anything is read, from the kept shapes.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import jaxprune.checkpoint.orbax_layout as orbax_layout
import jaxprune.checkpoint.safetensors_layout as safetensors_layout
import jaxprune.checkpoint.trees as trees
import jaxprune.checkpoint.unfinished as unfinished
import jaxprune.checkpoint.values as values
from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_path, kind_of
from jaxprune.arguments.numbers import check_count
from jaxprune.arguments.stored_arrays import StoredArray
from jaxprune.checkpoint.tensors import Smaller
from jaxprune.cutting import absent, entries
from jaxprune.cutting.transforms import check_tree
from jaxprune.errors import CheckpointError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import spec as specs
from jaxprune.inspecting import unread_variables, without_branches
from jaxprune.keep.check import Keep, check_keep
from jaxprune.keep.kept import Kept


def slice_stored(
    graph: ChannelGraph,
    variables: Any,
    keep: Keep,
    path: str | os.PathLike[str],
    *,
    metadata: Any = None,
    format: Literal["safetensors", "orbax"] = "safetensors",
    shard_bytes: int = safetensors_layout.SHARD_BYTES,
) -> None:
    """Writes what `jp.slice` gives, bit for bit, as files, in bounded memory.

    No more is in memory than 8 MB of a tensor, or one row of it (one layer of stacked ones) where
    that is more, twice; of a source of Orbax a chunk, where that is more. The same call after a
    kill goes on where it was: what it has written stands in `<path>.partial` until all is written,
    read back and compared by SHA-256. Nothing is overwritten. `jp.open_variables` reads the result,
    and `jp.restore` its spec and metadata, and its variables.

    Args:
      graph: the channel graph of the network.
      variables: what `jp.open_variables` gave, whole.
      keep: as in `jp.slice`, with branches.
      path: directory to create, with its parents.
      metadata: a JSON value that stands beside the spec, as in `jp.save`.
      format: "safetensors", with the names, axes and dtypes of the files that were opened; or
        "orbax", the checkpoint that `jp.save` would write of the slice, in chunks of up to 4 MB
        without compression.
      shard_bytes: how many bytes of tensors a file of safetensors has at most; a larger tensor has
        its own.

    Raises:
      KeepError: a mask does not fit its group.
      TreeError: `variables` does not mirror the graph.
      CheckpointError: `path` is taken, `<path>.partial` is the beginning of another slice, a source
        is damaged or has changed, `variables` are not all in files, metadata is not JSON, the
        format does not have a dtype, or what was written does not read back.
      OSError: the file system refuses a write.

    Warns:
      UnreadWarning: as `jp.slice`.

    >>> import tempfile, jax.numpy as jnp, numpy as np, jaxprune as jp
    >>> from safetensors.numpy import load_file, save_file
    >>> path = tempfile.mkdtemp()
    >>> v = {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 2), np.float32)}
    >>> save_file(v, path + "/model.safetensors")
    >>> graph = jp.trace(lambda v, x: jnp.maximum(x @ v["a"], 0) @ v["b"], v, np.ones((1, 3)))
    >>> stored = jp.open_variables(graph, path)
    >>> jp.slice_stored(graph, stored, {"a": np.array([1, 0, 1, 1], bool)}, path + "/small")
    >>> load_file(path + "/small/model.safetensors")["b"].shape
    (3, 2)
    """
    check_path(path, CheckpointError)
    fix = "shard_bytes=5_000_000_000."
    shard_bytes = check_count(shard_bytes, "shard_bytes", fix, CheckpointError)
    if format not in ("safetensors", "orbax"):
        raise CheckpointError(
            f'format must be "safetensors" or "orbax", got {format!r}.\nFix: format="orbax".'
        )
    target = Path(path).absolute()
    plan = _plan(graph, variables, keep)
    content = {"spec": specs.spec(graph, keep), "metadata": metadata}
    what = f"cannot slice to {os.fspath(path)!r}"
    problems = [*values.json_problems(metadata, "metadata")]
    if os.path.lexists(target):
        problems.append("there is something, and nothing is overwritten")
    values.raise_if(problems, what, "pass another path, and a JSON value as metadata.")
    content |= {"trees": {"variables": trees.describe(plan.smaller())}}
    mark = _digest([plan.marks(), content])
    kept = plan.kept()
    layout = (
        safetensors_layout.layout(kept, shard_bytes)
        if format == "safetensors"
        else orbax_layout.OrbaxLayout(kept, mark[:16])
    )
    work = unfinished.begin(target, _digest([mark, layout.said]), kept, layout)
    for place, leaf in plan.leaves.items():
        if place in plan.shapes and leaf.name not in work.done:
            work.write(leaf.name, plan.parts(place))
    work.finish(content)


class _Plan(NamedTuple):
    """What is taken of which array."""

    leaves: Mapping[str, StoredArray]
    cuts: Mapping[str, entries.Cut]
    rows: Mapping[str, np.ndarray]
    """Which rows of the first axis stay, where branches of a scan go."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shapes of what is left; what goes with a branch is absent."""
    treedef: Any

    def smaller(self) -> Any:
        """Returns the smaller tree, of shapes."""
        structs = [
            jax.ShapeDtypeStruct(self.shapes.get(path, leaf.shape), leaf.dtype)
            for path, leaf in self.leaves.items()
        ]
        gone = self.leaves.keys() - self.shapes.keys()
        return absent.without_leaves(jax.tree.unflatten(self.treedef, structs), gone)

    def kept(self) -> dict[str, Smaller]:
        """Returns {tensor: what is to be written}, in the order of the smaller tree."""
        made = {}
        for path in paths.flatten(self.smaller())[0]:
            leaf = self.leaves[path]
            made[leaf.name] = Smaller(
                name=leaf.name,
                shape=self.shapes[path],
                dtype=leaf.dtype,
                axes=leaf.axes,
                outer=self._outer(path),
                header=leaf.header,
            )
        return made

    def _outer(self, path: str) -> int | None:
        """The axis along which a tensor is cut in parts; None if it is cut whole."""
        along = self.leaves[path].outer
        index = None if along is None else self.cuts[path].indices[along]
        each_layer = index is not None and index.ndim == 2  # each has its own rows
        return None if each_layer else along

    def marks(self) -> list[Any]:
        """Returns all that decides what is written of what, JSON."""
        sources = {leaf.name: [leaf.source, leaf.axes] for leaf in self.leaves.values()}
        cuts = hashlib.sha256()
        for path, cut in self.cuts.items():
            for index in (*cut.indices, self.rows.get(path)):
                cuts.update(b"-" if index is None else str(index.shape).encode() + index.tobytes())
        return [sources, cuts.hexdigest()]

    def parts(self, path: str) -> Iterator[np.ndarray]:
        """Yields what is kept of a variable, along the axis of its parts."""
        leaf, cut, rows = self.leaves[path], self.cuts[path], self.rows.get(path)
        along = self._outer(path)
        if along is None:
            yield _taken(np.asarray(leaf), cut, rows)
            return
        for start, stop in leaf.bounds():
            here, left = _within(cut, along, start, stop), rows
            if along == 0 and rows is not None:
                left = rows[start:stop]
            part = _taken(leaf.part(start, stop), here, left, along)
            if part.size:
                yield part
            del part


def _plan(graph: ChannelGraph, variables: Any, keep: Keep) -> _Plan:
    """Returns what to take, once all of it is known to fit."""
    parts = without_branches.split(graph, keep)
    kept = Kept(check_keep(graph, parts.channels))
    leaves, treedef = paths.flatten(variables)
    check_tree(graph, leaves, {})
    values.raise_if(
        [f"{path!r} is absent" for path in graph.variables if path not in leaves]
        + [
            f"{path!r} is {kind_of(leaf)}, not in a file"
            for path, leaf in leaves.items()
            if not isinstance(leaf, StoredArray)
        ],
        "variables are not what jp.open_variables gave",
        "jp.open_variables(graph, path), or jp.slice for arrays in memory.",
    )
    gone = without_branches.without(graph, parts.branches) if parts.branches else None
    rows = {} if gone is None else dict(gone.rows)
    cuts, shapes = {}, {}
    for path, variable in graph.variables.items():
        cuts[path] = entries.Cut.of(map(kept.indices, variable.axes), variable.axes)
        if gone is None or path not in gone.variables:
            shape = kept.shape(variable)
            first = (np.count_nonzero(rows[path]),) if path in rows else shape[:1]
            shapes[path] = (*map(int, first), *shape[1:])
    if graph.unread:
        unread_variables.warn(graph, parts.channels, "jp.slice_stored", leaves)
    return _Plan(leaves, cuts, rows, shapes, treedef)


def _within(cut: entries.Cut, along: int, start: int, stop: int) -> entries.Cut:
    """Returns the cut of the part from `start` to `stop` along an axis."""
    indices = list(cut.indices)
    for axis, index in enumerate(indices):
        if index is None:
            continue
        if axis == along:
            indices[axis] = index[(start <= index) & (index < stop)] - start
        elif index.ndim == 2 and cut.layers[axis] == along:
            indices[axis] = index[start:stop]
    return cut._replace(indices=tuple(indices))


def _taken(
    part: np.ndarray, cut: entries.Cut, rows: np.ndarray | None, along: int | None = None
) -> np.ndarray:
    """Returns what is kept; a single layer `along` an axis is cut without the axis of layers."""
    if along is not None and part.shape[along] == 1 and cut.indices[along] is None:
        one = _one_layer(cut, along)
        small = np.expand_dims(entries.take({"": part.squeeze(along)}, {"": one})[""], along)
    else:
        small = entries.take({"": part}, {"": cut})[""]
    return small if rows is None else small.compress(rows, axis=0)


def _one_layer(cut: entries.Cut, along: int) -> entries.Cut:
    """Returns the cut of one layer, of an array without the axis that counts them."""
    indices, layers = [], []
    for axis, (index, layer) in enumerate(zip(cut.indices, cut.layers, strict=True)):
        if axis != along:
            own = index is not None and index.ndim == 2 and layer == along
            indices.append(index[0] if own and index is not None else index)
            layers.append(None if layer is None or layer == along else layer - (layer > along))
    return entries.Cut(tuple(indices), tuple(layers), (None,) * len(indices))


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
