"""The channel graph of a Linen module."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn

from jaxprune.arguments import call_inputs
from jaxprune.arguments.checks import check_mapping
from jaxprune.arguments.functions import check_function, check_keywords
from jaxprune.errors import TraceError
from jaxprune.graph import ChannelGraph
from jaxprune.linen.given_module import Function, check_module
from jaxprune.linen.plan import is_call, on_stream, scope_of
from jaxprune.program.rules import RULES
from jaxprune.tracing import trace as tracing


def mark_readers(
    fn: Callable[..., Any], readers: type[nn.Module] | tuple[type[nn.Module], ...] = nn.BatchNorm
) -> Callable[..., Any]:
    """Returns `fn` for `jp.trace`: layers that read a stream keep their own channels of it.

    In pre-activation ResNets and DenseNets many BatchNorms read one stream that must stay wide.
    Each of them has a channel group of its own then, which goes by its path; `resize` selects its
    channels at that point. Where a layer is the only reader of another layer's output, nothing
    changes.

    Args:
      fn: `(variables, *inputs) -> outputs`, such as `lambda v, x: model.apply(v, x, train=False)`.
      readers: the classes of the layers that may choose; the channels are the last axis of what
        they are called with first.

    Example:
      >>> import jax, jax.numpy as jnp, jaxprune as jp
      >>> class Block(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         x = nn.Dense(8)(x)
      ...         x = x + nn.Dense(8)(nn.BatchNorm(use_running_average=True)(x))
      ...         return nn.Dense(2)(x)
      >>> x = jnp.ones((1, 3))
      >>> variables = jax.eval_shape(Block().init, jax.random.key(0), x)
      >>> list(jp.trace(jp.linen.mark_readers(Block().apply), variables, x).groups)
      ['BatchNorm_0', 'Dense_0/kernel']

    Source: Liu et al., Network Slimming, ICCV 2017, section 3 (the channel selection layer).
    """
    check_function(fn)
    classes = readers if isinstance(readers, tuple) else (readers,)
    if not classes or not all(isinstance(c, type) and issubclass(c, nn.Module) for c in classes):
        raise TraceError(
            f"readers must be classes of Linen layers, got {readers!r}.\nFix: readers=nn.BatchNorm."
        )

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, readers) and is_call(context):
            call = on_stream(call, "/".join(scope_of(context.module) or ()), None)
        return call(*args, **kwargs)

    def marked(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(intercept):
            return fn(*args, **kwargs)

    return marked


def trace(
    module: nn.Module,
    variables: Any,
    *inputs: Any,
    rules: Mapping[Any, Any] = RULES,
    strict: bool = False,
    layers: Mapping[str, int] = MappingProxyType({}),
    free_outputs: Sequence[str] = (),
    free_constants: bool = False,
    state: Any = (),
    index_inputs: Mapping[Any, int] = MappingProxyType({}),
    **call: Any,
) -> ChannelGraph:
    """Returns the channel graph of `module.apply(variables, *inputs, **call)`, without running it.

    The graph knows the module and the call, so `resize` checks the very module that it returns.

    Args:
      module: the module.
      variables: its variables, arrays or shapes, such as `jax.eval_shape(module.init, key, x)`.
      *inputs: arrays, shapes or pytrees of them.
      rules: as in `jp.trace`.
      strict: as in `jp.trace`.
      layers: as in `jp.trace`.
      free_outputs: as in `jp.trace`.
      free_constants: as in `jp.trace`.
      state: as in `jp.trace`; a cache in a collection of the variables needs none.
      index_inputs: as in `jp.trace`.
      **call: the keywords of `apply`: `method`, `rngs`, `mutable`, `capture_intermediates`, and
        arguments of the method: arrays and shapes are inputs, such as `mask=mask`, others
        constants, such as `train=True`. An argument with the name of an option above is given by
        `method=lambda module, x: module(x, layers=2)`.

    Raises:
      TraceError: `module` is not an `nn.Module`, or as in `jp.trace`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> module, x = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]), jnp.ones((1, 3))
      >>> variables = module.init(jax.random.key(0), x)
      >>> graph = jp.linen.trace(module, variables, x)
      >>> keep = {"layers_0/kernel": np.arange(8) < 5}
      >>> small = jp.linen.resize(module, graph, keep)
      >>> small.apply(jp.slice(graph, variables, keep), x).shape
      (1, 2)
    """
    check_module(module)
    check_call(module, call)
    check_mapping(
        variables,
        "variables",
        "what module.init returned, {'params': ..., 'batch_stats': ...}",
        partial(TraceError, page="howto/linen"),
    )
    keywords, constants = call_inputs.split(call, OF_APPLY)
    options: Any = {
        "layers": layers,
        "free_outputs": free_outputs,
        "free_constants": free_constants,
        "state": state,
        "index_inputs": index_inputs,
    }
    fn = Function(module, MappingProxyType(constants))
    return tracing.trace(fn, variables, *inputs, rules=rules, strict=strict, **options, **keywords)


def check_call(module: nn.Module, call: Mapping[str, Any], others: Sequence[str] = ()) -> None:
    """Raises TraceError unless the module has the method and takes the keywords.

    `others` are keywords that are known too: an unknown keyword may be near to them.
    """
    method = call.get("method")
    named = isinstance(method, str) and hasattr(module, method)
    if not (method is None or named or callable(method)):
        raise TraceError(
            f"method must be the name of a method of {type(module).__name__}, or a function of the "
            f"module, got {method!r}.\nFix: leave it out for __call__."
        )
    bound = partial(method, module) if callable(method) else getattr(module, method or "__call__")
    rest = [name for name in call if name not in OF_APPLY]
    check_keywords(bound, type(module).__name__, rest, [*OF_APPLY, *others])


OF_APPLY = ("method", "rngs", "mutable", "capture_intermediates")
"""The keywords of `apply` that do not go to the method."""
