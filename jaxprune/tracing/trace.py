"""From a function to its channel graph: its axes are related, named, and told exact or not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.functions import check_inputs, check_keywords, check_tracing
from jaxprune.errors import TraceError
from jaxprune.graph import (
    Branches,
    ChannelGraph,
    Contraction,
    Frozen,
    Group,
    Slot,
    TraceOptions,
    Variable,
)
from jaxprune.inspecting.tables import graph_table
from jaxprune.inspecting.why_frozen import immovable
from jaxprune.program import (
    collection,
    jaxpr,
    linen_calls,
    outputs,
    pointers,
    stacked_layers,
    states,
    stream_readers,
    symbolic,
)
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Program
from jaxprune.program.relate import Recorded, Tracer, Walk, fix
from jaxprune.program.rules import RULES, Rule, pointing
from jaxprune.program.spaces import Atom, Space
from jaxprune.tracing import exactness, naming, unread
from jaxprune.tracing.failed_calls import explained
from jaxprune.tracing.state_inputs import Inputs, variable_of


@collection.held_off()
def trace(
    fn: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    rules: Mapping[Any, Rule | Callable[..., Any]] = RULES,
    strict: bool = False,
    layers: Mapping[str, int] = MappingProxyType({}),
    free_outputs: Sequence[str] = (),
    free_constants: bool = False,
    state: Any = (),
    index_inputs: Mapping[Any, int] = MappingProxyType({}),
    **keywords: Any,
) -> ChannelGraph:
    """Returns the channel graph of `fn(variables, *inputs, **keywords)`, without running it.

    Args:
      fn: any JAX function of a pytree of variables and inputs, for example
        `lambda v, x: model.apply(v, x, train=False)`.
      variables: arrays or `jax.ShapeDtypeStruct`s; what may be pruned.
      *inputs: arrays, shapes or pytrees of them; their axes are frozen. MACs are those of this
        call, so batch 1 gives the usual figure; a symbolic batch (`jax.export.symbolic_shape`) is
        traced as 1.
      rules: primitive, or its name -> `Rule`, or the bare function that relates its axes; extend
        the table with `jp.RULES | {my_primitive: my_rule}`.
      strict: raise at a primitive without a rule, which otherwise freezes what it touches.
      layers: {pattern of variable paths: axis} of stacked layers that no scan steps over, such as
        blocks under `jax.vmap`: their groups are pruned in every layer by itself, as those inside
        of a scan are, and the axis is not.
      free_outputs: patterns of the paths of outputs whose channels may be pruned, such as
        features on the way; the axes of all others are frozen. An output that is not a part of a
        container has the path "".
      free_constants: channels that meet a constant array of the function, or what `jnp.arange`
        counts (a table of sines, the frequencies of a rotation), may be pruned too. `jp.narrow`
        cuts the constants with them; a resized module would compute others, and is refused.
      state: inputs that the call gives back, such as the KV cache of a decoder: a position, a name,
        or a path (`"batch/cache"`), or several. Their channels are pruned with the layers that fill
        and read them, and what only a branch had use for goes with it;
        `jp.slice(graph, cache, keep, state="cache")` cuts them. The output is found by its
        structure; {input: path of the output} says which it is, and None that the input is only
        read.
      index_inputs: {input, as in `state`: size} of inputs of integers that point into an axis, such
        as token ids into a vocabulary: what they look up may be pruned. The pruned network takes
        new numbers, which `jp.reindex(graph, keep)` gives.
      **keywords: those that hold arrays or shapes are inputs too. Others are constants, such as
        `train=False`.

    Raises:
      TraceError: `strict` and a primitive has no rule, a variable is not an array, or has no axis
        `layers`; `fn` takes no such keyword; `state` is not an input, or no single output is its
        twin; `index_inputs` names what is not an input of integers.
      PatternError: a pattern of `layers` or `free_outputs` matches nothing.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> v = {"in": np.ones((2, 4)), "out": np.ones((4, 3))}
      >>> def step(v, x, cache):
      ...     cache = cache + x @ v["in"]
      ...     return cache @ v["out"], cache
      >>> cache = np.zeros((1, 4))
      >>> graph = jp.trace(step, v, np.ones((1, 2)), cache, state="cache")
      >>> keep = {"in": np.arange(4) < 3}
      >>> small = jp.slice(graph, cache, keep, state="cache")
      >>> jp.resize(step, graph, keep)(jp.slice(graph, v, keep), np.ones((1, 2)), small)[1].shape
      (1, 3)
    """
    check_tracing(fn, rules, layers, (strict, free_constants))
    check_keywords(fn, getattr(fn, "__name__", type(fn).__name__), keywords, ())
    keywords, constants = call_inputs.split(keywords)
    check_inputs(inputs, keywords)
    wanted = states.asked(state)
    leaves, treedef = paths.flatten(variables)
    _check_leaves(leaves)
    symbols = symbolic.names((inputs, keywords))
    inputs, keywords = symbolic.at_one((inputs, keywords))
    called = call_inputs.bound(fn, constants)
    with explained(variables, inputs, keywords), linen_calls.noted(called) as (watched, calls):
        program, output = jaxpr.trace(watched, variables, *inputs, **keywords)
    given = Inputs(program, len(leaves), inputs, keywords)
    if wanted:
        given.find(wanted, call_inputs.parameters(fn), output)
    given.index(index_inputs, call_inputs.parameters(fn))
    options = TraceOptions(layers, free_outputs, free_constants, state, index_inputs)
    tracer = Tracer(_table(rules), strict=strict, free_constants=free_constants)
    walk, unused = _related(tracer, program, output, leaves, given, options)
    described = dict(zip(leaves, map(variable_of, leaves, leaves.values(), walk.ins), strict=True))
    names = list(leaves)
    return ChannelGraph(
        groups=MappingProxyType(_groups(described, walk, tracer, given.masked())),
        frozen=tuple(_frozen(described)),
        variables=MappingProxyType(described),
        contractions=tuple(_contraction(item, names) for item in tracer.contractions),
        readings=tuple(stream_readers.selecting(walk)),
        unread=tuple(names[i] for i in unused),
        calls=tuple(calls),
        fn=called,
        inputs=inputs,
        keywords=MappingProxyType(keywords),
        constants=MappingProxyType(constants),
        state=MappingProxyType(given.in_graph(walk.ins[len(leaves) :])),
        treedef=treedef,
        rules=tracer.rules,
        options=options,
        walk=walk,
        output=output,
        symbols=MappingProxyType(symbols),
        index_inputs=MappingProxyType(given.indexed()),
        filter_axes=MappingProxyType(_filter_axes(tracer, names)),
        table=graph_table,
    )


def _table(rules: Mapping[Any, Rule | Callable[..., Any]]) -> dict[str, Rule]:
    return {
        getattr(key, "name", key): rule if isinstance(rule, Rule) else Rule(rule)
        for key, rule in rules.items()
    }


def _related(
    tracer: Tracer,
    program: Program,
    output: Any,
    leaves: Mapping[str, Any],
    given: Inputs,
    options: TraceOptions,
) -> tuple[Walk, list[int]]:
    """Returns the walk of a program, its spaces final, and the variables that it does not use."""
    axes: list[list[Space]] = [
        [Atom(size, owner=(i, axis)) for axis, size in enumerate(leaf.shape)]
        for i, leaf in enumerate(leaves.values())
    ]
    twins = outputs.twins(output, leaves, given.twins)
    unused = unread.freeze_unused(program, axes, twins)
    _give_layers(dict(zip(leaves, axes, strict=True)), options.layers)
    outside = given.axes()
    sources = [frozenset({i}) for i in range(len(axes))] + [None] * len(outside)
    of = [None] * len(axes) + given.points
    walk = tracer.walk(program, axes + outside, sources, of=of)
    pointers.freeze(walk.points)
    stream_readers.tie(walk)
    outputs.tie(output, walk, axes + outside, twins, options.free_outputs)
    stream_readers.tie_immovable(walk, axes)
    unread.freeze_unread(walk, axes)
    unread.freeze_left_out(walk, twins)
    fix(walk)
    return walk, unused


def _check_leaves(leaves: Mapping[str, Any]) -> None:
    bad = [path for path, leaf in leaves.items() if not hasattr(leaf, "shape")]
    if bad:
        raise TraceError(
            f"variables {bad} are not arrays.\nFix: close over what is not an array (Equinox: "
            "eqx.partition(model, eqx.is_array)), or wrap it with jnp.asarray."
        )
    unknown = [path for path, leaf in leaves.items() if any(map(symbolic.is_symbolic, leaf.shape))]
    if unknown:
        raise TraceError(
            f"variables {unknown} have symbolic sizes, so their channels cannot be counted.\nFix: "
            "give variables numbers; inputs may have a symbolic batch."
        )


def _groups(
    variables: Mapping[str, Variable],
    walk: Walk,
    tracer: Tracer,
    masked: Mapping[int, int | None],
) -> dict[str, Group]:
    """Names the free atoms that reach variables, and decides which groups are exact."""
    paths = list(variables)
    axes = {path: variable.axes for path, variable in variables.items()}
    slots = naming.places(axes, tracer.roles)
    names = naming.names(walk, slots, tracer.roles, paths)
    for atom, name in names.items():
        atom.name = name
    stacked_layers.mark(walk)
    verdict = exactness.decide(walk, masked)
    least = _least(walk)
    spared = {(paths[leaf], atom) for leaf, atom in verdict.spared}

    def complete(place: naming.Place) -> Slot:
        layered = place.atom.layers is not None
        axes = variables[place.path].axes
        return Slot(
            path=place.path,
            axis=place.axis,
            role=place.role,
            space=place.space,
            atom=place.atom,
            masked=(place.path, place.atom) not in spared,
            layer=stacked_layers.layer_axis(axes, place.atom) if layered else None,
        )

    def group(atom: Atom, members: Sequence[naming.Place]) -> Group:
        why = verdict.inexact.get(atom)
        return Group(
            name=names[atom],
            size=atom.size,
            slots=tuple(map(complete, members)),
            inexact=why and f"{why.at!r} at {why.place}: {why.text}",
            way_out=why.way_out if why else "",
            layers=atom.layers and stacked_layers.length(atom.layers),
            least=least.get(atom, 1),
        )

    return {names[atom]: group(atom, members) for atom, members in slots.items()}


def _filter_axes(tracer: Tracer, names: Sequence[str]) -> dict[str, frozenset[int]]:
    found: dict[str, frozenset[int]] = {}
    for atom, role in tracer.roles:
        assert atom.owner is not None
        leaf, axis = atom.owner
        own = found.get(names[leaf], frozenset())
        found[names[leaf]] = own | {axis} if role == "out" else own
    return found


def _least(walk: Walk) -> dict[Atom, int]:
    """How many channels stay at least, of what an operation chooses some of."""
    least: dict[Atom, int] = {}
    for space, count in filter(None, map(pointing.chosen, every_op(walk))):
        for atom in ax.atoms(space):
            least[atom] = max(least.get(atom, 1), min(count, atom.size))
    return least


def _give_layers(variables: Mapping[str, Sequence[Space]], layers: Mapping[str, int]) -> None:
    for pattern, axis in layers.items():
        for path in paths.require([pattern], variables, what="layers pattern"):
            if not -len(variables[path]) <= axis < len(variables[path]):
                raise TraceError(
                    f"layers names axis {axis} of {path!r}, which has {len(variables[path])} axes."
                    "\nFix: layers={'blocks/*': 0} for variables whose leading axis counts layers."
                )
            stacked_layers.give(variables[path][axis], pattern)


def _frozen(variables: Mapping[str, Variable]) -> Iterator[Frozen]:
    for path, variable in variables.items():
        for axis, space in enumerate(variable.axes):
            for size, reason in immovable(space):
                yield Frozen(
                    path=path,
                    axis=axis,
                    size=size,
                    reason=reason.text,
                    why=reason.why,
                    place=reason.place,
                )


def _contraction(recorded: Recorded, names: Sequence[str]) -> Contraction | Branches:
    if recorded.branches:
        return Branches(
            alternatives=tuple(
                tuple(_contraction(item, names) for item in branch) for branch in recorded.branches
            )
        )
    return Contraction(
        name=recorded.op.name,
        place=recorded.op.place,
        op=recorded.op,
        repeats=recorded.repeats,
        coefficient=recorded.coefficient,
        spaces=tuple(map(ax.resolve, recorded.spaces)),
        output=tuple(map(ax.resolve, recorded.output)),
        itemsize=recorded.op.eqn.outvars[0].aval.dtype.itemsize,
        kernels=tuple(names[i] for i in sorted(recorded.kernels)),
    )
