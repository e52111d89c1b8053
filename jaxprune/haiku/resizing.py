"""A function of Haiku modules at the kept widths."""

import functools
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.checks import check_overrides
from jaxprune.arguments.functions import check_function
from jaxprune.graph import ChannelGraph
from jaxprune.haiku.library import haiku
from jaxprune.haiku.removed import filled, removed_of, zeros_of
from jaxprune.inspecting import unread_variables
from jaxprune.keep.check import Keep
from jaxprune.keep.kept import Kept
from jaxprune.linen.attributes import View
from jaxprune.running import head_sizes, same_program
from jaxprune.running.attribute_search import Holder, Overrides, solved, wanted
from jaxprune.running.kept_depth import KeptDepth, kept_of
from jaxprune.running.resize import Resized

Function = Callable[..., Any]


def resize(
    fn: Function, graph: ChannelGraph, keep: Keep, *, overrides: Overrides | None = None
) -> Resized:
    """Returns `fn` for sliced variables, `resize(fn, graph, keep)(small, *inputs)`.

    Haiku makes its modules anew whenever the function is called. Before a module is used for the
    first time it gets the sizes that it must have: those of `hk.Linear` and of the convolutions
    from their kernels, any other by trying. The function is compared with the graph equation by
    equation, so that it is the same network or an error; see `jaxprune.linen.resize`.

    Args:
      fn: the function that was traced, such as `lambda v, x: transformed.apply(v, None, x)`.
      graph: its channel graph.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. {branch: False} takes a
        branch out (`jp.branches`): the module calls that only it had use for are skipped.
      overrides: {pattern of module names: {attribute: value}}, which are not searched.

    Returns:
      The function; `follows`, `draws` and `overrides` say what differs, and what was found.

    Raises:
      KeepError: the keep does not fit the graph.
      PatternError: an override matches no module.
      ResizeError: `fn` makes another network of the kept widths; names the equation.
      JaxpruneError: Haiku is not installed.

    Example:
      >>> import haiku as hk, jax, jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 2])(x)))
      >>> x = jnp.ones((1, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> graph = jp.trace(model.apply, variables, x)
      >>> keep = {"mlp/~/linear_0/w": np.arange(8) < 5}
      >>> run = jp.haiku.resize(model.apply, graph, keep)
      >>> run(jp.slice(graph, variables, keep), x).shape
      (1, 2)
    """
    check_function(fn)
    check_overrides(overrides)
    kept = kept_of(graph, keep)
    given, fn = overrides or {}, call_inputs.bound(fn, graph.constants)

    @functools.cache
    def holders() -> Mapping[str, Holder]:
        seen = _Sizes(None, {}, {})
        jax.eval_shape(_applied(fn, seen), graph.abstract, *graph.inputs, **graph.keywords)
        return seen.holders

    if given:
        paths.require(given, holders(), what="override for modules")

    removed = frozenset[str]()
    if isinstance(kept, KeptDepth):
        removed = removed_of(graph, kept, fn, holders())

    def at(kept: Kept, extra: Overrides) -> Function:
        resized = _applied(fn, _Sizes(View(graph, kept), given, extra, removed))
        return filled(resized, graph, kept) if isinstance(kept, KeptDepth) else resized

    def planned(kept: Kept) -> tuple[Overrides, same_program.Compared]:
        with_sizes = functools.partial(at, kept)
        return solved(
            graph,
            kept,
            lambda extra: same_program.attempt(graph, kept, with_sizes(extra)),
            lambda extra: same_program.check(graph, kept, with_sizes(extra), "the function"),
            holders,
            lambda holder: getattr(holder, "module_name", None),
        )

    extra, compared = head_sizes.or_why(graph, kept, planned)
    unread_variables.warn(graph, keep, "jp.haiku.resize")
    return Resized(
        fn=at(kept, extra),
        follows=compared.follows,
        draws=compared.draws,
        graph=graph,
        kept=kept,
        overrides={path: dict(values) for path, values in extra.items()},
    )


class _Sizes:
    """What the modules of one function hold: before they are used for the first time it is set.

    Those that are `removed` give zeros.
    """

    def __init__(
        self,
        view: View | None,
        given: Overrides,
        extra: Overrides,
        removed: frozenset[str] = frozenset(),
    ):
        self.removed = removed
        self.view = view
        self.given = given
        self.extra = extra
        self.holders: dict[str, Holder] = {}

    def set(self, module: Any) -> None:
        """Sets the attributes of a module."""
        path = module.module_name
        held = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        self.holders.setdefault(path, Holder(type(module).__name__, held))
        values = dict(_of_kernel(self.view, module, path)) if self.view else {}
        values |= wanted(module, path, self.extra, self.given)
        for name, value in values.items():
            setattr(module, name, value)


def _of_kernel(view: View, module: Any, path: str) -> Iterator[tuple[str, int]]:
    """Yields the sizes that the kernel of a layer says."""
    hk = haiku()
    ends = [v for p, v in view.graph.variables.items() if f"/{p}".endswith(f"/{path}/w")]
    if len(ends) != 1:
        return
    *_, first, last = view.kept.shape(ends[0])
    if isinstance(module, hk.Linear):
        yield "output_size", last
    elif isinstance(module, hk.ConvND):
        yield "output_channels", last
        if module.feature_group_count > 1:
            yield "feature_group_count", view.groups[ends[0].path]
    elif isinstance(module, hk.ConvNDTranspose):
        yield "output_channels", first


def _applied(fn: Function, sizes: _Sizes) -> Function:
    """The function, whose modules get these sizes."""

    def run(*args: Any, **keywords: Any) -> Any:
        with _set_before_use(sizes):
            return fn(*args, **keywords)

    return run


@contextmanager
def _set_before_use(sizes: _Sizes) -> Generator[None, None, None]:
    used: dict[int, Any] = {}

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__init__" and id(module) not in used:
            used[id(module)] = module  # held, so that no other has its id
            sizes.set(module)
        if context.method_name != "__init__" and module.module_name in sizes.removed:
            return zeros_of(call, args, kwargs)
        return call(*args, **kwargs)

    with haiku().intercept_methods(intercept):
        yield
