"""Masking, slicing and scattering back: pure transforms of any tree that mirrors the variables."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import axes as ax
from jaxprune import paths
from jaxprune.errors import KeepError, TreeError
from jaxprune.graph import ChannelGraph, Variable

Keep = Mapping[str, Any]
Widths = Mapping[str, int]
FORMAT = 1


def widths(graph: ChannelGraph, keep: Keep | Widths | None = None) -> dict[str, int]:
    """Returns {group: kept count} for every group; `keep` may hold masks or counts."""
    found = {name: group.size for name, group in graph.groups.items()}
    for name, value in (keep or {}).items():
        if name not in found:
            raise KeepError(_unknown(graph, name))
        found[name] = int(value) if np.ndim(value) == 0 else int(np.sum(value))
    return found


def check_keep(graph: ChannelGraph, keep: Keep) -> None:
    """Raises KeepError if a mask names no group, has the wrong length or type, or is empty."""
    failures = []
    for name, kept in keep.items():
        group = graph.groups.get(name)
        if group is None:
            failures.append(_unknown(graph, name))
        elif np.shape(kept) != (group.size,):
            failures.append(
                f"keep for group {name!r} has shape {np.shape(kept)}, the group has {group.size} "
                "channels. Fix: recompute the scores on the variables that this graph was traced "
                "from."
            )
        elif jnp.asarray(kept).dtype != jnp.bool_:
            failures.append(
                f"keep for group {name!r} is {jnp.asarray(kept).dtype}, not bool. Fix: select "
                "with jp.select, or compare the scores with a threshold."
            )
        elif not isinstance(kept, Tracer) and not np.any(kept):
            failures.append(
                f"keep for group {name!r} keeps none of {group.size} channels. Fix: keep at "
                "least one (min_channels=1 in jp.select)."
            )
    if failures:
        raise KeepError("\n".join(failures))


def _unknown(graph: ChannelGraph, name: str) -> str:
    return (
        f"keep names group {name!r}, which the graph does not have; it has "
        f"{list(graph.groups)[:5]}... Fix: list the groups with print(graph)."
    )


def mask(graph: ChannelGraph, variables: Any, keep: Keep) -> Any:
    """Returns `variables` at full shape with the pruned entries zero.

    The masks of `keep` may be traced, so one compiled program serves every width.

    Args:
      graph: the channel graph of the network.
      variables: the variables, or any tree that mirrors them or a part of them: gradients,
        an average.
      keep: {group: bool[n]}; groups that are absent stay whole.

    Raises:
      KeepError, TreeError: before anything is changed.
    """
    check_keep(graph, keep)
    keep = {n: v if isinstance(v, jax.Array) else np.asarray(v) for n, v in keep.items()}
    spared = {
        (slot.path, name) for name in keep for slot in graph.groups[name].slots if not slot.masked
    }

    def apply(leaf: Any, variable: Variable) -> Any:
        zeroed = {name: v for name, v in keep.items() if (variable.path, name) not in spared}
        for axis, space in enumerate(variable.axes):
            if _touched(space, zeroed):
                shape = [1] * len(variable.shape)
                shape[axis] = -1
                kept = ax.select(space, zeroed).reshape(shape)
                host = isinstance(leaf, np.ndarray) and isinstance(kept, np.ndarray)
                xp = np if host else jnp
                leaf = xp.where(kept, leaf, xp.zeros((), leaf.dtype))
        return leaf

    return _map(graph, variables, {}, apply)


def slice(graph: ChannelGraph, variables: Any, keep: Keep) -> Any:
    """Returns `variables` without the pruned entries: a smaller tree of the same structure.

    Host arrays are cut on the host; arrays on devices by one jitted program for the whole tree,
    under their own shardings; `jax.ShapeDtypeStruct`s give shapes. Differentiable in `variables`.

    Args:
      graph: the channel graph of the network.
      variables: the variables, or any tree that mirrors them or a part of them.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.

    Raises:
      KeepError, TreeError: before anything is changed.
    """
    check_keep(graph, keep)
    kept = Kept(keep)
    pending: dict[str, tuple[jax.Array, tuple[np.ndarray | None, ...]]] = {}

    def cut(leaf: Any, variable: Variable) -> Any:
        indices = tuple(kept.indices(space) for space in variable.axes)
        if all(index is None for index in indices):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(kept.shape(variable), leaf.dtype)
        if isinstance(leaf, np.ndarray):
            return _take(np, leaf, indices)
        if isinstance(leaf, Tracer):
            return _take(jnp, leaf, indices)
        if _on_host(leaf):
            small = _take(np, np.asarray(leaf), indices)
            return jax.device_put(small, leaf.sharding)
        pending[variable.path] = (leaf, indices)
        return leaf

    small = _map(graph, variables, {}, cut)
    return _cut_on_device(small, pending) if pending else small


class Kept:
    """The kept indices of every space under one keep, each computed once."""

    def __init__(self, keep: Keep):
        self.keep = {name: np.asarray(value) for name, value in keep.items()}
        self.counts = {name: int(value.sum()) for name, value in self.keep.items()}
        self._found: dict[int, np.ndarray | None] = {}
        self._spaces: list[ax.Space] = []  # holds the ids in use

    def indices(self, space: ax.Space) -> np.ndarray | None:
        """int[k], the kept positions along an axis; None if it stays whole."""
        if id(space) not in self._found:
            found = None
            if _touched(space, self.keep):
                chosen = ax.select(space, self.keep)
                found = None if chosen.all() else np.flatnonzero(chosen)
            self._found[id(space)] = found
            self._spaces.append(space)
        return self._found[id(space)]

    def size(self, space: ax.Space) -> int:
        """The kept size of an axis."""
        return ax.count(space, self.counts)

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """The kept shape of a variable."""
        return tuple(map(self.size, variable.axes))


def _touched(space: ax.Space, keep: Keep) -> bool:
    return any(atom.name in keep for atom in ax.atoms(space))


def _take(xp: Any, leaf: Any, indices: tuple[np.ndarray | None, ...]) -> Any:
    for axis, index in enumerate(indices):
        if index is not None:
            leaf = xp.take(leaf, index, axis=axis, **({} if xp is np else {"mode": "clip"}))
    return leaf


def _on_host(leaf: jax.Array) -> bool:
    devices = leaf.devices()
    native = not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return len(devices) == 1 and next(iter(devices)).platform == "cpu" and native


def _cut_on_device(tree: Any, pending: Mapping[str, tuple[jax.Array, Any]]) -> Any:
    """Replaces the pending leaves by one program that keeps every leaf's sharding."""
    leaves = {path: leaf for path, (leaf, _) in pending.items()}
    indices = {path: index for path, (_, index) in pending.items()}
    shardings = {path: leaf.sharding for path, leaf in leaves.items()}

    def cut(leaves: Any, indices: Any) -> Any:
        return {path: _take(jnp, leaf, indices[path]) for path, leaf in leaves.items()}

    try:
        small = jax.jit(cut, out_shardings=shardings)(leaves, indices)
    except ValueError as error:
        raise TreeError(
            f"a kept width does not fit the sharding of its variable: {error}\nFix: select with "
            "multiple_of= the size of the mesh axis."
        ) from error
    found, treedef = paths.flatten(tree)
    return jax.tree.unflatten(treedef, [small.get(path, leaf) for path, leaf in found.items()])


