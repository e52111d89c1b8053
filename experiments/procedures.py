"""Network Slimming as a list of phases, each a pure function from network to network."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxprune as jp
from experiments import data, models, training
from experiments.config import C, Common, Config, Slim
from experiments.data import Dataset, Split, Stream
from experiments.training import QUIET, Journal, Variables
from jaxprune.keep.check import Keep

Transform = optax.GradientTransformation


class Setup(NamedTuple, Generic[C]):
    """What the phases of a run share."""

    config: C
    dataset: Dataset
    model: nn.Module  # unpruned
    graph: jp.ChannelGraph  # of the unpruned model


class Network(NamedTuple):
    """A model definition and its variables, on the host."""

    model: nn.Module
    variables: Variables
    keep: Keep  # {group: bool[n]} of the unpruned model's channels; empty before pruning
    momentum: Any = None  # that of the last training, like the params

    @property
    def sliced(self) -> bool:
        """Whether the pruned channels are cut out, not held at zero."""
        return isinstance(self.model, jp.linen.Resized)


class Phase(NamedTuple):
    """A step of a procedure."""

    name: str  # of the network that it gives
    run: Callable[[Network, Journal], Network]


def setup(config: C) -> Setup[C]:
    """Returns the data, the unpruned model and its channel graph."""
    dataset = data.load(
        config.dataset,
        data_dir=config.data_dir,
        limit=config.limit,
        workers=config.workers,
        mobile=config.mobile,
    )
    fields = {"widths": config.widths} if config.widths else {}
    model = models.build(config.model, classes=dataset.classes, **fields)
    slim = isinstance(config, Slim)  # widths are of streams, and all readers have these
    graph = training.channel_graph(model, dataset.image_shape, select_inputs=not slim)
    return Setup(config, dataset, model, graph)


def phases(setup: Setup) -> list[Phase]:
    """Returns the procedure that the configuration asks for."""
    config, found = setup.config, []
    for number in range(1, config.passes + 1):
        tail = f"-{number}" if number > 1 else ""
        dense, last = f"trained{tail}" if tail else "dense", f"{retrained(config)}{tail}"
        found += [
            Phase(dense, partial(train, setup, dense)),
            Phase(f"pruned{tail}", partial(_prune, setup, number)),
            Phase(f"recalibrated{tail}", lambda network, _: recalibrate(setup, network)),
            Phase(last, partial(retrain, setup, last)),
        ]
    if config.recalibration_batches == 0:
        found = [phase for phase in found if not phase.name.startswith("recalibrated")]
    if config.method == "mask":
        found.append(Phase("sliced", lambda network, _: cut(setup, network, network.keep)))
    return found


def retrained(config: Config) -> str:
    """Returns the name of the network after the first pass."""
    return {"finetune": "finetuned", "rewind": "rewound"}.get(config.retrain, config.retrain)


def initial(setup: Setup) -> Network:
    """Returns the network before any training; the same for the same seed."""
    variables = fresh(setup.model, setup.dataset, jax.random.key(setup.config.seed))
    return Network(setup.model, variables, {})


def train(setup: Setup, name: str, network: Network, journal: Journal = QUIET) -> Network:
    """Returns the network trained with the penalty."""
    config = setup.config
    epochs, rate = config.scaled(config.epochs), config.learning_rate
    return _fit(setup, name, network, journal, epochs=epochs, rate=rate, penalized=True)


def choose(setup: Setup, network: Network, *, number: int = 1) -> Keep:
    """Returns which of the channels that are left stay, by |gamma|, after pass `number`.

    With a limit to what a layer loses, the threshold is set as without it: as in the paper, fewer
    channels go than the ratio says.
    """
    config, graph = setup.config, setup.graph
    most = config.max_prune_ratio or (0.5 if config.passes > 1 else 1.0)
    limits: Any = {
        "min_channels": config.min_channels,
        "max_prune_ratio": most,
        "within": network.keep,
    }
    scores = jax.device_get(jp.scores.bn_scale(graph, _whole(setup, network)))
    if config.target_macs is not None:
        share = config.target_macs ** (number / config.passes)
        return jp.select.budget(graph, scores, keep_macs=share, **limits)
    if config.scope == "layer":
        return jp.select.per_group(graph, scores, prune_ratio=config.prune_ratio, **limits)
    rule = getattr(jp.select, config.rule)
    if most == 1:
        return jp.select.global_ratio(
            graph, scores, prune_ratio=config.prune_ratio, rule=rule, **limits
        )
    left = [v[network.keep.get(n, np.ones(v.size, bool))] for n, v in scores.items()]
    ascending = np.sort(np.concatenate(left).astype(np.float64))
    count = rule(ascending, int(config.prune_ratio * ascending.size))
    threshold = float(ascending[count - 1]) if count else -np.inf
    return jp.select.threshold(graph, scores, threshold=threshold, **limits)


def cut(setup: Setup, network: Network, keep: Keep) -> Network:
    """Returns the network without the pruned channels."""
    graph, momentum = setup.graph, network.momentum
    model = jp.linen.resize(setup.model, graph, keep)
    if momentum is not None:
        momentum = jp.slice(graph, _full(graph, network, {"params": momentum}), keep)["params"]
    return Network(model, jp.slice(graph, _whole(setup, network), keep), keep, momentum)


def mask(setup: Setup, network: Network, keep: Keep) -> Network:
    """Returns the network at full shape with the pruned channels zero."""
    return Network(setup.model, jp.mask(setup.graph, _whole(setup, network), keep), keep)


def recalibrate(setup: Setup, network: Network) -> Network:
    """Returns the network with the statistics of BatchNorm measured on training images."""
    config, train = setup.config, setup.dataset.train
    batches = some(train, size=256, count=config.recalibration_batches, seed=config.seed)
    update = training.batch_statistics(network.model, setup.dataset)
    variables = jp.recover.recalibrate(update, network.variables, batches)
    return network._replace(variables=variables)


def retrain(setup: Setup, name: str, network: Network, journal: Journal = QUIET) -> Network:
    """Returns the pruned network trained without the penalty, from where `retrain` says."""
    config = setup.config
    if config.retrain == "finetune":
        epochs, rate = config.scaled(config.finetune_epochs), config.finetune_learning_rate
        return _fit(setup, name, network, journal, epochs=epochs, rate=rate, penalized=False)
    again = cut if network.sliced else mask
    if config.retrain == "rewind":
        network = again(setup, initial(setup), network.keep)
    elif network.sliced:  # the initial deviations are those of the narrow layers
        network = network._replace(variables=fresh(network.model, setup.dataset, key(config, name)))
    else:
        new = fresh(setup.model, setup.dataset, key(config, name))
        network = mask(setup, Network(setup.model, new, {}), network.keep)
    epochs = scratch_epochs(setup, network.keep)
    rate, network = config.learning_rate, network._replace(momentum=None)
    return _fit(setup, name, network, journal, epochs=epochs, rate=rate, penalized=False)


def scratch_epochs(setup: Setup, keep: Keep) -> int:
    """Returns the epochs from new weights: those of the dense network, or of equal MACs.

    Source: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3.
    """
    config = setup.config
    if config.retrain != "scratch-b":
        return config.scaled(config.epochs)
    dense, pruned = (jp.cost.macs(setup.graph, kept) for kept in (None, keep))
    return config.scaled(config.epochs * dense / pruned)


def key(config: Common, name: str) -> jax.Array:
    """Returns the key of a phase, from the seed and the name."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))


