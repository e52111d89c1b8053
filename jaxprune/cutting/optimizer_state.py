"""The optimizer state of the pruned network: cut with the network, not started anew."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np
import optax

from jaxprune.arguments import paths
from jaxprune.arguments.checks import kind_of
from jaxprune.cutting import shardings as choice
from jaxprune.cutting import transforms
from jaxprune.cutting.transforms import check_tree, sliced
from jaxprune.errors import TreeError
from jaxprune.graph import ChannelGraph, Variable
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep.check import Keep, check_keep

KeyPath = tuple[Any, ...]


def slice_opt_state(
    graph: ChannelGraph,
    opt_state: Any,
    keep: Keep,
    *,
    tx: optax.GradientTransformation | optax.MultiSteps,
    params: Any,
    shardings: Literal["fit"] | None = None,
) -> Any:
    """Returns `opt_state` without the pruned entries: the state of `tx` for the small params.

    A leaf of the state follows the variable whose key path ends its own, if it has the shape of
    that variable: a moment, an average, accumulated gradients. It is cut as the variable is. All
    other leaves stay, such as counts and hyperparameters.

    The next update of the small network equals, on the kept entries, that of the full one with
    masked params and gradients. Where an update mixes the entries of a variable by a sum (the
    trust ratio of LAMB, a norm taken after the moments), this needs moments that are zero at the
    pruned entries, as after training with masked gradients; a mean over entries (the clipping of
    Adafactor) changes with the size.

    Args:
      graph: the channel graph of the network.
      opt_state: what `tx.init` and `tx.update` gave for the full network.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. With branches as in
        `jp.slice`: what belongs to their variables goes too.
      tx: the optimizer, the same for both networks.
      params: the full tree, or its shapes, that `tx.init` was given: the variables, a part of
        them, or `variables["params"]`.
      shardings: as in `jp.slice`, which must be given the same.

    Returns:
      A state with the structure, shapes and dtypes of `tx.init(small_params)`.

    Raises:
      KeepError: the keep does not fit the graph.
      TreeError: the params are not those of the graph, the state is not that of `tx` and
        `params`, or a leaf has no value for each entry of its variable (Adafactor's factors,
        L-BFGS's memory); every such leaf is named.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 3))}
      >>> graph = jp.trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 2)))
      >>> tx = optax.sgd(0.1, momentum=0.9)
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> small = slice_opt_state(graph, tx.init(params), keep, tx=tx, params=params)
      >>> jax.tree.map(jnp.shape, small[0].trace)
      {'a': (2, 3), 'b': (3, 3)}
    """
    fit = choice.check_choice(shardings)
    parts = without_branches.split(graph, keep)
    check_keep(graph, parts.channels)
    gone = without_branches.without(graph, parts.branches) if parts.branches else None
    if not callable(getattr(tx, "init", None)) or isinstance(tx, type):
        raise TreeError(f"tx must be an optimizer, got {kind_of(tx)}.\nFix: tx=optax.adam(1e-3).")
    variables = _variables(graph, params)
    full = {variable.path: variable for variable in variables.values()}
    small = _cut(graph, full, jax.eval_shape(lambda tree: tree, params), parts.channels, fit)
    small = _left(small, {path: variable.path for path, variable in full.items()}, gone, graph)
    expected = jax.eval_shape(tx.init, small)
    owners = _owners(opt_state, variables)
    named = {path: variable.path for path, variable in owners.items()}
    _check_structure(_left(opt_state, named, gone, graph), expected)
    before, after = paths.flatten(opt_state)[0], paths.flatten(small)[0]
    moments = {
        path: variable
        for path, variable in owners.items()
        if np.shape(before[path]) == variable.shape
    }
    mixed = {
        path: variable
        for path, variable in owners.items()
        if path not in moments
        and (variable.path not in after or after[variable.path].shape != variable.shape)
    }
    result = _left(_cut(graph, moments, opt_state, parts.channels, fit), named, gone, graph)
    _check_leaves(result, expected, mixed)
    return result


def _variables(graph: ChannelGraph, params: Any) -> dict[KeyPath, Variable]:
    """{key path in `params`: the variable of the graph, under its path in `params`}."""
    leaves = paths.flatten(params)[0]
    prefix = "" if all(path in graph.variables for path in leaves) else "params/"
    check_tree(graph, {prefix + path: leaf for path, leaf in leaves.items()}, {})
    renamed = [replace(graph.variables[prefix + path], path=path) for path in leaves]
    return dict(zip(_keys(params), renamed, strict=True))


def _owners(opt_state: Any, variables: Mapping[KeyPath, Variable]) -> dict[str, Variable]:
    """{path of a leaf: its variable, with the longest key path that ends the leaf's}.

    Keys tell a field of the state, such as `.mu`, from a module of that name.
    """
    owners = {}
    for path, key in zip(paths.flatten(opt_state)[0], _keys(opt_state), strict=True):
        suffixes = (key[start:] for start in range(len(key) + 1))
        suffix = next((suffix for suffix in suffixes if suffix in variables), None)
        if suffix is not None:
            owners[path] = variables[suffix]
    return owners


def _keys(tree: Any) -> list[KeyPath]:
    return [key for key, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _cut(
    graph: ChannelGraph, owners: Mapping[str, Variable], tree: Any, keep: Keep, fit: bool
) -> Any:
    """Slices every leaf that has an owner."""
    leaves, treedef = paths.flatten(tree)
    view = replace(
        graph, variables={path: replace(variable, path=path) for path, variable in owners.items()}
    )
    small = sliced(view, {path: leaves[path] for path in owners}, keep, fit=fit)
    return jax.tree.unflatten(treedef, (leaves | small).values())


def _left(tree: Any, owners: Mapping[str, str], gone: Without | None, graph: ChannelGraph) -> Any:
    """Returns a tree without the leaves, and their rows, whose variables go with branches."""
    if gone is None:
        return tree
    known = graph.variables
    whole = {path: name if name in known else f"params/{name}" for path, name in owners.items()}
    return transforms.without(
        tree,
        gone._replace(
            variables=frozenset(path for path, name in whole.items() if name in gone.variables),
            rows={path: gone.rows[name] for path, name in whole.items() if name in gone.rows},
        ),
    )


def _check_structure(opt_state: Any, expected: Any) -> None:
    if jax.tree.structure(opt_state) == jax.tree.structure(expected):
        return
    ours, theirs = paths.flatten(opt_state)[0], paths.flatten(expected)[0]
    only = [f"the state alone has {path!r}" for path in ours if path not in theirs]
    only += [f"tx.init alone gives {path!r}" for path in theirs if path not in ours]
    raise TreeError(
        "the optimizer state has not the structure of tx.init(small_params):\n"
        + "\n".join(only or ["the same leaves stand in other containers"])
        + "\nFix: pass the tx and the params that made the state; restore a checkpoint into the "
        "template tx.init(params)."
    )


def _check_leaves(result: Any, expected: Any, mixed: Mapping[str, Variable]) -> None:
    """Raises unless every leaf is the one `expected` has, in shape, dtype and meaning.

    `mixed` are the leaves that belong to a pruned variable and are not shaped as it: several
    values, each made of many entries, are stale even where their own shape stays.
    """
    failures = []
    leaves = paths.flatten(jax.eval_shape(lambda tree: tree, result))[0]
    for (path, leaf), wanted in zip(leaves.items(), jax.tree.leaves(expected), strict=True):
        if path in mixed and leaf.size > 1:
            variable = mixed[path]
            text = (
                f"has no value for each entry of {variable.path!r}, which is {list(variable.shape)}"
            )
        elif (leaf.shape, leaf.dtype) != (wanted.shape, wanted.dtype):
            text = f"is {_show(wanted)} in tx.init(small_params)"
        else:
            continue
        failures.append(f"{path!r}, {_show(leaf)}, {text}")
    if failures:
        raise TreeError(
            "the optimizer state cannot be cut with the network:\n"
            + "\n".join(failures)
            + "\nFix: take these parts from tx.init(small_params), and slice the others each with "
            "their own tx."
        )


def _show(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
