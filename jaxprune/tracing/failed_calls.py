"""What the function of a user raises while it is traced, and how it was called."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from flax.errors import InvalidRngError, ModifyScopeVariableError, ScopeCollectionNotFound

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import is_number
from jaxprune.errors import JaxpruneError, TraceError, see

_FLAX = {
    ScopeCollectionNotFound: (
        "the call reads a collection that is not among the variables, {keys}",
        "all that module.init returned, {{'params': ..., 'batch_stats': ...}}, not the params "
        "alone",
    ),
    ModifyScopeVariableError: (
        "the call writes variables that may not change",
        "train=False, for the call that will be served; or mutable=['batch_stats'], for one that "
        "trains",
    ),
    InvalidRngError: (
        "the call draws numbers without a key",
        "train=False, for the call that will be served; or rngs={{'dropout': jax.random.key(0)}}",
    ),
}


@contextmanager
def explained(
    variables: Any, inputs: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Generator[None, None, None]:
    """Errors of the call inside say what is wrong, or how the function was called.

    Raises:
      TraceError: a Linen module lacks a collection, writes one, or has no key to draw with.
    """
    try:
        yield
    except JaxpruneError:
        raise
    except tuple(_FLAX) as error:
        what, way_out = _FLAX[type(error)]
        keys = [*map(str, variables)] if isinstance(variables, Mapping) else kind_of(variables)
        text = str(error).split(" (https://")[0]
        raise TraceError(
            f"{what.format(keys=keys)}: {text}\nFix: {way_out.format()}.", page="howto/linen"
        ) from error
    except Exception as error:
        for line in _called(error, inputs, keywords):
            error.add_note(line)
        raise


def _called(
    error: Exception, inputs: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Generator[str, None, None]:
    """Yields the lines that say how the function was called, and what may be amiss."""
    shown = [*map(_shown, inputs), *(f"{name}={_shown(item)}" for name, item in keywords.items())]
    yield f"jaxprune traced the call fn({', '.join(['variables', *shown])})."
    if not inputs and not keywords:
        yield "Fix: pass the inputs behind the variables, such as a batch of one."
        yield see("howto/errors")
    if any(is_number(item) and 0 < item < 1 for item in inputs):
        yield "Fix: a ratio goes by its name, keep_macs=0.5; what has no name is an input."
        yield see("howto/budgets")
    if any(map(_is_shape, inputs)):
        yield "Fix: an array, or jax.ShapeDtypeStruct(shape, dtype), in the place of a shape."
        yield see("howto/errors")
    if "must be called with an RNG" in str(error):
        yield "Fix: lambda v, x: model.apply(v, None, x); or rather hk.without_apply_rng(model)."
        yield see("howto/haiku")


def _shown(item: Any) -> str:
    """An input in a few words: its dtype and shape."""
    if hasattr(item, "shape") and hasattr(item, "dtype"):
        return f"{item.dtype}{list(item.shape)}"
    return repr(item)[:30] if is_number(item) or _is_shape(item) else kind_of(item)


def _is_shape(item: Any) -> bool:
    """True for a tuple of ints, as arrays have them for shapes."""
    leaves = jax.tree.leaves(item)
    return isinstance(item, tuple) and bool(leaves) and all(type(n) is int for n in leaves)
