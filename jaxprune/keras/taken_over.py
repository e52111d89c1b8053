"""What new layers take over from the old ones beside their configurations and their values."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jaxprune.keras.names import own_variables, pairs


def adapt_as(twins: Iterable[tuple[Any, Any]]) -> None:
    """Gives new layers what the old ones were adapted to by data: constants of the program."""
    for old, layer in twins:
        values = [*zip(own_variables(old), own_variables(layer), strict=False)]
        same = all(a.shape == b.shape for a, b in values)
        if values and hasattr(layer, "finalize_state") and same:
            for ours, theirs in values:
                theirs.assign(jnp.array(ours.value))
            layer.finalize_state()


def build_as(old: Any, new: Any) -> None:
    """Builds a new model as the old one was built, so that it is saved with the same shapes."""
    if not new.built and old.get_build_config():
        new.build_from_config(old.get_build_config())


def train_as(twins: Iterable[tuple[Any, Any]]) -> None:
    """What of the old model is trained is trained in the new one."""
    twins = [*twins]
    for a, b in twins:
        if a.trainable != b.trainable:
            b.trainable = a.trainable
    for a, b in twins:
        for ours, theirs in zip(own_variables(a), own_variables(b), strict=False):
            if ours.trainable != theirs.trainable:
                theirs.trainable = ours.trainable


def choose_alike(old: Any, new: Any) -> None:
    """Gives new layers the choices of the old ones that configurations leave out (`use_cudnn`)."""
    for a, b in pairs(old, new):
        for name, value in vars(a).items():
            public = not name.startswith("_") and name not in ("built", "name", "trainable")
            if public and isinstance(value, bool | str) and vars(b).get(name, value) != value:
                setattr(b, name, value)
