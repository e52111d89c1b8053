"""A network comes in; the same network with gates on its channels, or taps of them, goes out."""

from jaxprune.gates.bn import Decorated as Decorated
from jaxprune.gates.bn import decorate as decorate
from jaxprune.gates.bn import melt as melt
from jaxprune.gates.units import fold as fold
from jaxprune.gates.units import gated as gated
from jaxprune.gates.units import refused as refused
from jaxprune.gates.units import tap as tap
from jaxprune.gates.units import unit as unit
