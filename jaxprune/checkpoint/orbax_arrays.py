"""Arrays of an Orbax checkpoint, of which no more is read than is asked for, by tensorstore.

Orbax itself reads arrays whole. What it writes is one tensorstore array for each leaf, whose name
is in `_METADATA`, and a chunk of it is the least that can be read.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune.checkpoint.manifest as manifest
from jaxprune.arguments.stored_arrays import Slices, StoredArray
from jaxprune.checkpoint.tensors import Found, source_of
from jaxprune.checkpoint.values import raise_if
from jaxprune.errors import CheckpointError

METADATA = "_METADATA"
_DATABASE = "manifest.ocdbt"
_ARRAYS = {"jax.Array", "np.ndarray", "scalar"}


def is_at(path: Path) -> bool:
    """True for a directory that `jp.save` or Orbax wrote."""
    return (path / manifest.NAME).exists() or bool(_trees(path))


def found(path: Path) -> dict[str, Found]:
    """Returns {name: array} of a checkpoint.

    Raises:
      CheckpointError: it is damaged, or holds several trees.
    """
    return _saved(path) if (path / manifest.NAME).exists() else _foreign(path)


@cache
def limits() -> Any:
    """Returns the context of tensorstore in which few chunks are in memory at once."""
    import tensorstore  # when used: importing it is slow

    few = {"file_io_concurrency": {"limit": 1}, "data_copy_concurrency": {"limit": 1}}
    return tensorstore.Context(few)


def _trees(path: Path) -> list[Path]:
    """Returns the directories of trees that Orbax wrote: this one, or those in it."""
    if (path / METADATA).is_file():
        return [path]
    return sorted(item.parent for item in path.glob(f"*/{METADATA}"))


def _saved(path: Path) -> dict[str, Found]:
    """Finds what `jp.save` wrote: its manifest names the leaves, and their files by SHA-256."""
    content = manifest.whole(path)
    leaves = content["trees"]["variables"]["leaves"]
    names = {leaf["path"].replace("/", "."): str(i) for i, leaf in enumerate(leaves)}
    check_names(path, [leaf["path"].replace("/", ".") for leaf in leaves])
    checked = cache(lambda: manifest.check_files(path, content, "variables"))
    stored = {name: key for name, key in names.items() if 0 not in leaves[int(key)]["shape"]}
    data = path / content["data"] / "variables"
    arrays = _opened(data, stored, content["data"], checked)
    return {name: arrays.get(name) or _empty(leaves[int(key)]) for name, key in names.items()}


def _foreign(path: Path) -> dict[str, Found]:
    directories = _trees(path)
    if len(directories) != 1:
        raise CheckpointError(
            f"{str(path)!r} holds the trees {[item.name for item in directories]}.\n"
            f"Fix: pass the directory of one, {str(directories[0])!r}."
        )
    (directory,) = directories
    marks = [item for item in (METADATA, _DATABASE) if (directory / item).exists()]

    def stamp() -> str:
        return " ".join(source_of(directory / mark) for mark in marks)

    stamped = stamp()

    def unchanged() -> None:
        if stamp() != stamped:
            raise CheckpointError(
                f"{str(directory)!r} has changed since it was opened.\nFix: open it again."
            )

    leaves = [
        [str(key["key"]) for key in leaf["key_metadata"]]
        for leaf in _said(directory)["tree_metadata"].values()
        if leaf["value_metadata"]["value_type"] in _ARRAYS
        and not leaf["value_metadata"].get("skip_deserialize")
    ]
    names = [".".join(keys) for keys in leaves]
    check_names(path, names)
    return _opened(directory, dict(zip(names, names, strict=True)), stamped, unchanged)


def check_names(path: Path, names: list[str]) -> None:
    """Raises if two leaves have one name."""
    raise_if(
        [f"{name!r} is the name of {n} leaves" for name, n in Counter(names).items() if n > 1],
        f"cannot open {str(path)!r}",
        "save the tree with keys that differ where a dot joins them.",
    )


def _said(directory: Path) -> Mapping[str, Any]:
    try:
        said = json.loads((directory / METADATA).read_text(encoding="utf-8"))
        _ = [leaf["value_metadata"]["value_type"] for leaf in said["tree_metadata"].values()]
        _ = [k["key"] for leaf in said["tree_metadata"].values() for k in leaf["key_metadata"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{METADATA} of {str(directory)!r} cannot be read: {type(error).__name__}: {error}.\n"
            "Fix: use another copy of the checkpoint."
        ) from error
    return said


def _opened(
    directory: Path, names: Mapping[str, str], source: str, check: Callable[[], None]
) -> dict[str, Found]:
    """Returns {name: array} of a tree, given {name: its name there}; opens all at once."""
    import tensorstore

    said = _said(directory)
    driver = "zarr3" if said.get("use_zarr3") else "zarr"
    # Where zeros are written too, what is absent is lost; else it is zero.
    lost = {"fill_missing_data_reads": False} if said.get(_ZEROS) else {}
    waiting = {}
    for name, key in names.items():
        base = {"driver": "file", "path": f"{directory}/"}
        kvstore = {"driver": "file", "path": f"{directory}/{key}/"}
        if (directory / _DATABASE).exists():
            kvstore = {"driver": "ocdbt", "base": base, "path": f"{key}/"}
        spec = {"driver": driver, "kvstore": kvstore, **lost}
        waiting[name] = tensorstore.open(spec, read=True, open=True, context=limits())
    opened, problems = {}, []
    for name, future in waiting.items():
        try:
            opened[name] = _found(Reading(future.result(), name, directory, check), source)
        except ValueError as error:
            problems.append(f"{name!r}: {error}")
    raise_if(problems, f"{str(directory)!r} cannot be read", "use another copy of the checkpoint.")
    return opened


_ZEROS = "store_array_data_equal_to_fill_value"


@dataclass(frozen=True, eq=False)
class Reading:
    """Reads slices of an array.

    Raises:
      CheckpointError: the checkpoint has changed since, or is damaged.
    """

    store: Any
    name: str
    directory: Path
    check: Callable[[], None]

    def __call__(self, index: Slices) -> np.ndarray:
        """Returns the entries at slices of its axes."""
        self.check()
        try:
            return self._read(index)
        except Exception as error:
            raise CheckpointError(
                f"{self.name!r} in {str(self.directory)!r} cannot be read: {error}.\n"
                "Fix: use another copy, or open it again."
            ) from error

    def _read(self, index: Slices) -> np.ndarray:
        """Reads one chunk after the other: tensorstore would have all of them in memory."""
        view = self.store[index]
        whole = np.empty(view.shape, view.dtype.numpy_dtype)
        chunk = self.store.chunk_layout.read_chunk.shape or ()
        edges = [
            [start, *range((start // size + 1) * size, stop, size), stop]
            for (start, stop), size in zip(_bounds(view), chunk, strict=True)
        ]
        for cell in itertools.product(*map(itertools.pairwise, edges)):
            where = tuple(slice(*pair) for pair in cell)
            first = tuple(edge[0] for edge in edges)
            place = tuple(slice(a - n, b - n) for (a, b), n in zip(cell, first, strict=True))
            whole[place] = view[where].read().result()
        return whole


def _bounds(view: Any) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of the axes of a view, where they lie in the whole."""
    yield from zip(view.domain.inclusive_min, view.domain.exclusive_max, strict=True)