def held_at_zero(tx: Transform, graph: jp.ChannelGraph, keep: Keep) -> Transform:
    """Returns the optimizer that sees no gradient of the pruned channels and does not move them.

    Its state must be new: an old momentum would go on to move others by what is gone.
    """

    def zero(updates: Any, params: Any = None) -> Any:
        del params
        return jp.mask(graph, {"params": updates}, keep)["params"]

    return optax.chain(optax.stateless(zero), tx, optax.stateless(zero))


def penalty(config: Config, rate: optax.Schedule, variables: Variables) -> dict[str, Transform]:
    """Returns the transformations that the penalty puts before or after SGD."""
    scales = jp.scale_mask(variables)
    if config.penalty == "l1":
        return {"before": jp.sparsify.l1_bn_scale(config.strength, scales)}
    if config.penalty == "smooth-l1":
        width = config.smooth_width
        return {"before": jp.sparsify.smooth_l1_bn_scale(config.strength, scales, width=width)}
    proximal = jp.sparsify.proximal_l1_bn_scale(config.strength, scales, learning_rate=rate)
    return {"after": proximal}


def _prune(setup: Setup, number: int, network: Network, journal: Journal) -> Network:
    del journal
    keep = choose(setup, network, number=number)
    return (cut if setup.config.method == "slice" else mask)(setup, network, keep)


def _fit(
    setup: Setup,
    name: str,
    network: Network,
    journal: Journal,
    *,
    epochs: int,
    rate: float,
    penalized: bool,
) -> Network:
    config, dataset = setup.config, setup.dataset
    steps = epochs * (dataset.train.size // config.batch_size)
    scheduled = training.schedule(rate, steps=steps, milestones=config.milestones)
    extra: Any = penalty(config, scheduled, network.variables) if penalized else {}
    tx = training.sgd(scheduled, weight_decay=config.weight_decay, **extra)
    if network.keep and not network.sliced:
        tx = held_at_zero(tx, setup.graph, network.keep)
    opt_state = tx.init(network.variables["params"])
    if config.momentum == "sliced" and network.momentum is not None and not penalized:
        opt_state = optax.tree.set(opt_state, trace=network.momentum)
    state = training.fit(
        network.model,
        network.variables,
        dataset,
        tx=tx,
        epochs=epochs,
        batch_size=config.batch_size,
        key=key(config, name),
        opt_state=opt_state,
        journal=journal,
    )
    momentum = optax.tree.get(state.opt_state, "trace") if config.momentum == "sliced" else None
    variables, momentum = jax.device_get((state.variables, momentum))
    return network._replace(variables=variables, momentum=momentum)


def some(train: Split | Stream, *, size: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yields at most `count` batches of training images as they are: of a stream the first ones.

    A batch has `size` images, or all where there are fewer.
    """
    size = min(size, train.size)
    count = min(count, train.size // size)
    if isinstance(train, Stream):
        yield from (batch.images for batch in islice(train.batches(size, None), count))
    else:
        order = np.random.default_rng(seed).permutation(train.size)
        yield from (train.images[rows] for rows in order[: count * size].reshape(count, size))


def fresh(model: nn.Module, dataset: Dataset, key: jax.Array) -> Variables:
    """Returns the variables of a model before any training, on the host."""
    image = jnp.zeros((1, *dataset.image_shape))
    return jax.device_get(jax.jit(partial(model.init, train=False))(key, image))


def _whole(setup: Setup, network: Network) -> Variables:
    return _full(setup.graph, network, network.variables)


def _full(graph: jp.ChannelGraph, network: Network, tree: Mapping[str, Any]) -> Any:
    """Returns a tree of the network in the shapes of the unpruned one."""
    return jp.unslice(graph, tree, network.keep) if network.sliced else tree
