"""Scores of channels: functions that return {group: f32[n]}, where higher means keep."""

from jaxprune.scores.bn import bn_scale as bn_scale
from jaxprune.scores.norm import l1 as l1
from jaxprune.scores.norm import l2 as l2
from jaxprune.scores.random import random as random
