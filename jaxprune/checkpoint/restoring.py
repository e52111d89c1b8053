"""Reads a checkpoint."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxprune.checkpoint.manifest as manifest
import jaxprune.checkpoint.opening as opening
import jaxprune.checkpoint.slice_manifest as slice_manifest
import jaxprune.checkpoint.trees as trees
from jaxprune.arguments.checks import check_path
from jaxprune.errors import CheckpointError
from jaxprune.keep.format import Spec


@dataclass(frozen=True, kw_only=True, eq=False)
class Restored:
    """What a checkpoint holds.

    Spec and metadata are there at once. The arrays are read when `variables` or `opt_state` is
    first asked for, after every file of that tree has been checked against its SHA-256.

    Raises:
      CheckpointError: on reading a tree: a file is damaged or was replaced by a later save, or the
        tree has containers that only a template rebuilds.
    """

    spec: Spec
    """What was cut, the JSON value of `jaxprune.spec`."""
    metadata: Any
    """The JSON value given to `save`."""
    _directory: Path = field(repr=False)
    _content: dict[str, Any] = field(repr=False)
    _plans: dict[str, trees.Plan] = field(repr=False)

    @cached_property
    def variables(self) -> Any:
        """The pytree that was saved."""
        return self._load("variables")

    @cached_property
    def opt_state(self) -> Any:
        """The optimizer state; None if none was saved."""
        return self._load("opt_state") if "opt_state" in self._plans else None

    def _load(self, name: str) -> Any:
        plan = self._plans[name]
        trees.check_containers(plan, name)
        try:
            manifest.check_files(self._directory, self._content, name)
            return trees.load(self._directory / self._content["data"], name, plan)
        except CheckpointError as error:
            if manifest.saved(self._directory)["data"] == self._content["data"]:
                raise
            raise CheckpointError(
                f"checkpoint {str(self._directory)!r} was replaced by a later save before its "
                f"{name} were read.\nFix: call restore again."
            ) from error


class _RestoredSlice(Restored):
    """What `slice_stored` wrote."""

    def _load(self, name: str) -> Any:
        plan = self._plans[name]
        trees.check_containers(plan, name)
        stored = opening.stored_leaves(self._directory, self._content)
        loaded = {}
        for number, target in zip(plan.numbers, plan.targets, strict=True):
            whole = np.asarray(stored[number])
            sharding = getattr(target, "sharding", None)
            loaded[str(number)] = whole if sharding is None else jax.device_put(whole, sharding)
        return trees.assembled(plan, loaded)


def restore(path: str | os.PathLike[str], *, like: Any = None, opt_state: Any = None) -> Restored:
    """Returns what `save` or `slice_stored` wrote; arrays are read, and checked, when asked for.

    Args:
      path: directory of the checkpoint.
      like: template of the variables, of arrays or `jax.ShapeDtypeStruct`s: for containers other
        than dict, list, tuple and None, and for arrays on devices. A leaf whose template has a
        sharding becomes a JAX array with that sharding. Every other leaf becomes a NumPy array (a
        Python number stays one), so that any machine can read what another wrote.
      opt_state: template of the optimizer state, for example `jax.eval_shape(tx.init, params)`;
        the states of optax are not nests of dict, list and tuple, and so need one.

    Raises:
      CheckpointError: there is no checkpoint at `path`; it is broken, foreign or newer than this
        library; or a template does not fit it.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     jp.save(f"{directory}/pruned", jp.slice(graph, v, keep), jp.spec(graph, keep))
      ...     restored = jp.restore(f"{directory}/pruned")
      ...     restored.variables["a"].shape
      (2, 3)
    """
    check_path(path, CheckpointError)
    directory = Path(path).absolute()
    sliced = slice_manifest.is_at(directory)
    content = slice_manifest.read(directory) if sliced else manifest.whole(directory)
    if opt_state is not None and "opt_state" not in content["trees"]:
        raise CheckpointError(
            f"checkpoint {str(directory)!r} has no optimizer state to fill the template with.\n"
            "Fix: save(..., opt_state=opt_state), or restore without it and call tx.init."
        )
    templates = {"variables": like, "opt_state": opt_state}
    plans = {
        name: trees.plan(name, description, templates[name])
        for name, description in content["trees"].items()
    }
    return (_RestoredSlice if sliced else Restored)(
        spec=content["spec"],
        metadata=content["metadata"],
        _directory=directory,
        _content=content,
        _plans=plans,
    )
