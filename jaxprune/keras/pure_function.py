"""The call of a Keras model as a pure function of the model's variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.functions import check_keywords
from jaxprune.arguments.stable_words import shown
from jaxprune.errors import TreeError
from jaxprune.keras.library import check_model, context_arguments, is_graph, keras
from jaxprune.keras.names import variables_of


def variables(model: Any) -> dict[str, Any]:
    """Returns the variables of `model` as a nest of dicts by the names of its layers.

    They are the trained ones and the others: the statistics of BatchNorm, the states of random
    seeds; those of metrics and of the optimizer are not among them. The arrays are copies, since
    `model.fit` deletes those of the model.

    Args:
      model: a `keras.Model` or layer that is built.

    Raises:
      TraceError: `model` is neither, or is not built.
      JaxpruneError: Keras is not installed, or has another backend than JAX.
    """
    check_model(model)
    return nest({path: jnp.array(v.value) for path, v in variables_of(model).items()})


def assign(model: Any, variables: Any) -> None:
    """Puts variables into a model of their widths, as `keras.Variable.assign` does.

    Args:
      model: the model; it is changed.
      variables: what `variables(model)` gives, what `jp.slice` gives for a model that `resize`
        gave, or a part of them.

    Raises:
      TreeError: the model has no such variable, or has it with another shape.
    """
    check_model(model)
    ours = variables_of(model)
    given = paths.flatten(variables)[0]
    bad = [
        f"{path!r} has shape {jnp.shape(value)}, the model has {ours[path].shape}"
        if path in ours
        else f"{path!r} is not a variable of the model"
        for path, value in given.items()
        if path not in ours or ours[path].shape != jnp.shape(value)
    ]
    if bad:
        more = f"\n... and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise TreeError(
            "the variables are not those of the model:\n" + "\n".join(bad[:8]) + f"{more}\nFix: "
            "pass variables of the model's widths; jp.keras.resize makes a model of the kept ones."
        )
    for path, value in given.items():
        ours[path].assign(jnp.array(value))  # a copy, since `fit` deletes what a model holds


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {path: leaf} as a nest of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *above, name = path.split("/")
        inner = tree
        for key in above:
            inner = inner.setdefault(key, {})
        inner[name] = leaf
    return tree


@dataclass(frozen=True, kw_only=True, eq=False)
class Function:
    """The call of a model as a pure function; see `function`. It holds the model."""

    model: Any
    arguments: Mapping[str, Any]

    def __call__(self, variables: Any, *inputs: Any, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the outputs, and the variables that the call wrote; keywords of now win."""
        ours = variables_of(self.model)
        given = paths.flatten(variables)[0]
        if differing := sorted(ours.keys() ^ given.keys()):
            raise TreeError(
                f"the variables are not those of the model; {differing[:8]} are in only one of "
                "them.\nFix: pass jp.keras.variables(model), whole."
            )
        before = {path: jnp.asarray(value) for path, value in given.items()}
        with keras().StatelessScope(initialize_variables=False) as scope:
            for path, value in before.items():
                scope.add_update((ours[path], value))
            outputs = self.model(*inputs, **{**self.arguments, **keywords})
            after = {path: scope.get_current_value(ours[path]) for path in ours}
        return outputs, nest({p: v for p, v in after.items() if v is not before[p]})

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs by position."""
        return call_inputs.positional(_of_graph if is_graph(self.model) else self.model.call)

    @property
    def called(self) -> str:
        """The constant arguments of the call, in words."""
        given = (f"{name}={shown(self.arguments[name])}" for name in sorted(self.arguments))
        return f"__call__({', '.join(given)})"


def function(model: Any, **arguments: Any) -> Function:
    """Returns the call of `model` as a function `(variables, *inputs) -> (outputs, updates)`.

    `updates` are the variables that the call writes, such as the statistics of BatchNorm with
    `training=True` and the states of random seeds; they mirror the variables. The model itself is
    never changed.

    Args:
      model: a `keras.Model` or layer that is built.
      **arguments: constant keyword arguments of the call, such as `training=True`.

    Raises:
      TraceError: as `variables`, or the call takes no such argument.
    """
    check_call(model, arguments)
    return Function(model=model, arguments=dict(arguments))


def check_call(model: Any, arguments: Mapping[str, Any], others: Sequence[str] = ()) -> None:
    """Raises TraceError unless it is a model that is built, whose call takes the arguments."""
    check_model(model)
    context = context_arguments(model)
    given = [name for name in arguments if name not in context]
    call = _of_graph if is_graph(model) else model.call
    check_keywords(call, type(model).__name__, given, [*context, *others])


def _of_graph(inputs: Any, mask: Any = None) -> None:
    """What a graph of layers takes; its own `call` takes any keyword, and drops it."""


def shapes(model: Any) -> dict[str, Any]:
    """Returns the variables of a model as a nest of shapes."""
    items = variables_of(model).items()
    return nest({path: jax.ShapeDtypeStruct(v.shape, v.value.dtype) for path, v in items})