def unslice(graph: ChannelGraph, small: Any, keep: Keep, into: Any = None) -> Any:
    """Returns the full tree with the entries of `small` in their places.

    Args:
      graph: the channel graph of the network.
      small: what `slice` gave for `keep`, or a tree that mirrors it.
      keep: {group: bool[n]}, concrete.
      into: a full tree that supplies the pruned entries; zeros where it is None.

    Raises:
      KeepError, TreeError: before anything is changed.
    """
    check_keep(graph, keep)
    kept = Kept(keep)
    full = None if into is None else paths.flatten(into)[0]
    if full is not None:
        check_tree(graph, full, {})

    def scatter(leaf: Any, variable: Variable) -> Any:
        indices = [kept.indices(space) for space in variable.axes]
        if all(index is None for index in indices):
            return leaf
        host = isinstance(leaf, np.ndarray)
        xp = np if host else jnp
        base = xp.zeros(variable.shape, leaf.dtype) if full is None else full[variable.path]
        where = np.ix_(
            *(
                np.arange(size) if index is None else index
                for index, size in zip(indices, variable.shape, strict=True)
            )
        )
        if host:
            base = np.array(base)
            base[where] = leaf
            return base
        return jnp.asarray(base).at[where].set(leaf)

    return _map(graph, small, kept.counts, scatter)


def _map(graph: ChannelGraph, tree: Any, counts: Widths, fn: Callable[[Any, Variable], Any]) -> Any:
    """Applies `fn(leaf, variable)` to every leaf that is a variable of the graph."""
    leaves, treedef = paths.flatten(tree)
    check_tree(graph, leaves, counts)
    return jax.tree.unflatten(
        treedef, [fn(leaf, graph.variables[path]) for path, leaf in leaves.items()]
    )


def check_tree(graph: ChannelGraph, leaves: Mapping[str, Any], counts: Widths) -> None:
    """Raises TreeError unless every leaf is a variable of the graph in its shape at `counts`."""
    failures = []
    for path, leaf in leaves.items():
        variable = graph.variables.get(path)
        if variable is None:
            failures.append(f"{path!r} is not a variable of the graph")
            continue
        shape = tuple(ax.count(space, counts) for space in variable.axes)
        if np.shape(leaf) != shape:
            failures.append(f"{path!r} has shape {np.shape(leaf)}, the graph has {shape}")
    if failures:
        more = f"\n... and {len(failures) - 8} more" if len(failures) > 8 else ""
        raise TreeError(
            "the tree does not mirror the variables of the graph:\n"
            + "\n".join(failures[:8])
            + f"{more}\nFix: pass the variables that were traced, whole ({{'params': ...}}, not "
            "the params alone), or trace again."
        )


def spec(graph: ChannelGraph, keep: Keep) -> dict[str, Any]:
    """Returns the JSON value that says what was cut; it travels with every checkpoint."""
    check_keep(graph, keep)
    groups = {
        name: {
            "size": group.size,
            "kept": np.flatnonzero(keep.get(name, np.ones(group.size, bool))).tolist(),
        }
        for name, group in graph.groups.items()
    }
    return {"format": FORMAT, "groups": groups, "versions": _versions()}


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    from jaxprune import __version__

    return {"jax": jax.__version__, "jaxprune": __version__}


def keep_from_spec(spec: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns {group: bool[n]} of a spec."""
    keep = {}
    for name, group in spec["groups"].items():
        keep[name] = np.zeros(group["size"], bool)
        keep[name][group["kept"]] = True
    return keep
