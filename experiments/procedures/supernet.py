"""One network trained at many widths at once: the training of S-Net, US-Net and AutoSlim.

Pure functions; `experiments.procedures.curves` keeps what they give on the disk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments import data
from experiments.data.augment import normalized
from experiments.procedures import joint
from experiments.procedures.joint import parts, whole
from experiments.runner import devices, training
from experiments.runner.fit import QUIET, Journal, State, Variables
from experiments.runner.task import Network, Task
from experiments.runner.task import fresh as new
from experiments.runner.task import initial as untrained
from experiments.runner.task import key as key_of
from experiments.runner.training import Loss, Metrics, Step, cross_entropy
from jaxprune import slimmable
from jaxprune.arguments import paths
from jaxprune.keep.check import Keep
from jaxprune.schedule import Training
from jaxprune.slimmable import Split

Keeps = Mapping[str, Keep]
"""{name of a width: its keep}."""


class Method(NamedTuple):
    """What tells one supernet from another.

    fixed: the widths of every step, the largest first; each has private leaves.
    private: variables of the network -> paths of what each of these widths has for itself.
    draw: key -> further widths of a step, for use in jit; their keeps are traced, so that they are
      executed by mask, in one program.
    grid: widths out of which further ones are drawn that are sliced, each with its own program.
    number: how many of the grid a step draws.
    distill: what the largest width teaches the others, if it does.
    loss: of the labels.
    """

    fixed: Keeps
    private: Callable[[Variables], Iterable[str]]
    draw: Callable[[jax.Array], Mapping[str, Any]] | None = None
    grid: Keeps | None = None
    number: int = 0
    distill: slimmable.Distillation | None = None
    loss: Loss = cross_entropy


class Widest:
    """The largest width of a supernet, called like a model; it is looked at while it trains."""

    def __init__(self, task: Task, method: Method):
        self._graph = task.graph
        self._name, self._keep = next(iter(method.fixed.items()))
        self._model = jp.linen.resize(task.model, task.graph, self._keep)

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module.apply`, on the variables of the supernet."""
        params, rest = parts(variables)
        small = slimmable.variables(self._graph, params, rest, self._name, self._keep)
        return self._model.apply(small, *args, **kwargs)


def draws(
    grid: Sequence[Keep], number: int, *, nonuniform: bool = False
) -> Callable[[jax.Array], dict[str, Keep]]:
    """Returns key -> so many keeps, each one of the grid, or of its own for every group.

    Drawn inside of jit, they are traced. Source: Yu and Huang, "AutoSlim", 2019 (nonuniform).
    """
    tables = {group: np.stack([keep[group] for keep in grid]) for group in grid[0]}

    def draw(key: jax.Array) -> dict[str, Keep]:
        shape = (number, len(tables) if nonuniform else 1)
        rows = jnp.broadcast_to(jax.random.randint(key, shape, 0, len(grid)), (number, len(tables)))
        return {
            f"drawn-{i}": {
                group: jnp.asarray(table)[row]
                for row, (group, table) in zip(rows[i], tables.items(), strict=True)
            }
            for i in range(number)
        }

    return draw


def at(task: Task) -> slimmable.Network:
    """Returns the network that trains at a width, as `jaxprune.slimmable` asks for it."""

    def network(keep: Keep) -> Any:
        model = jp.linen.resize(task.model, task.graph, keep)
        return partial(model.apply, train=True, mutable=["batch_stats"])

    return network


def initial(task: Task, method: Method) -> Network:
    """Returns the supernet before any training.

    Its variables are {"params": ..., "rest": ...}, the two parts of `slimmable.split`.
    """
    variables = untrained(task).variables
    private = list(method.private(variables))
    split = slimmable.split(task.graph, variables, method.fixed, private=private)
    return Network(task.model, jax.device_get(whole(*split)), {})


def train(
    task: Task,
    method: Method,
    how: Training,
    name: str,
    network: Network,
    journal: Journal = QUIET,
) -> Network:
    """Returns the supernet after a training of all its widths.

    Args:
      task: of the run.
      method: what is trained.
      how: epochs, learning rate, momentum, weight decay.
      name: of the phase, which its random numbers follow from.
      network: the supernet to begin with.
      journal: of the training.
    """
    tx = optimizer(task, how)
    step = (_sliced_step if method.grid else _step)(task, method, tx)
    model: Any = Widest(task, method)
    return _fit(task, how, name, model, network, tx=tx, journal=journal, step=step)


def alone(
    task: Task,
    how: Training,
    name: str,
    keep: Keep,
    journal: Journal = QUIET,
    *,
    loss: Loss = cross_entropy,
) -> Network:
    """Returns a network of these widths, trained from new weights by itself."""
    model = jp.linen.resize(task.model, task.graph, keep)
    variables = new(model, task.dataset, key_of(task.config, name))
    network = Network(model, variables, keep)
    tx, size = optimizer(task, how), task.config.batch_size
    step = training.train_step(model, tx, task.dataset, size, loss=loss)
    return _fit(task, how, name, model, network, tx=tx, journal=journal, step=step)


def cut(task: Task, supernet: Network, name: str, keep: Keep) -> Network:
    """Returns one width of a supernet, as a network of its own."""
    params, rest = parts(supernet.variables)
    small = slimmable.variables(task.graph, params, rest, name, keep)
    return Network(jp.linen.resize(task.model, task.graph, keep), jax.device_get(small), keep)


