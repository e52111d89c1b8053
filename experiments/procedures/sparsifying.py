"""The sparsities that `--method` names: what training with one does, and what it tells to cut."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax

import jaxprune as jp
from experiments.procedures.growing import growing
from experiments.procedures.rounds import Transform
from jaxprune.schedule import Training
from jaxprune.sparsify import Masking


class Given(NamedTuple):
    """What a sparsity may look at."""

    sgd: Transform
    how: Training  # with the strength
    steps: int  # of an epoch
    graph: jp.ChannelGraph
    share: float  # of its channels, what every group is to lose


class Sparsity(NamedTuple):
    """A way to train toward channels that can go.

    Attributes:
      strength: the default, on digits.
      optimizer: what it makes of SGD.
      score: (graph, variables) -> {group: f32[n]} once it has trained; the lowest go.
    """

    strength: float
    optimizer: Callable[[Given], Transform]
    score: Callable[[jp.ChannelGraph, Any], Mapping[str, Any]]


Front = Callable[[Given], Transform]


def _first(front: Front, given: Given) -> Transform:
    return optax.chain(front(given), given.sgd)


def _last(behind: Front, given: Given) -> Transform:
    return optax.chain(given.sgd, behind(given))


def _penalty(strength: float, front: Front, score: Any) -> Sparsity:
    return Sparsity(strength, partial(_first, front), score)


def _soft(
    strength: float, score: Any, masking: Masking = Masking.SOFT, ramp: bool = False
) -> Sparsity:
    """Pruning at the end of every epoch: what it chose is zero, so that norms tell it."""

    def zeroed(given: Given) -> Transform:
        share: Any = given.how.strength
        if ramp:
            share = jp.schedule.asymptotic(share, steps=given.how.epochs * given.steps)
        return jp.sparsify.soft_pruning(
            given.graph, score, prune_ratio=share, period=given.steps, masking=masking
        )

    return Sparsity(strength, partial(_last, zeroed), jp.scores.l2)


def _ssl(given: Given) -> Transform:
    """Filters and channels."""
    graph, strength = given.graph, given.how.strength
    return optax.chain(
        jp.sparsify.group_lasso(graph, strength),
        jp.sparsify.group_lasso(graph, strength, roles=("in",)),
    )


def _growl(given: Given) -> Transform:
    """By the proximal step; the largest norm weighs twice what the smallest does."""

    def prox(norms: Any, weight: Any) -> Any:
        weights = jp.sparsify.growl_weights(norms.size, base=1.0, step=1 / norms.size)
        return jp.sparsify.growl_prox(norms, weight * weights)

    return jp.sparsify.proximal_structured(
        given.graph,
        prox,
        learning_rate=given.how.learning_rate(given.how.epochs * given.steps),
        strength=given.how.strength,
        roles=("in",),
    )


def _compressed(projection: Callable[[float], Any], given: Given) -> Transform:
    return jp.sparsify.learning_compression(
        given.graph,
        projection(1 - given.share),
        strength=given.how.strength,
        period=given.steps,
    )


def _greg(given: Given, spread: float = 0.0) -> Transform:
    return growing(
        given.graph,
        keep_ratio=1 - given.share,
        delta=given.how.strength,
        period=5,
        spread=int(spread * given.how.epochs * given.steps),
    )


def _scales(graph: jp.ChannelGraph, params: Any) -> Any:
    return jp.scale_mask({"params": params}, graph)


def _slimming(given: Given) -> Transform:
    return optax.masked(jp.sparsify.l1_gates(given.how.strength), partial(_scales, given.graph))


def _sparse_kernels(given: Given) -> Transform:
    """On single weights, a hundredth of the strength, and on the filters."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    single = optax.masked(jp.sparsify.l1_gates(given.how.strength / 100), kernels)
    return optax.chain(single, jp.sparsify.group_lasso(given.graph, given.how.strength))


