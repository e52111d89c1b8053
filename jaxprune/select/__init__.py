"""Scores come in; which channels stay, under floors, rounding and budgets, goes out."""

from jaxprune.arguments.absent_names import absent as _absent
from jaxprune.groups.array_widths import ArrayWidth
from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores
from jaxprune.select.alone import sensitivity
from jaxprune.select.greedy_depth import depth
from jaxprune.select.nearest_experts import experts
from jaxprune.select.priced import cost_regularized
from jaxprune.select.quota import members, of_remaining
from jaxprune.select.selectors import budget, global_ratio, per_group, threshold
from jaxprune.select.ties import Ties, exact_count, lua_author, pytorch_author

__all__ = [
    "ArrayWidth",
    "Constraints",
    "Scores",
    "Ties",
    "budget",
    "cost_regularized",
    "depth",
    "exact_count",
    "experts",
    "global_ratio",
    "lua_author",
    "members",
    "of_remaining",
    "per_group",
    "pytorch_author",
    "sensitivity",
    "threshold",
]

__getattr__ = _absent(
    "jaxprune.select",
    {
        "exact": "exact_count; lua_author is the rule of prune.lua",
        "Rule": "jp.select.Ties; the argument is ties=",
        "share_of_left": "jp.select.of_remaining(..., prune_ratio=0.01)",
    },
)
