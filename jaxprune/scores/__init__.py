"""A graph and variables come in; scores of channels, {group: f32[n]}, higher means keep, go out.

They are f32[layers, n] for a group whose stacked layers have their own channels, and f64 where the
variables are. Complex weights count by their modulus, integers by their size. A score that covers
no group at all is an error. `normalized` makes them comparable between groups.
"""

from jaxprune.scores.bn import bn_scale as bn_scale
from jaxprune.scores.energy import channel_energy as channel_energy
from jaxprune.scores.norm import l1 as l1
from jaxprune.scores.norm import l2 as l2
from jaxprune.scores.normalizing import euclidean as euclidean
from jaxprune.scores.normalizing import lamp as lamp
from jaxprune.scores.normalizing import max as max
from jaxprune.scores.normalizing import mean as mean
from jaxprune.scores.normalizing import min_max as min_max
from jaxprune.scores.normalizing import none as none
from jaxprune.scores.normalizing import normalized as normalized
from jaxprune.scores.normalizing import standard as standard
from jaxprune.scores.normalizing import sum as sum
from jaxprune.scores.taylor import taylor as taylor
from jaxprune.scores.taylor import taylor_activation as taylor_activation
from jaxprune.scores.taylor import taylor_bn as taylor_bn
from jaxprune.scores.taylor import taylor_gate as taylor_gate
from jaxprune.scores.uninformed import random as random
