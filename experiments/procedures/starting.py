"""The network that a training begins with: a new one, or that of a finished run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.runner import checkpoints, directory
from experiments.runner.task import Network, Task, initial
from jaxprune.arguments import paths

FACTS = ("command", "commit", "epochs", "train_s", "start")
"""What the summary of a run says of how its network was made."""


def network(task: Task[Any], run: Path | None) -> Network:
    """Returns the network to begin with, and prints what it takes from the run.

    All variables are those of the run, but for the classifier where that has another number of
    classes: the variables with an axis of the network's output, by the channel graph, are new then.

    Args:
      task: of the training.
      run: directory of a finished run of `experiments dense`; none gives a new network.

    Raises:
      ValueError: it is none, or any other variable has another shape than it needs.
    """
    anew = initial(task)
    if run is None:
        return anew
    made(run)
    (taken, _), (needed, form) = (
        paths.flatten(variables)
        for variables in (checkpoints.load(run, task, "dense").variables, anew.variables)
    )
    other = [
        path
        for path in needed.keys() | taken.keys()
        if path not in taken or path not in needed or np.shape(taken[path]) != needed[path].shape
    ]
    head = {frozen.path for frozen in task.graph.frozen if frozen.reason == "output"}
    if wrong := sorted(set(other) - head):
        shown = ", ".join(_shapes(path, taken, needed) for path in wrong[:3])
        raise ValueError(
            f"start={run} holds a network of other shapes than {task.config.model!r} of "
            f"widths={task.config.widths}: {shown}.\nFix: the model and the widths of that run."
        )
    new = [_shapes(path, taken, needed) for path in needed if path in other]
    print(f"{len(needed) - len(new)} variables of {run}; new: {', '.join(new) or 'none'}")
    leaves = [leaf if path in other else taken[path] for path, leaf in needed.items()]
    return anew._replace(variables=jax.tree.unflatten(form, leaves))


def made(run: Path | None) -> Mapping[str, Any] | None:
    """Returns how the network of a run was made; none of no run.

    Raises:
      ValueError: it is no finished run of `experiments dense`.
    """
    if run is None:
        return None
    if not (run / directory.SUMMARY).exists():
        raise ValueError(
            f"start={run} is not a finished run.\nFix: its directory, with {directory.SUMMARY}."
        )
    summary = directory.read_json(run / directory.SUMMARY)
    if missing := [name for name in FACTS if name not in summary]:
        raise ValueError(
            f"start={run} is no run of `experiments dense`: {run / directory.SUMMARY} has no "
            f"{', '.join(missing)}.\nFix: the directory of one."
        )
    return {name: summary[name] for name in FACTS}


def _shapes(path: str, taken: Mapping[str, Any], needed: Mapping[str, Any]) -> str:
    shapes = [np.shape(tree[path]) if path in tree else "none" for tree in (taken, needed)]
    return "{} {}, there {}".format(path, *reversed(shapes))