def calibrated(
    task: Task, supernet: Network, widths: Keeps, *, trained: Keeps, batches: int, size: int
) -> Network:
    """Returns the supernet in which all of these widths have statistics, of training images."""
    params, rest = parts(supernet.variables)
    images = data.some(task.dataset.train, size=size, count=batches, seed=task.config.seed)
    rest = slimmable.calibrate(
        at(task),
        task.graph,
        params,
        rest,
        widths,
        [normalized(task.dataset.mean, task.dataset.std, jnp.asarray(each)) for each in images],
        trained=trained,
    )
    rest = jax.device_get(rest._asdict())
    return supernet._replace(variables=supernet.variables | {"rest": rest})


def borrowed(supernet: Network, name: str) -> Network:
    """Returns the supernet in which all widths have the statistics of one that is the whole."""
    rest = parts(supernet.variables)[1]

    def first(mine: Any, shared: Any) -> Any:
        return shared if mine is None else mine

    shared = jax.tree.map(first, rest.private[name], rest.shared, is_leaf=lambda leaf: leaf is None)
    rest = Split(shared=shared, private={})._asdict()
    return supernet._replace(variables=supernet.variables | {"rest": rest})


def optimizer(task: Task, how: Training) -> optax.GradientTransformation:
    """Returns SGD with Nesterov's momentum; only dense and convolution kernels decay.

    Source: Yu et al., "Slimmable Neural Networks", ICLR 2019, the authors' code.
    """
    steps = how.epochs * (task.dataset.train.size // task.config.batch_size)
    return training.sgd(
        how.learning_rate(steps),
        momentum=how.momentum,
        weight_decay=how.weight_decay,
        decays=partial(_decays, task.graph),
    )


def _decays(graph: jp.ChannelGraph, params: Any) -> Any:
    """Returns where the weight decay acts: on kernels, but for depthwise ones.

    These have one input channel in the whole network, as the first kernel of all where images are
    gray.
    """
    first = next(jp.cost.each_contraction(graph.contractions)).kernels

    def decays(path: str, leaf: Any) -> bool:
        name = f"params/{path.removeprefix('shared/').removeprefix('params/')}"
        if np.ndim(leaf) < 2:
            return False
        *window, inputs, _ = graph.variables[name].shape
        return name in first or not (len(window) == 2 and window[0] > 1 and inputs == 1)

    leaves, treedef = paths.flatten(params)
    return jax.tree.unflatten(treedef, [decays(path, leaf) for path, leaf in leaves.items()])


def _gradients(task: Task, method: Method) -> Callable[..., slimmable.Gradients]:
    return joint.gradients(at(task), task.graph, method.loss, distill=method.distill)


def _moved(
    tx: optax.GradientTransformation,
    state: State,
    found: slimmable.Gradients,
    labels: jax.Array,
) -> tuple[State, Metrics]:
    """Returns the state after an update, and the metrics of the largest width."""
    params = state.variables["params"]
    updates, opt_state = tx.update(found.params._asdict(), state.opt_state, params)
    params = optax.apply_updates(params, updates)
    variables = {"params": params, "rest": found.rest._asdict()}
    accuracy = jnp.mean(found.outputs.argmax(-1) == labels)
    state = state._replace(variables=variables, opt_state=opt_state, step=state.step + 1)
    return devices.constrained(state), Metrics(found.losses[0], accuracy)  # pyright: ignore[reportArgumentType]


def _step(task: Task, method: Method, tx: optax.GradientTransformation) -> Step:
    """Returns the step that is one program; what it draws is executed by mask."""
    gradients, size = _gradients(task, method), task.config.batch_size

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, part: Any, order: jax.Array | None, key: jax.Array) -> Any:
        batch_key, width_key = jax.random.split(key)
        batch = training.batch(task.dataset, part, order, state.step, batch_key, size)
        drawn = method.draw(jax.random.fold_in(width_key, state.step)) if method.draw else {}
        found = gradients(*parts(state.variables), {**method.fixed, **drawn}, *batch)
        return _moved(tx, state, found, batch[1])

    return step


def _sliced_step(task: Task, method: Method, tx: optax.GradientTransformation) -> Step:
    """Returns the step whose widths are drawn on the host, and run as the small networks."""
    gradients, size = _gradients(task, method), task.config.batch_size
    batch = jax.jit(partial(training.batch, task.dataset), static_argnums=4)
    moved = jax.jit(partial(_moved, tx))
    grid = method.grid or {}
    others = {name: keep for name, keep in grid.items() if name not in method.fixed}

    def step(state: State, part: Any, order: jax.Array | None, key: jax.Array) -> Any:
        rng = np.random.default_rng((task.config.seed, int(state.step)))
        names = rng.permutation(list(others))[: method.number]
        widths = {**method.fixed, **{str(name): others[name] for name in names}}
        images, labels = batch(part, order, state.step, key, size)
        found = gradients(*parts(state.variables), widths, images, labels)
        return moved(state, found, labels)

    return step


def _fit(
    task: Task,
    how: Training,
    name: str,
    model: Any,
    network: Network,
    *,
    tx: optax.GradientTransformation,
    journal: Journal,
    step: Step,
) -> Network:
    state = training.fit(
        model,
        network.variables,
        task.dataset,
        tx=tx,
        epochs=how.epochs,
        batch_size=task.config.batch_size,
        key=key_of(task.config, name),
        step=step,
        journal=journal,
    )
    return network._replace(variables=jax.device_get(state.variables))
