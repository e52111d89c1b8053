"""One file that serves a pruned network: no jaxprune, no Flax, no Python of the model.

Load and run it anywhere JAX and flatbuffers are installed:

```python
import pathlib
import jax.export

served = jax.export.deserialize(bytearray(pathlib.Path("small.jax").read_bytes()))
logits = served.call(x)  # x: the inputs alone, any batch size
```
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from jax import export as jax_export

from jaxprune.arguments import call_inputs
from jaxprune.arguments.checks import check_path
from jaxprune.arguments.functions import check_function, check_inputs
from jaxprune.errors import JaxpruneError

_PLATFORMS = {"cpu", "cuda", "rocm", "tpu"}


def export(
    path: str | os.PathLike[str],
    fn: Callable[..., Any],
    small: Any,
    *inputs: Any,
    shapes: Any = "batch, ...",
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    **keywords: Any,
) -> None:
    """Writes `x -> fn(small, x)` as one file; the variables and the program are inside.

    The program is StableHLO, under the compatibility guarantee of `jax.export`: a later JAX reads
    it for at least six months. A file at `path` is replaced in one step, once the new one is whole.

    Args:
      path: the file to write; its directory exists.
      fn: `lambda v, x: model2.apply(v, x, train=False)` of a resized module, or what `narrow` gave.
      small: the concrete variables, as `slice` gave them; they become constants on one device.
      *inputs: arrays, `jax.ShapeDtypeStruct`s or pytrees of them: shapes and dtypes of the inputs.
      shapes: which sizes stay open, as in `jax.export.symbolic_args_specs`. By default the leading
        axis of every input is a batch of any size; `("batch, h, w, 3", None)` says it per input;
        None fixes every shape to that of `inputs`. With keyword inputs it is one for all, or
        `(those by position, {keyword: shape})`.
      platforms: where the file can run.
      **keywords: keyword arguments of `fn`: arrays and shapes are inputs of the file by keyword,
        others constants.

    Raises:
      JaxpruneError: `fn` cannot be exported at these shapes or for these platforms, or flatbuffers
        is not installed.
      OSError: the file cannot be written.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> import tempfile, jax
      >>> from pathlib import Path
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     file = Path(directory, "net.stablehlo")
      ...     run = jp.narrow(fn, graph, keep)
      ...     jp.export(file, run, jp.slice(graph, v, keep), np.ones((1, 2), np.float32))
      ...     network = jax.export.deserialize(bytearray(file.read_bytes()))
      >>> network.call(np.ones((5, 2), np.float32)).shape
      (5, 3)
    """
    check_path(path, JaxpruneError)
    check_function(fn)
    given, constants = call_inputs.split(keywords)
    check_inputs(inputs, given)
    fn = call_inputs.bound(fn, constants)
    what = f"cannot export to {os.fspath(path)!r}"
    if not isinstance(platforms, Sequence) or not set(map(str, platforms)) <= _PLATFORMS:
        raise JaxpruneError(
            f"{what}: platforms must be some of {sorted(_PLATFORMS)}, got {platforms!r}.\n"
            "Fix: platforms=('cpu',)."
        )
    if importlib.util.find_spec("flatbuffers") is None:
        raise JaxpruneError(
            f"{what}: jax.export writes files with flatbuffers, which is not installed.\n"
            "Fix: pip install flatbuffers."
        )
    try:
        content = exported(fn, small, inputs, shapes, platforms, given).serialize()
    except Exception as error:
        raise JaxpruneError(
            f"{what} with inputs of shapes {shapes!r} for {', '.join(platforms)}: {error}\n"
            "Fix: pass shapes=None if the function needs the batch size as a number, fewer "
            "platforms if one lacks an operation; variables must be concrete, and outputs arrays "
            "in nests of dict, list and tuple."
        ) from error
    _write(Path(path), content)


def exported(
    fn: Callable[..., Any],
    small: Any,
    inputs: Any,
    shapes: Any,
    platforms: Sequence[str],
    keywords: Mapping[str, Any] = MappingProxyType({}),
) -> jax_export.Exported:
    """Returns what `export` writes, as an object of `jax.export`."""
    constants = jax.device_get(small)
    served = jax.jit(lambda *xs, **named: fn(constants, *xs, **named))
    export = jax_export.export(served, platforms=tuple(platforms))
    if not keywords:
        return export(*jax_export.symbolic_args_specs(inputs, shapes))
    specs, named = jax_export.symbolic_args_specs((inputs, dict(keywords)), shapes)
    return export(*specs, **named)


def _write(path: Path, content: bytes | bytearray) -> None:
    """Puts a whole file in place, or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
