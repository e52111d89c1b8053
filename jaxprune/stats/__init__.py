"""A graph, variables and batches come in; what the data says of every channel goes out.

`collect` measures several statistics in one pass, each where it looks (`At`):

    found = jp.stats.collect(
        graph, variables, batches,
        {"zeros": jp.stats.zero_share(), "slopes": jp.stats.mean_square(at=jp.stats.At.EXAMPLES)},
        loss=lambda logits, batch: cross_entropy(logits, batch[1]),
    )
    scores = jp.scores.fisher(graph, found["slopes"])

A statistic of your own is a `Statistic`; `collector` gives the pure functions for a loop of yours.
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
