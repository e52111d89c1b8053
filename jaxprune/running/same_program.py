"""Compares a program with a traced one at the kept sizes, equation by equation.

Shapes that agree prove nothing: a reshape by a hard-coded number of heads, or a shortcut that is
only taken where widths differ, give the right shapes and another network. So every equation of
the resized network must be the original's equation at the sizes that its axis spaces have.
"""

import traceback
from collections.abc import Callable
from typing import Any

from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.kept import Kept
from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Program
from jaxprune.running import lockstep, raised_at
from jaxprune.running.compared import Attempt, Changed, Compared
from jaxprune.running.lockstep import widths as widths

WAY_OUT = (
    "Fix: give the module the right attribute (overrides={'module/path': {'attribute': value}}), "
    "keep that group whole (protect= in jp.select), or run jp.narrow(fn, graph, keep), which "
    "needs no module."
)
FAILURE = "the resized network is not the same network"


def check(
    graph: ChannelGraph,
    kept: Kept,
    fn: Callable[..., Any],
    name: str,
    way_out: str = WAY_OUT,
    failure: str = FAILURE,
) -> Compared:
    """Returns what follows a size in `fn`, traced at the kept widths.

    Raises:
      ResizeError: `fn`, which goes by `name`, does not run at the kept widths, or is another
        network there; begins with the `failure` and ends with the `way_out`.
    """
    try:
        args, keywords = kept.call(graph)
        program, _ = jaxpr.trace(fn, *args, **keywords)
    except ResizeError:
        raise
    except Exception as error:
        raise ResizeError(
            f"{name} does not run at the {widths(kept)} widths: {type(error).__name__}: {error}"
            f"{raised_at.place(error)}{kept.torn}\n{way_out}"
        ) from error
    return compare(graph, kept, program, way_out, failure)


def compare(
    graph: ChannelGraph,
    kept: Kept,
    program: Program,
    way_out: str = WAY_OUT,
    failure: str = FAILURE,
) -> Compared:
    """Returns what follows a size; raises at the first equation that differs.

    Where nothing is pruned, nothing follows: every constant is that of the traced program.

    Raises:
      ResizeError: names the equation and its module, what was expected, what came.
    """
    outcome = lockstep.beside(graph, kept, program)
    if outcome.difference is not None:
        op, text = outcome.difference
        where = f"{op!r} at {op.place}" if op else "the function"
        raise ResizeError(f"{failure}: {where} {text}.{kept.torn}\n{way_out}")
    return Compared(outcome.changed, tuple(outcome.draws))


def attempt(graph: ChannelGraph, kept: Kept, fn: Callable[..., Any]) -> Attempt:
    """Returns how far `fn`, at the kept widths, is the traced network: also where it raises."""
    raised: list[str] = []
    inside: list[Any] = []

    def guarded(*args: Any, **keywords: Any) -> Any:
        try:
            return fn(*args, **keywords)
        except ResizeError:
            raise
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}{raised_at.place(error)}")
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            inside.extend(f.f_locals["self"] for f in reversed(frames) if "self" in f.f_locals)
            return ()

    args, keywords = kept.call(graph)
    program, _ = jaxpr.trace(guarded, *args, **keywords)
    outcome = lockstep.beside(graph, kept, program, partial=bool(raised))
    if outcome.difference is None and not raised:
        return Attempt(outcome.steps, None, "", Compared(outcome.changed, tuple(outcome.draws)))
    op, text = outcome.difference or (None, "")
    return Attempt(outcome.steps, op, raised[0] if raised else text, None, tuple(inside))


def other_constants(graph: ChannelGraph, fn: Callable[..., Any]) -> list[Changed]:
    """Returns the constants that `fn` has otherwise at the full widths, where none can follow.

    Those behind the first equation that differs are not found.
    """
    try:
        program, _ = jaxpr.trace(fn, graph.abstract, *graph.inputs, **graph.keywords)
    except Exception:  # a function that holds kept sizes runs at these only
        return []
    return lockstep.beside(graph, Kept({}), program).changed
