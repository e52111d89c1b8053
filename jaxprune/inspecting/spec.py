"""Specs: what was cut of which network, as a JSON value."""

import numpy as np

from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.check_spec import check_spec
from jaxprune.keep.check import Keep, check_keep
from jaxprune.keep.format import GroupSpec, Spec, spec_problems
from jaxprune.keep.program_description import describe, versions
from jaxprune.program import stacked_layers


def spec(graph: ChannelGraph, keep: Keep) -> Spec:
    """Returns the JSON value that says what was cut of which network; see `check_spec`.

    It travels with every checkpoint. With branches its format is 2, which an earlier jaxprune
    refuses; without, 1.

    Args:
      graph: the channel graph of the network before it was pruned.
      keep: {group: bool[n]}, with branches as in `jp.slice`.

    Raises:
      KeepError: the keep does not fit the graph.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> spec = jp.spec(graph, keep)
      >>> jp.keep_from_spec(spec, graph)["a"].tolist()
      [True, False, True, True]
    """
    return {**kept_to_json(graph, keep), "description": describe(graph)}


def kept_to_json(graph: ChannelGraph, keep: Keep) -> Spec:
    """Returns the JSON value that says what was cut, without a description of the network."""
    parts = without_branches.split(graph, keep)
    masks = check_keep(graph, parts.channels)
    groups: dict[str, GroupSpec] = {
        name: {
            "size": group.size,
            "kept": stacked_layers.rows(masks.get(name, np.ones(group.size, bool))).tolist(),
        }
        for name, group in graph.groups.items()
    }
    content: Spec = {"format": 1, "groups": groups, "versions": versions()}
    if not parts.branches:
        return content
    stay = {name: kept.tolist() for name, kept in parts.branches.items()}
    return {**content, "format": 2, "branches": stay}


def keep_from_spec(spec: Spec, graph: ChannelGraph | None = None) -> dict[str, np.ndarray]:
    """Returns {group: bool[n]} of a spec, bool[layers, n] where layers keep their own.

    Branches (`jp.branches`) are {branch: bool} in it, bool[steps] in a scan.

    Args:
      spec: what `jaxprune.spec` gave.
      graph: that of the network before it was pruned, which must be the one of the spec.

    Raises:
      KeepError: this is not what `jp.spec` gave.
      SpecError: the network of the graph is another one; see `check_spec`.

    Warns:
      SpecWarning: the call or the version is another one, and the program differs.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> import json
      >>> jp.keep_from_spec(json.loads(json.dumps(jp.spec(graph, keep))), graph)["a"].tolist()
      [True, False, True, True]
    """
    if problems := spec_problems(spec):
        fix = "Fix: pass the value of jp.spec(graph, keep), or restored.spec of a checkpoint."
        raise KeepError("\n".join([*problems[:8], fix]))
    if graph is not None:
        check_spec(graph, spec, stacklevel=3)
    keep: dict[str, np.ndarray] = {}
    for name, group in spec["groups"].items():
        kept = np.asarray(group["kept"])
        keep[name] = np.zeros((*kept.shape[:-1], group["size"]), bool)
        np.put_along_axis(keep[name], kept, True, axis=-1)
    return keep | {name: np.array(kept) for name, kept in spec.get("branches", {}).items()}
