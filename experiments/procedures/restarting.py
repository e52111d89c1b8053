"""What `--retrain` names: the weights from which a cut network trains, and for how long."""

from typing import Any, Literal, get_args

import jax

import jaxprune as jp
from experiments.runner.fit import Variables
from experiments.runner.task import Task, fresh, initial
from jaxprune.keep.check import Keep

Retrain = Literal["finetune", "rewind", "scratch-e", "scratch-b"]
"""Go on; from the initial weights of the channels that stay (Frankle and Carbin, "The Lottery
Ticket Hypothesis", ICLR 2019); from new weights, for as many epochs or for as many MACs (Liu et
al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3)."""


def unknown(name: str) -> list[str]:
    """Returns what is wrong with a name on the command line, if anything is."""
    known = get_args(Retrain)
    return [] if name in known else [f"retrain={name!r} is not one of {', '.join(known)}"]


def restarted(
    how: Retrain, task: Task[Any], model: Any, variables: Variables, keep: Keep, key: jax.Array
) -> Variables:
    """Returns the variables with which the training after a cut begins.

    Args:
      how: where they come from.
      task: with the network before any pruning.
      model: the network that is cut.
      variables: its trained ones.
      keep: {group: bool[n]} of the original's channels.
      key: of new weights.
    """
    if how == "finetune":
        return variables
    if how == "rewind":
        return jp.slice(task.graph, initial(task).variables, keep)
    return fresh(model, task.dataset, key)


def epochs(how: Retrain, dense: int, left: float) -> int:
    """Returns the epochs after a cut that leaves this share of the MACs."""
    return max(1, round(dense / left)) if how == "scratch-b" else dense
