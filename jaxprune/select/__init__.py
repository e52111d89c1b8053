"""Scores come in; which channels stay, under floors, rounding and budgets, goes out."""

from jaxprune.groups.constraints import Constraints as Constraints
from jaxprune.groups.scored import Scores as Scores
from jaxprune.select.priced import cost_regularized as cost_regularized
from jaxprune.select.quota import members as members
from jaxprune.select.quota import share_of_left as share_of_left
from jaxprune.select.selectors import budget as budget
from jaxprune.select.selectors import global_ratio as global_ratio
from jaxprune.select.selectors import per_group as per_group
from jaxprune.select.selectors import threshold as threshold
from jaxprune.select.ties import Rule as Rule
from jaxprune.select.ties import exact_count as exact_count
from jaxprune.select.ties import lua_author as lua_author
from jaxprune.select.ties import pytorch_author as pytorch_author
