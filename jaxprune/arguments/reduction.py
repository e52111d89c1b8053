"""Small results of large arrays, computed where these are; what is large never moves."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.fetching import fetch, replicated
from jaxprune.arguments.stored_arrays import in_memory

Array = Any
Run = Callable[..., Any]


def reduced(
    run: Run,
    parts: Sequence[Array],
    *,
    on_host: Callable[[Sequence[np.ndarray]], Any] | None = None,
    kept: bool = True,
) -> Any:
    """Returns `run(*parts)`, on the host.

    Arrays on the host or in files are read there by NumPy, and so are those of the CPU alone.
    Others stay on their devices, divided as they are, and a compiled program gives every device the
    whole result, which is fetched. Inside of `jax.jit` all stays in the program. Where `run` cannot
    be traced, or the arrays are of several sets of devices, these are fetched after all.

    Args:
      run: takes arrays of NumPy as well as traced ones.
      parts: the arrays.
      on_host: what takes the place of `run` for arrays of NumPy.
      kept: whether the program is for all calls of an equal `run`.
    """
    if any(isinstance(part, Tracer) for part in parts):
        return _whole(run, parts)
    ready = [in_memory(part) for part in parts]
    if not all(map(is_near, ready)):
        program = _kept_program if kept else _program
        try:
            return fetch(program(run, _mesh(ready))(*ready))
        except (jax.errors.TracerArrayConversionError, ValueError):
            pass
    arrays = [np.asarray(part) for part in fetch(ready)]
    return run(*arrays) if on_host is None else on_host(arrays)


def is_near(part: Array) -> bool:
    """True for an array that NumPy reads where it is."""
    if not isinstance(part, jax.Array):
        return True
    devices = part.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu" and part.is_fully_addressable


def freely(run: Run, *parts: Array) -> Any:
    """Returns `run(*parts)`, whole, of traced arrays that explicit axes of a mesh may divide.

    Inside, these axes are the compiler's, as those of other meshes are.
    """
    divided = [each for part in parts if any((each := jax.typeof(part).sharding).spec)]
    if not divided:
        return run(*parts)
    whole = jax.NamedSharding(divided[0].mesh, jax.P())
    return jax.sharding.auto_axes(run, out_sharding=whole)(*parts)


def _program(run: Run, mesh: Any) -> Run:
    everywhere = None if mesh is None else jax.NamedSharding(mesh, jax.P())
    return jax.jit(lambda *parts: _whole(run, parts), out_shardings=everywhere)


_kept_program = lru_cache(maxsize=256)(_program)


def _whole(run: Run, parts: Sequence[Array]) -> Any:
    return jax.tree.map(replicated, run(*parts))


def _mesh(parts: Iterable[Array]) -> Any:
    """The mesh of arrays, None without one."""
    shardings = (part.sharding for part in parts if isinstance(part, jax.Array))
    return next(
        (sharding.mesh for sharding in shardings if isinstance(sharding, jax.NamedSharding)), None
    )