def _ista(given: Given) -> Transform:
    """Without momentum and weight decay for the scales; a channel costs its MACs."""

    def others(params: Any) -> Any:
        return jax.tree.map(lambda scale: not scale, _scales(given.graph, params))

    scales = jp.sparsify.ista(
        given.graph,
        jp.cost.channel_cost(given.graph),
        given.how.strength,
        learning_rate=given.how.learning_rate(given.how.epochs * given.steps),
    )
    return optax.chain(optax.masked(given.sgd, others), scales)


def _morphnet(given: Given) -> Transform:
    """With the strength of all MACs of the network."""
    return jp.sparsify.morphnet(given.graph, given.how.strength / jp.cost.macs(given.graph))


_IN = partial(jp.scores.channel_energy, roles=("in",))

_EACH, _ALL = jp.sparsify.largest_in_each, jp.sparsify.largest_of_all

SPARSITIES: Mapping[str, Sparsity] = MappingProxyType(
    {
        "sfp": _soft(0.2, jp.scores.l2),
        "fpgm": _soft(0.4, jp.scores.fpgm, Masking.HARD),
        "asfp": _soft(0.2, jp.scores.l2, ramp=True),
        "ssl": _penalty(2e-2, _ssl, jp.scores.channel_energy),
        "growl": Sparsity(0.2, partial(_last, _growl), _IN),
        "oicsr": _penalty(
            2e-2,
            lambda given: jp.sparsify.oicsr(given.graph, given.how.strength),
            jp.scores.channel_energy,
        ),
        "admm": _penalty(0.1, partial(_compressed, _EACH), jp.scores.l2),
        "lc": _penalty(0.1, partial(_compressed, _ALL), jp.scores.l2),
        "greg1": _penalty(2e-2, _greg, jp.scores.l1),
        "greg2": _penalty(2e-2, partial(_greg, spread=0.25), jp.scores.l1),
        "morphnet": _penalty(1.0, _morphnet, jp.sparsify.channel_sizes),
        "slimming": _penalty(1e-2, _slimming, jp.scores.bn_scale),
        "sparse_kernels": _penalty(2e-2, _sparse_kernels, jp.scores.channel_energy),
        "ista": Sparsity(0.3, _ista, jp.scores.bn_scale),
    }
)
"""Name -> the sparsity. The strength of `sfp`, `fpgm` and `asfp` is the share of the channels at
zero, of `admm` and `lc` the rho, of `greg1` and `greg2` what the decay grows by in five steps; else
it is the coefficient of the penalty. `fpgm` holds what it zeroed, as its code does.

Sources: sfp: He et al., "Soft Filter Pruning", IJCAI 2018. fpgm: He et al., "Filter Pruning via
Geometric Median", CVPR 2019. asfp: He et al., "Asymptotic Soft Filter Pruning", IEEE Transactions
on Cybernetics 2020. ssl: Wen et al., "Learning Structured Sparsity", NeurIPS 2016. growl: Zhang et
al., "Learning to Share", ICLR 2018. oicsr: Li et al., "OICSR", CVPR 2019. admm: Zhang et al., "A
Systematic DNN Weight Pruning Framework using ADMM", ECCV 2018, there of single weights. lc:
Carreira-Perpinan and Idelbayev, "Learning-Compression Algorithms", CVPR 2018. greg1, greg2: Wang et
al., "Neural Pruning via Growing Regularization", ICLR 2021. morphnet: Gordon et al., "MorphNet",
CVPR 2018, without the widening. slimming: Liu et al., "Network Slimming", ICCV 2017.
sparse_kernels: Liu et al., "Sparse Convolutional Neural Networks", CVPR 2015, without the change of
basis. ista: Ye et al., "Rethinking the Smaller-Norm-Less-Informative Assumption", ICLR 2018.
"""


def unknown(name: str) -> list[str]:
    """Returns what is wrong with a name on the command line, if anything is."""
    known = ", ".join(SPARSITIES)
    return [] if name in SPARSITIES else [f"method={name!r} is not one of {known}"]
