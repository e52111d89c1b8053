"""A problem (scores, ladders of widths, bounds) comes in; an allocation of widths goes out."""

from jaxprune.plan.allocation import Allocation, Decision
from jaxprune.plan.expansion import Expansion, expand
from jaxprune.plan.integer_program import milp
from jaxprune.plan.problems import Choice, Limit, Problem, problem

__all__ = [
    "Allocation",
    "Choice",
    "Decision",
    "Expansion",
    "Limit",
    "Problem",
    "expand",
    "milp",
    "problem",
]
