"""One training step of all widths: their gradients add up on the shared variables."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_arrays, check_callable
from jaxprune.cutting import transforms
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.keep import check
from jaxprune.keep.check import Keep
from jaxprune.recover.distilling import check_mixture
from jaxprune.slimmable.checks import named_keeps
from jaxprune.slimmable.state import (
    Split,
    check_private,
    check_splits,
    combine,
    private_trees,
    updated,
)
from jaxprune.slimmable.width_constants import following

Network = Callable[[Keep], Callable[[Any, Any], tuple[Any, Any]]]
"""keep -> (variables at its widths, inputs) -> (outputs, updated leaves)."""
Loss = Callable[[Any, Any], Any]
Distillation = Callable[[Any, Any, Any], Any]
"""(outputs, outputs of the largest width, targets) -> scalar."""


NETWORK = "lambda keep: partial(resized.apply, train=True, mutable=['batch_stats']), for example."


class Gradients(NamedTuple):
    """What one step gives.

    params: the sum of the gradients of all widths, in the form of the params.
    rest: the rest, with the statistics that the passes wrote.
    losses: f32[widths], in their order.
    outputs: those of the first width, such as logits.
    """

    params: Split
    rest: Split
    losses: jax.Array
    outputs: Any


class _Execution(NamedTuple):
    run: Callable[[Any, Any], tuple[Any, Any]]
    enter: Callable[[Any], Any]  # full variables -> those of the width
    leave: Callable[[Any], Any]  # gradients of the width -> full gradients
    spread: Callable[[Any, Any], Any]  # (leaves of the width, full leaves) -> full leaves


def gradients(
    network: Network, graph: ChannelGraph, loss: Loss, *, distill: Distillation | None = None
) -> Callable[..., Gradients]:
    """Returns `step(params, rest, widths, inputs, targets) -> Gradients`.

    `widths` is {name: keep}. Each of them is a forward and a backward pass of the resized network
    on `slice` of the shared variables; `unslice` puts its gradients back, where they add up. So
    small widths cost what small networks cost.

    A keep that is traced, because it came in as an argument of the jitted function that `step` is
    called in, is executed by mask: one program then serves all keeps, each at the cost of the
    whole network. Such a width has no leaves of its own, and its groups must be exact.

    Called outside of jit, `step` compiles one program for every keep that it meets, and no more
    when it meets it again: as many as the grid has widths; the activations of one width live at a
    time. Inside of jit all widths of the call are one program, which may hold those of several.

    Args:
      network: `keep -> run`, where `run(variables, inputs) -> (outputs, updates)` is the network
        at the widths of keep, in train mode, and `updates` the leaves that it wrote ({} if none):
        `lambda keep: partial(jp.linen.resize(model, graph, keep).apply, train=True,
        mutable=["batch_stats"])`, or `lambda keep: jp.nnx.function(jp.nnx.resize(model, graph,
        keep))`.
      graph: what `jaxprune.trace` returned.
      loss: `(outputs, targets) -> scalar` of every width; losses are summed, not averaged.
      distill: in-place distillation, such as `distillation()`: the loss of all widths but the
        first, which is the largest and teaches them; its outputs are constants to them.

    Raises:
      KeepError: when `step` is called, as the next: a keep does not fit, the first width is not the
        widest where it teaches, a width lacks the leaves that others have for themselves, or one
        that is executed by mask has inexact groups.
      TreeError: the network updates what is trained, or what is not there, or the leaves of a width
        are not those of its keep.

    Source: Yu et al., "Slimmable Neural Networks", ICLR 2019; Yu and Huang, "Universally Slimmable
    Networks and Improved Training Techniques", ICCV 2019.
    """
    check_graph(graph)
    check_callable(network, "network", NETWORK)
    check_callable(loss, "loss", "lambda outputs, targets: a scalar.")
    check_callable(distill, "distill", "distill=distillation().", optional=True)
    compiled: dict[Any, Callable[..., Any]] = {}

    def program(name: Hashable, keep: Keep, taught: bool) -> Callable[..., Any]:
        objective = distill if taught and distill else _plain(loss)
        if is_traced(keep):
            return _pass(_masked(network, graph, keep), name, objective)
        key = name, taught, tuple(sorted((n, np.asarray(k).tobytes()) for n, k in keep.items()))
        if key not in compiled:
            compiled[key] = jax.jit(_pass(_sliced(network, graph, keep), name, objective))
        return compiled[key]

    def step(
        params: Split, rest: Split, widths: Mapping[Any, Keep], inputs: Any, targets: Any
    ) -> Gradients:
        widths = named_keeps(widths, graph, traced=True)
        check_splits(params, rest)
        check_arrays(inputs, "inputs")
        check_arrays(targets, "targets")
        _check_widths(graph, params, rest, widths, distill is not None)
        total = jax.tree.map(jnp.zeros_like, params)
        first, losses = None, []
        for number, (name, keep) in enumerate(widths.items()):
            taught = number > 0 and distill is not None
            execute = program(name, keep, taught)
            teacher = first if taught else None
            total, rest, value, outputs = execute(total, params, rest, inputs, teacher, targets)
            losses.append(value)
            if number == 0:
                first = outputs
        return Gradients(total, rest, jnp.stack(losses), first)

    return step


def distillation(
    *, temperature: float = 1.0, mix: float = 1.0, loss: Loss | None = None
) -> Distillation:
    """Returns the loss of a width that learns from the outputs of the largest one, its logits.

    It is mix * T^2 * cross entropy(softmax(teacher / T), softmax(logits / T)) + (1 - mix) * loss,
    over the last axis, the mean over all others. By default no label enters, as in the paper.

    Args:
      temperature: T, above 0.
      mix: share of the soft loss, in [0, 1].
      loss: `(outputs, targets) -> scalar`, the loss of labels, where mix is below 1.

    Raises:
      JaxpruneError: an argument is out of range, or `loss` is missing.

    Source: Yu and Huang, "Universally Slimmable Networks", ICCV 2019 (T = 1, mix = 1).
    """
    temperature, mix = check_mixture("distillation", temperature, mix, loss)

    def taught(outputs: Any, teacher: Any, targets: Any) -> Any:
        soft = jax.nn.softmax(teacher / temperature)
        entropy = -jnp.sum(soft * jax.nn.log_softmax(outputs / temperature), axis=-1)
        value = mix * temperature**2 * entropy.mean()
        return value if loss is None else value + (1 - mix) * loss(outputs, targets)

    return taught


def is_traced(keep: Keep) -> bool:
    """True if a mask of the keep is traced."""
    return any(isinstance(kept, Tracer) for kept in keep.values())


def _plain(loss: Loss) -> Distillation:
    return lambda outputs, _, targets: loss(outputs, targets)


def _pass(execution: _Execution, name: Hashable, objective: Distillation) -> Callable[..., Any]:
    """Returns the forward and backward pass of one width."""
    run, enter, leave, spread = execution

    def execute(
        total: Split, params: Split, rest: Split, inputs: Any, teacher: Any, targets: Any
    ) -> tuple[Split, Split, Any, Any]:
        mine, fixed = ([p.private[name]] if name in p.private else [] for p in (params, rest))
        fixed = [*fixed, enter(rest.shared)]

        def value(shared: Any, mine: list[Any]) -> tuple[Any, Any]:
            outputs, updates = run(combine(shared, *mine, *fixed), inputs)
            return objective(outputs, teacher, targets), (outputs, updates)

        passed = jax.value_and_grad(value, (0, 1), has_aux=True)
        (loss, (outputs, updates)), (shared, grads) = passed(enter(params.shared), mine)
        private = dict(total.private)
        for grad in grads:
            private[name] = jax.tree.map(jnp.add, private[name], grad)
        total = Split(jax.tree.map(jnp.add, total.shared, leave(shared)), private)
        return total, updated(rest, name, updates, spread), loss, outputs

    return execute


def _sliced(network: Network, graph: ChannelGraph, keep: Keep) -> _Execution:
    return _Execution(
        run=network(keep),
        enter=lambda tree: transforms.sliced(graph, tree, keep),
        leave=lambda tree: transforms.unslice(graph, tree, keep),
        spread=lambda small, full: transforms.unslice(graph, small, keep, into=full),
    )


def _masked(network: Network, graph: ChannelGraph, keep: Keep) -> _Execution:
    def enter(tree: Any) -> Any:
        return transforms.mask(graph, tree, keep)

    def spread(new: Any, old: Any) -> Any:
        kept = enter(jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), old))
        return jax.tree.map(jnp.where, kept, new, old)

    return _Execution(run=network({}), enter=enter, leave=enter, spread=spread)


def _check_widths(
    graph: ChannelGraph, params: Split, rest: Split, widths: Mapping[Any, Keep], distilled: bool
) -> None:
    if not widths:
        raise KeepError("no widths.\nFix: widths={w: prefix(graph, w) for w in (1.0, 0.5)}.")
    for name, keep in widths.items():
        check_private(params, name)
        if is_traced(keep):
            _check_masked(graph, params, rest, name, keep)
            continue
        counts = check.widths(graph, keep)
        for leaves in private_trees(params, rest, name):
            transforms.check_tree(graph, paths.flatten(leaves)[0], counts)
    first, *others = widths.values()
    if distilled and not is_traced(first):
        wide = check.widths(graph, first)
        for keep in [keep for keep in others if not is_traced(keep)]:
            here = check.widths(graph, keep)
            if wider := [name for name in wide if here[name] > wide[name]]:
                raise KeepError(
                    f"the first width teaches the others, but {wider[:3]} are wider in another "
                    "one.\nFix: put the largest width first."
                )


def _check_masked(
    graph: ChannelGraph, params: Split, rest: Split, name: Hashable, keep: Keep
) -> None:
    if name in params.private or name in rest.private:
        raise KeepError(
            f"width {name!r} has leaves of its own, but its keep is traced and has no size.\n"
            "Fix: a concrete keep for it, or another name."
        )
    check_exact(graph, keep, "Fix: concrete keeps, which are sliced, or prefix(..., protect=[...])")


def check_exact(graph: ChannelGraph, names: Iterable[str], fix: str) -> None:
    """Raises KeepError if by mask a group would be another network than sliced.

    It is inexact, or a constant follows its width.
    """
    for name in (name for name in names if name in graph.groups):
        why = graph.groups[name].inexact
        why = f"is inexact ({why})" if why else _follower(graph, name)
        if why:
            raise KeepError(
                f"group {name!r} {why}: executed by mask, the network is not the one that is "
                f"served.\n{fix} with it."
            )


def _follower(graph: ChannelGraph, name: str) -> str | None:
    text = following(graph).get(name)
    return text and f"has a constant that follows its width ({text})"
