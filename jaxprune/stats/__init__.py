"""A graph, variables and batches come in; what the data says of every channel goes out.

`collect` measures several statistics in one pass, each where it looks (`At`):

    found = jp.stats.collect(
        graph, variables, batches,
        {"zeros": jp.stats.zero_share(), "slopes": jp.stats.mean_square(at=jp.stats.At.EXAMPLES)},
        loss=lambda logits, batch: cross_entropy(logits, batch[1]),
    )
    scores = jp.scores.fisher(graph, found["slopes"])

A statistic of your own is a `Statistic`; `collector` gives the pure functions for a loop of yours.

All of them in one pass:

>>> import jax, jaxprune as jp
>>> from jaxprune import stats
>>> keys = jax.random.split(jax.random.key(0), 4)
>>> v = {"a": jax.random.normal(keys[0], (5, 4)), "b": jax.random.normal(keys[1], (4, 3))}
>>> x, y = jax.random.normal(keys[2], (32, 5)), jax.random.normal(keys[3], (32, 3))
>>> fn = lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"]
>>> graph = jp.trace(fn, v, x)
>>> sums = [stats.count, stats.sum, stats.mean, stats.mean_size, stats.mean_square, stats.maximum]
>>> sums += [stats.extremes, stats.moments, stats.sum_of_squares, stats.zero_share]
>>> norms = [stats.activation_norm, stats.weighted_norm, stats.weighted_variance]
>>> rows = [stats.covariance, stats.gram, stats.contributions, stats.removal_costs]
>>> curves = [stats.fisher, stats.gauss_newton, stats.hutchinson]
>>> wanted = {each.__name__: each() for each in [*sums, *norms, *rows, *curves]}
>>> wanted["histogram"] = stats.histogram(bins=8, range=(0.0, 4.0))
>>> loss = lambda outputs, batch: ((outputs - batch[1]) ** 2).mean()
>>> found = stats.collect(graph, v, [(x, y)], wanted, loss=loss)
>>> found["count"]["a"].tolist(), found["contributions"]["a"].shape
([32.0, 32.0, 32.0, 32.0], (4, 4))

The same for a loop of yours:

>>> tools = stats.collector(graph, {"mean": stats.mean()})
>>> state, update = tools.init(v, x), jax.jit(tools.update)
>>> for batch in (x[:16], x[16:]):
...     state = update(state, v, batch)
>>> bool(abs(tools.finalize(state)["mean"]["a"] - found["mean"]["a"]).max() < 1e-5)
True
"""

from jaxprune.stats.collecting import Collector, collect, collector
from jaxprune.stats.curvatures import By, Curvature, Problem, fisher, gauss_newton, hutchinson
from jaxprune.stats.experts import ExpertUse, expert_use
from jaxprune.stats.grams import Covariance, Gram, contributions, covariance, gram
from jaxprune.stats.histograms import Histogram, histogram
from jaxprune.stats.norms import (
    Aggregate,
    activation_norm,
    average,
    euclidean,
    weighted_norm,
    weighted_variance,
)
from jaxprune.stats.readings import Reading
from jaxprune.stats.refitted import removal_costs
from jaxprune.stats.states import State
from jaxprune.stats.statistic import At, Rows, Statistic
from jaxprune.stats.sums import (
    Moments,
    count,
    extremes,
    maximum,
    mean,
    mean_size,
    mean_square,
    moments,
    sum,
    sum_of_squares,
    zero_share,
)

__all__ = [
    "Aggregate",
    "At",
    "By",
    "Collector",
    "Covariance",
    "Curvature",
    "ExpertUse",
    "Gram",
    "Histogram",
    "Moments",
    "Problem",
    "Reading",
    "Rows",
    "State",
    "Statistic",
    "activation_norm",
    "average",
    "collect",
    "collector",
    "contributions",
    "count",
    "covariance",
    "euclidean",
    "expert_use",
    "extremes",
    "fisher",
    "gauss_newton",
    "gram",
    "histogram",
    "hutchinson",
    "maximum",
    "mean",
    "mean_size",
    "mean_square",
    "moments",
    "removal_costs",
    "sum",
    "sum_of_squares",
    "weighted_norm",
    "weighted_variance",
    "zero_share",
]
