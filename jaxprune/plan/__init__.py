"""A problem (scores, ladders of widths, bounds) comes in; an allocation of widths goes out."""

from jaxprune.plan.accuracy_slack import play_and_prune
from jaxprune.plan.allocation import Allocation, Decision
from jaxprune.plan.energy_order import energy_aware
from jaxprune.plan.equal_damage import sensitivity
from jaxprune.plan.evaluators import Evaluator, divergence, evaluator
from jaxprune.plan.expansion import Expansion, expand
from jaxprune.plan.integer_program import milp
from jaxprune.plan.level_swaps import evolution, random_search
from jaxprune.plan.one_factor import uniform
from jaxprune.plan.pictures import plot
from jaxprune.plan.problems import Choice, Limit, Problem, problem
from jaxprune.plan.proposals import netadapt, rise_alone, rise_per_cost
from jaxprune.plan.reinforcement import amc
from jaxprune.plan.replacements import Curves, replace_one
from jaxprune.plan.samplers import optuna_search

__all__ = [
    "Allocation",
    "Choice",
    "Curves",
    "Decision",
    "Evaluator",
    "Expansion",
    "Limit",
    "Problem",
    "amc",
    "divergence",
    "energy_aware",
    "evaluator",
    "evolution",
    "expand",
    "milp",
    "netadapt",
    "optuna_search",
    "play_and_prune",
    "plot",
    "problem",
    "random_search",
    "replace_one",
    "rise_alone",
    "rise_per_cost",
    "sensitivity",
    "uniform",
]