def _found(reading: Reading, source: str) -> Found:
    store = reading.store
    shape, dtype = tuple(store.shape), np.dtype(store.dtype.numpy_dtype)
    stored = store.chunk_layout.read_chunk.shape or shape
    chunk = [min(pair) for pair in zip(stored, shape, strict=True)]
    along = _along(shape, chunk)

    def opened(axes: tuple[int, ...]) -> StoredArray:
        return StoredArray(
            name=reading.name,
            shape=tuple(shape[axis] for axis in axes),
            dtype=dtype,
            axes=axes,
            read=reading,
            source=f"{source} {reading.name}",
            along=along,
            together=max(1, chunk[along]) if chunk else 1,
        )

    return Found(shape, f"{dtype.name}{list(shape)}", opened)


def _along(shape: Sequence[int], chunk: Sequence[int]) -> int:
    """Returns the axis along which the least is read at once; that of layers, if it is divided."""
    divided = [axis for axis, size in enumerate(shape) if chunk[axis] < size]
    if not divided or (divided[0] == 0 and len(shape) > 2):
        return 0
    return min(divided, key=lambda axis: chunk[axis] / shape[axis])


def _empty(leaf: Mapping[str, Any]) -> Found:
    """Returns an array without entries, which Orbax does not store."""
    from jax.numpy import dtype  # knows bfloat16

    shape, kind = tuple(leaf["shape"]), dtype(leaf["dtype"])

    def opened(axes: tuple[int, ...]) -> StoredArray:
        return StoredArray(
            name=leaf["path"].replace("/", "."),
            shape=tuple(shape[axis] for axis in axes),
            dtype=kind,
            axes=axes,
            read=lambda index: np.empty(shape, kind)[index],
            source="",
        )

    return Found(shape, f"{kind.name}{list(shape)}", opened)
