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
| `fpgm`, `redundancy` of `filter_similarity` | | | | 0, n^2 K where they are | kernels |
| `kmeans` | | | | 0, n^2 K where they are, n^2 k a step on the host | kernels |
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

All of them on one small network, but those of BatchNorm, which have examples of their own. Of
weights:

>>> import jax, jax.numpy as jnp, jaxprune as jp
>>> from jaxprune import scores, stats
>>> keys = jax.random.split(jax.random.key(0), 4)
>>> v = {"a": jax.random.normal(keys[0], (5, 4)), "b": jax.random.normal(keys[1], (4, 3))}
>>> x, y = jax.random.normal(keys[2], (32, 5)), jax.random.normal(keys[3], (32, 3))
>>> fn = lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"]
>>> graph = jp.trace(fn, v, x)
>>> found = [scores.l1(graph, v, reduce=scores.first), scores.l2(graph, v, reduce=scores.last)]
>>> found += [scores.channel_energy(graph, v), scores.fpgm(graph, v)]
>>> found += [scores.redundancy(graph, scores.filter_similarity(graph, v))]
>>> found += [scores.random(graph, keys[0]), scores.nisp(graph, v, {"a": jnp.ones(4)})]

Of activations, and of gradients by gates, in one pass over the data:

>>> loss = lambda outputs, batch: ((outputs - batch[1]) ** 2).mean()
>>> gates, examples = stats.At.GATES, stats.At.EXAMPLES
>>> wanted = {"zeros": stats.zero_share(), "mean": stats.mean(), "norm": stats.activation_norm()}
>>> wanted |= {"bins": stats.histogram(bins=8, range=(0.0, 4.0)), "by_w": stats.weighted_norm()}
>>> wanted |= {"z": stats.contributions(), "costs": stats.removal_costs()}
>>> wanted |= {"slope": stats.mean(at=gates), "square": stats.mean_square(at=gates)}
>>> wanted |= {"sum": stats.sum(at=gates), "each": stats.mean_square(at=examples)}
>>> wanted |= {"h": stats.hutchinson(), "h_w": stats.fisher(by=stats.By.WEIGHTS)}
>>> data = stats.collect(graph, v, [(x, y)], wanted, loss=loss)
>>> found += [scores.apoz(graph, data["zeros"]), scores.mean_activation(graph, data["mean"])]
>>> found += [scores.activation_norm(graph, data["norm"]), scores.wanda(graph, data["by_w"])]
>>> found += [scores.entropy(graph, data["bins"]), scores.obs(graph, data["costs"])]
>>> found += [scores.thinet(graph, data["z"]), scores.lasso(graph, data["z"])]
>>> found += [scores.taylor_squared(graph, data["square"]), scores.fisher(graph, data["each"])]
>>> found += [scores.taylor_second_order(graph, data["slope"], data["h"])]
>>> found += [scores.obd(graph, v, data["h_w"]), scores.obd_gates(graph, data["h"])]
>>> found += [scores.snip(graph, data["sum"])]

Of gradients of your own:

>>> gradients = jax.grad(lambda v: loss(fn(v, x), (x, y)))(v)
>>> found += [scores.taylor(graph, v, gradients), scores.taylor_members(graph, v, gradients)]
>>> run = jp.gated(fn, graph)
>>> one = lambda g, x, y: loss(run(v, g, x[None]), (x, y[None]))
>>> slopes = jax.vmap(jax.grad(one), (None, 0, 0))(jp.gates.unit(graph), x, y)
>>> found += [scores.taylor_activation(graph, slopes)]
>>> len(found), {score["a"].shape for score in found}
(24, {(4,)})

Normalizers, for one order over all groups:

>>> ways = [scores.euclidean, scores.max, scores.mean, scores.min_max, scores.none, scores.sum]
>>> {scores.normalized(found[0], by=way)["a"].shape for way in ways}
{(4,)}

And experts behind a router, by the tokens that reach them:

>>> v = {"router": jnp.eye(2), "up": jnp.ones((2, 2, 3)), "down": jnp.ones((2, 3, 1))}
>>> def mixture(v, x):
...     weight, chosen = jax.lax.top_k(jax.nn.softmax(x @ v["router"]), 1)
...     hidden = jnp.einsum("td,tdh->th", x, v["up"][chosen[:, 0]])
...     return weight * jnp.einsum("th,thd->td", hidden, v["down"][chosen[:, 0]])
>>> tokens = jnp.array([[1.0, 0.0], [3.0, 0.0]])
>>> graph = jp.trace(mixture, v, tokens)
>>> use = stats.expert_use(graph, v, [tokens])
>>> found = [scores.expert_frequency(graph, use), scores.expert_gates(graph, use)]
>>> found += [scores.reap(graph, use)]
>>> [[round(float(x), 2) for x in score["router"]] for score in found]
[[1.0, 0.0], [1.0, 0.0], [5.38, 0.0]]
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
