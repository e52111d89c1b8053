"""Sets of weights beside the channels: positions in the window of a kernel, and whole branches."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.errors import JaxpruneError, PatternError, TreeError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.channels import Members, Section, members
from jaxprune.groups.constraints import Groups, few
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.parameters import each_contraction, parameters
from jaxprune.program.rules import contraction

Sets = Mapping[str, Sequence[Section]]
"""{kernel or branch: where its weights are}, as `shapes` and `depth` give them."""


def shapes(
    graph: ChannelGraph,
    *,
    only: str | Sequence[str] | None = None,
    protect: str | Sequence[str] = (),
) -> Sets:
    """Returns the sets of weights at one position in a window and of one input channel.

    Of a kernel f[kh, kw, I, O] they are the kh * kw * I vectors of the O weights that multiply one
    number under the window: a column of the matrix that the convolution is, by which it becomes a
    smaller product. In the groups of a grouped convolution each has its own, and so has every layer
    of a stack; of a dense layer they are the weights of one input. Such kernels of the last layer,
    or of a frozen one, are among them too.

    Kernels with a batch axis (those of experts, or of `vmap`) are left out, and those that are used
    in both directions (tied ones), whose inputs are outputs too. `jp.slice` cuts no positions out
    of a window: that pays where the convolution is run as a product of matrices.

    Args:
      graph: what `jaxprune.trace` returned.
      only: patterns of the only kernels, without `params/`; all by default.
      protect: patterns of kernels that are left out.

    Returns:
      {kernel: where its weights are}, for `over=` of `structured`, `group_lasso` and
      `proximal_structured`.

    Raises:
      PatternError: a pattern matches no kernel, or none is left.

    Source: Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016,
    section 3.2, penalty for shapes.

    >>> import jax.numpy as jnp
    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 4.0], [0.0, 2.0]])}
    >>> graph = jp.trace(lambda p, x: x @ p["a"], params, jnp.ones((1, 2)))
    >>> tx = jp.sparsify.group_lasso(graph, 1.0, over=jp.sparsify.shapes(graph))
    >>> zeros = {"a": jnp.zeros((2, 2))}
    >>> tx.update(zeros, tx.init(params), params)[0]["a"].round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """
    check_graph(graph)
    windows = {}
    for term in each_contraction(graph.contractions):
        if contraction.batches(term.op):
            continue
        for path in term.kernels:
            shape, filters = graph.variables[path].shape, graph.filter_axes[path]
            rest = tuple(axis for axis in range(len(shape)) if axis not in filters)
            if rest and filters:
                parts = term.op.params.get("feature_group_count", 1)
                split = (max(filters), parts) if parts > 1 else None
                section = Section(path=path, shape=shape, axes=rest, split=split)
                windows[path.removeprefix("params/")] = [section]
    return _chosen(windows, only, protect, "kernel")


def depth(
    graph: ChannelGraph,
    *,
    only: str | Sequence[str] | None = None,
    protect: str | Sequence[str] = (),
) -> Sets:
    """Returns the sets of all parameters that a branch has for itself, for penalties on depth.

    A branch (`jp.branches`) is what a residual sum could do without. When all of its set is zero it
    adds zero, and `jp.slice` with `{branch: False}` takes it out. In a scan each step is a set.

    Args:
      graph: what `jaxprune.trace` returned.
      only: patterns of the only branches; all by default.
      protect: patterns of branches that are left out.

    Returns:
      {branch: where its weights are}, for `over=` of `structured`, `group_lasso` and
      `proximal_structured`.

    Raises:
      PatternError: a pattern matches no branch, or none is left.
      TreeError: the steps of a scan are not along the first axis of a variable.

    Source: Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016,
    section 3.3. There the set of a layer is its kernel; here biases and scales of the branch are in
    it, without which it would go on to add a constant.

    >>> import jax.numpy as jnp
    >>> import jaxprune as jp
    >>> v = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 4)), "head": jnp.ones((4, 2))}
    >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
    >>> graph = jp.trace(fn, v, jnp.ones((1, 4)))
    >>> {name: [part.path for part in parts] for name, parts in jp.sparsify.depth(graph).items()}
    {'+down': ['down', 'up']}
    """
    trained = set(parameters(graph))
    insides, bad = {}, []
    for name, branch in branches(graph).items():
        inside = [path for path in branch.variables if path in trained]
        axes = () if branch.steps is None else (0,)
        bad += [p for p in inside if axes and graph.variables[p].shape[:1] != (branch.steps,)]
        if inside:
            insides[name] = [
                Section(path=path, shape=graph.variables[path].shape, axes=axes) for path in inside
            ]
    if bad:
        raise TreeError(
            f"depth: the steps of a scan are not along the first axis of {few(bad)}.\n"
            "Fix: stack the parameters of the steps along axis 0."
        )
    return _chosen(insides, only, protect, "branch")


def entries(
    graph: ChannelGraph,
    *,
    only: str | Sequence[str] | None = None,
    protect: str | Sequence[str] = (),
) -> Sets:
    """Returns the single weights of every kernel, each a set: what unstructured pruning is over.

    `jp.slice` cuts none of them.

    Args:
      graph: what `jaxprune.trace` returned.
      only: patterns of the only kernels, without `params/`; all by default.
      protect: patterns of kernels that are left out.

    Raises:
      PatternError: a pattern matches no kernel, or none is left.

    >>> import jax.numpy as jnp
    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, -0.5], [0.0, 2.0]])}
    >>> graph = jp.trace(lambda p, x: x @ p["a"], params, jnp.ones((1, 2)))
    >>> lasso, sets = lambda n, t: jnp.maximum(n - t, 0), jp.sparsify.entries(graph)
    >>> tx = jp.sparsify.proximal_structured(graph, lasso, learning_rate=1.0, over=sets)
    >>> tx.update({"a": jnp.zeros((2, 2))}, tx.init(params), params)[0]["a"].tolist()
    [[-1.0, 0.5], [0.0, -1.0]]
    """
    check_graph(graph)
    kernels = dict.fromkeys(p for t in each_contraction(graph.contractions) for p in t.kernels)
    arrays = {path: graph.variables[path].shape for path in kernels}
    singles = {
        path.removeprefix("params/"): [
            Section(path=path, shape=shape, axes=tuple(range(len(shape))))
        ]
        for path, shape in arrays.items()
    }
    return _chosen(singles, only, protect, "kernel")


def penalized(
    name: str,
    graph: ChannelGraph,
    roles: Collection[str],
    over: Any,
    *,
    usual: Collection[str],
    only: Groups | None,
    protect: Groups,
) -> Members:
    """Returns the sets that a penalty is over: those of `over`, else channels by their roles.

    Raises:
      JaxpruneError: `over` holds no sets, or what chooses channels is given beside it.
      TreeError: the sets are of another graph.
    """
    if over is None:
        return members(graph, roles, only=only, protect=protect)
    fix = "over=jp.sparsify.shapes(graph, only=..., protect=...), or depth(graph)"
    given = check_mapping(over, f"{name}: over", fix, JaxpruneError)
    parts = [part for some in given.values() for part in _parts(name, some, fix)]
    if not parts:
        raise JaxpruneError(f"{name}: over holds no sets.\nFix: {fix}.")
    if tuple(roles) != tuple(usual) or only is not None or protect != ():
        raise JaxpruneError(
            f"{name}: roles, only and protect choose channels, and have no effect beside over.\n"
            f"Fix: {fix}."
        )
    check_graph(graph)
    shapes = {path: variable.shape for path, variable in graph.variables.items()}
    if other := [part for part in parts if shapes.get(part.path) != part.shape]:
        which = few([f"{part.path} {list(part.shape)}" for part in other])
        raise TreeError(f"{name}: over is of another graph, with {which}.\nFix: {fix}.")
    return given


def _parts(name: str, some: Any, fix: str) -> Iterator[Section]:
    if not isinstance(some, Sequence):
        raise JaxpruneError(f"{name}: over holds {kind_of(some)}, no list of sets.\nFix: {fix}.")
    for part in some:
        if not isinstance(part, Section):
            raise JaxpruneError(f"{name}: over holds {kind_of(part)}, no sets.\nFix: {fix}.")
        yield part


def _chosen(every: Sets, only: Any, protect: Any, what: str) -> Sets:
    if not every:
        raise PatternError(f"the graph has no {what} with such weights.\nFix: print(graph).")
    chosen = every.keys() if only is None else paths.require(only, every, what="only pattern")
    without = paths.require(protect, every, what="protect pattern")
    left = {name: parts for name, parts in every.items() if name in chosen and name not in without}
    if not left:
        raise PatternError(
            f"protect={protect!r} and only={only!r} leave no {what}.\n"
            f"Fix: they are {few(list(every))}; leave only out to take all."
        )
    return left
