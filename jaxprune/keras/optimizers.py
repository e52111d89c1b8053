"""The optimizer of a Keras model at the kept widths."""

from typing import Any

import jax.numpy as jnp

from jaxprune.arguments.checks import kind_of
from jaxprune.cutting.transforms import sliced
from jaxprune.errors import TraceError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep.check import Keep
from jaxprune.keras.library import check_model, keras, unfiltered
from jaxprune.keras.names import variables_of
from jaxprune.running.kept_depth import kept_of


def resize_optimizer(optimizer: Any, small: Any, graph: ChannelGraph, keep: Keep) -> Any:
    """Returns a new optimizer for `small`: its state is cut as the model was, its step goes on.

    The next update of `small` equals, on the kept entries, that of the masked full model, as with
    `jp.slice_opt_state`. The given optimizer is left as it is.

    Args:
      optimizer: the `keras.optimizers.Optimizer` of the full model, `model.optimizer`.
      small: what `resize` gave.
      graph: what `trace` gave.
      keep: {group: bool[n]}, the keep of `small`.

    Raises:
      TraceError: these are not an optimizer and a model.
      KeepError: the keep does not fit the graph.
      TreeError: the optimizer is not that of the graph's model, or its state has no value for each
        entry of a variable (Adafactor's factors).
    """
    gone = kept_of(graph, keep).without
    check_model(small)
    if not isinstance(optimizer, keras().optimizers.Optimizer):
        raise TraceError(
            f"expected a Keras optimizer, got {kind_of(optimizer)}.\nFix: model.optimizer of a "
            "model that is compiled."
        )
    with unfiltered():
        new = type(optimizer).from_config(optimizer.get_config())
    if not optimizer.built:
        return new
    owners = _built(new, small)
    given = optimizer.variables if gone is None else _left(optimizer, graph, gone)
    if len(new.variables) != len(given):
        raise TreeError(
            f"the optimizer has {len(given)} variables for what stays, one of the resized model "
            f"has {len(new.variables)}.\nFix: pass the optimizer of the model that was traced."
        )
    for old, variable in zip(given, new.variables, strict=True):
        variable.assign(_cut(old, variable, owners.get(id(variable)), graph, keep))
    return new


def _left(optimizer: Any, graph: ChannelGraph, gone: Without) -> list[Any]:
    """Returns the variables of an optimizer without those of variables that go with branches."""
    traced: Any = graph.fn
    fresh = type(optimizer).from_config(optimizer.get_config())
    owners = _built(fresh, traced.model)
    pairs = zip(optimizer.variables, fresh.variables, strict=True)
    return [old for old, twin in pairs if owners.get(id(twin)) not in gone.variables]


def _built(new: Any, small: Any) -> dict[int, str]:
    """Builds an optimizer; returns {id of a variable of it: path of that of the model}."""
    places = {id(variable): path for path, variable in variables_of(small).items()}
    owners: dict[int, str] = {}
    make = new.add_variable_from_reference

    def noted(reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        made = make(reference_variable, *args, **kwargs)
        owners[id(made)] = places[id(reference_variable)]
        return made

    new.add_variable_from_reference = noted
    try:
        new.build(small.trainable_variables)
    finally:
        del new.add_variable_from_reference
    return owners


def _cut(old: Any, new: Any, owner: str | None, graph: ChannelGraph, keep: Keep) -> Any:
    """The value of a variable of the optimizer at the kept widths."""
    value = jnp.array(old.value)
    if owner is not None and value.shape == graph.variables[owner].shape:
        return sliced(graph, {owner: value}, keep)[owner]
    if value.size == 1 and value.shape == tuple(new.shape):
        return value
    raise TreeError(
        f"the variable {old.path!r} of the optimizer, of shape {list(value.shape)}, has no value "
        "for each entry of a variable of the model, so that it cannot be cut.\nFix: compile the "
        "resized model with a new optimizer."
    )
