"""Scores come in; which channels stay, under floors, rounding and budgets, goes out."""

from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores
from jaxprune.select.priced import cost_regularized
from jaxprune.select.quota import members, share_of_left
from jaxprune.select.selectors import budget, global_ratio, per_group, threshold
from jaxprune.select.ties import Rule, exact_count, lua_author, pytorch_author

__all__ = [
    "Constraints",
    "Rule",
    "Scores",
    "budget",
    "cost_regularized",
    "exact_count",
    "global_ratio",
    "lua_author",
    "members",
    "per_group",
    "pytorch_author",
    "share_of_left",
    "threshold",
]
