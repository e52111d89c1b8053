"""What `--recover` names: what becomes of the weights that are left, before anything trains.

Each is measured on the batches of `experiments.procedures.scoring`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments.procedures.scoring import Given, batches
from experiments.runner.fit import Variables
from experiments.runner.task import Task
from jaxprune.recover import Form, Order

NONE = "none"
Keep = Mapping[str, np.ndarray]
Recovery = Callable[[Given, Keep], tuple[Keep, Variables]]
"""(the network before its channels go, which stay) -> which stay, and the full variables."""


def _fitted(**options: Any) -> Recovery:
    """Least squares, with these options of `jp.recover.least_squares`."""

    def recovered(given: Given, keep: Keep) -> tuple[Keep, Variables]:
        graph, images = given.graph, _images(given)
        found = jp.recover.least_squares(graph, given.variables, keep, images, **options)
        return keep, found.variables

    return recovered


def _obs(given: Given, keep: Keep) -> tuple[Keep, Variables]:
    found = jp.recover.obs(given.graph, given.variables, _widths(given, keep), _images(given))
    return {**keep, **found.keep}, found.variables


def _lasso(given: Given, keep: Keep) -> tuple[Keep, Variables]:
    """The channels by LASSO, and the kernels by least squares, as in the paper."""
    wanted = {"added": jp.stats.contributions()}
    added = jp.stats.collect(given.graph, given.variables, _images(given), wanted)["added"]
    widths = {name: n for name, n in _widths(given, keep).items() if name in added}
    found = jp.recover.lasso(given.graph, given.variables, widths, added)
    return _fitted()(given, {**keep, **found.keep})


def _dcp(given: Given, keep: Keep) -> tuple[Keep, Variables]:
    found = jp.recover.dcp(
        given.graph,
        given.variables,
        _widths(given, keep),
        batches(given.task),
        loss=lambda outputs, batch: given.task.loss(outputs, batch[1]),
    )
    return {**keep, **found.keep}, found.variables


def _absorbed(given: Given, keep: Keep) -> tuple[Keep, Variables]:
    return keep, jp.recover.absorb_constants(given.graph, given.variables, keep).variables


RECOVERIES: Mapping[str, Recovery] = MappingProxyType(
    {
        NONE: lambda given, keep: (keep, given.variables),
        "least_squares": _fitted(),
        "scale": _fitted(form=Form.SCALE),
        "bias": _fitted(form=Form.BIAS),
        "at_once": _fitted(order=Order.AT_ONCE),
        "absorb": _absorbed,
        "obs": _obs,
        "lasso": _lasso,
        "dcp": _dcp,
    }
)
"""Name -> what it does; `bias` is FLAP's compensation. `obs`, `lasso` and `dcp` choose the channels
of every group themselves, as many as the scores leave it."""


def unknown(name: str) -> list[str]:
    """Returns what is wrong with a name on the command line, if anything is."""
    return [] if name in RECOVERIES else [f"recover={name!r} is not one of {', '.join(RECOVERIES)}"]


def recovered(name: str, given: Given, keep: Keep) -> tuple[Keep, Variables]:
    """Returns which channels stay, {group: bool[n]}, and the full variables to be masked by that.

    Args:
      name: of `RECOVERIES`.
      given: the network before this pruning; channels that went before are zero in it.
      keep: which channels the scores leave, of every group.
    """
    return RECOVERIES[name](given, keep)


def after(name: str) -> Callable[..., tuple[Keep, Variables]] | None:
    """Returns `recover` of a `rounds.Method`; None for `none`."""

    def recover(
        graph: jp.ChannelGraph, variables: Variables, keep: Keep, key: jax.Array, task: Task
    ) -> tuple[Keep, Variables]:
        return recovered(name, Given(task, graph, variables, key), keep)

    return None if name == NONE else recover


def _images(given: Given) -> list[Any]:
    return [images for images, _ in batches(given.task)]


def _widths(given: Given, keep: Keep) -> dict[str, int]:
    widths = jp.widths(given.graph, keep)
    return {name: n for name, n in widths.items() if n < given.graph.groups[name].size}
