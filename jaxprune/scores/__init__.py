"""A graph and variables come in; scores of channels, {group: f32[n]}, higher means keep, go out.

They are f32[layers, n] for a group whose stacked layers have their own channels, and f64 where the
variables are. Complex weights count by their modulus, integers by their size. A score that covers
no group at all is an error. `normalized` makes them comparable between groups, `composite` and
`quotas` mix them.

What each needs, its cost in forward passes of all the data (a gradient is about three), and what it
equals exactly; all others are estimates of their own kind. The data come by `jp.stats.collect`, all
in one pass, or as gradients of your own step.

| score | data | labels | gradients | cost | exact |
|---|---|---|---|---|---|
| `l1`, `l2`, `channel_energy`, `bn_scale`, `random` | | | | 0 | norms of any slots |
| `fpgm`, `redundancy` of `filter_similarity` | | | | 0, n^2 K on the host | kernels |
| `kmeans` | | | | 0, n k K a step on the host | kernels |
| `redundancy` of `stats.covariance` | yes | | | 1 | of equal activations one stays |
| `nisp` | | | | 0, a gradient at the traced batch | dense, conv, pooling, BatchNorm, sums |
| `apoz`, `entropy`, `mean_activation` | yes | | | 1 | any group that is read |
| `activation_norm` | yes | | | 1, examples apart | any group that is read |
| `wanda` | yes | | | 1 | groups that a kernel reads |
| `thinet`, `lasso` | yes | | | 1, and K^2 a row | the error of the readers' outputs |
| `obs` | yes | | | 1, K^2 a row and K^3 on the host | outputs of readers, refitted, at damping 0 |
| `taylor`, `taylor_bn`, `taylor_gate` | yes | yes | by weights | 3 | dL/dm of a group |
| `taylor_members` | yes | yes | by weights | 3 | dL/dm of each member |
| `taylor_activation`, `fisher` | yes | yes | by gates, per example | 2 to 3 | dL/dm of an example |
| `taylor_squared`, `snip` | yes | yes | by gates | 2 to 3 | dL/dm of a batch |
| `taylor_second_order`, `obd_gates` | yes | yes | by gates, twice | 6 a probe | in expectation |
| `obd` | yes | yes | by weights, twice or per example | 6 a probe | the diagonal alone |
| `expert_frequency`, `expert_gates`, `reap` | yes | | | 1, and 2 layers an expert | what it adds |
| `jp.recover.obs`, `lasso`, which also change the readers | yes | | | 1 | their problem |
| `jp.recover.dcp`, which trains them | yes | yes | of readers | 6 a kept channel | |
"""

from jaxprune.scores.activations import activation_norm, apoz, entropy, mean_activation, wanda
from jaxprune.scores.bn import bn_scale
from jaxprune.scores.branches import block_influence, removal_loss, taylor_branch
from jaxprune.scores.clusters import kmeans
from jaxprune.scores.energy import channel_energy
from jaxprune.scores.experts import expert_frequency, expert_gates, reap
from jaxprune.scores.first_order import (
    taylor,
    taylor_activation,
    taylor_bn,
    taylor_gate,
)
from jaxprune.scores.mixing import composite, quotas
from jaxprune.scores.norm import l1, l2
from jaxprune.scores.normalizing import (
    euclidean,
    lamp,
    max,
    mean,
    min_max,
    none,
    normalized,
    sentinel,
    standard,
    sum,
)
from jaxprune.scores.propagated import inf_fs, nisp
from jaxprune.scores.reducing import first, last
from jaxprune.scores.removal import lasso, obs, thinet
from jaxprune.scores.second_order import (
    fisher,
    obd,
    obd_gates,
    snip,
    taylor_members,
    taylor_second_order,
    taylor_squared,
)
from jaxprune.scores.similarity import (
    filter_similarity,
    fpgm,
    redundancy,
)
from jaxprune.scores.uninformed import random

__all__ = [
    "activation_norm",
    "apoz",
    "block_influence",
    "bn_scale",
    "channel_energy",
    "composite",
    "entropy",
    "euclidean",
    "expert_frequency",
    "expert_gates",
    "filter_similarity",
    "first",
    "fisher",
    "fpgm",
    "inf_fs",
    "kmeans",
    "l1",
    "l2",
    "lamp",
    "lasso",
    "last",
    "max",
    "mean",
    "mean_activation",
    "min_max",
    "nisp",
    "none",
    "normalized",
    "obd",
    "obd_gates",
    "obs",
    "quotas",
    "random",
    "reap",
    "redundancy",
    "removal_loss",
    "sentinel",
    "snip",
    "standard",
    "sum",
    "taylor",
    "taylor_activation",
    "taylor_bn",
    "taylor_branch",
    "taylor_gate",
    "taylor_members",
    "taylor_second_order",
    "taylor_squared",
    "thinet",
    "wanda",
]
