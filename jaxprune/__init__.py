"""Structured pruning for JAX: trace, score, cut, and hand back a smaller network."""

from jaxprune import axes as axes
from jaxprune import cost as cost
from jaxprune import errors as errors
from jaxprune import gates as gates
from jaxprune import linen as linen
from jaxprune import nnx as nnx
from jaxprune import recover as recover
from jaxprune import schedule as schedule
from jaxprune import scores as scores
from jaxprune import select as select
from jaxprune import slimmable as slimmable
from jaxprune import sparsify as sparsify
from jaxprune.batchnorm import batch_norms as batch_norms
from jaxprune.batchnorm import scale_mask as scale_mask
from jaxprune.checkpoint import Restored as Restored
from jaxprune.checkpoint import restore as restore
from jaxprune.checkpoint import save as save
from jaxprune.compose import compose as compose
from jaxprune.cost import latency as latency
from jaxprune.draw import draw as draw
from jaxprune.export import export as export
from jaxprune.gates import gated as gated
from jaxprune.gates import tap as tap
from jaxprune.graph import ChannelGraph as ChannelGraph
from jaxprune.graph import Group as Group
from jaxprune.graph import Slot as Slot
from jaxprune.graph import trace as trace
from jaxprune.interior import interior as interior
from jaxprune.masks import keep_from_spec as keep_from_spec
from jaxprune.masks import mask as mask
from jaxprune.masks import slice as slice
from jaxprune.masks import spec as spec
from jaxprune.masks import unslice as unslice
from jaxprune.masks import widths as widths
from jaxprune.narrow import narrow as narrow
from jaxprune.opt_state import slice_opt_state as slice_opt_state
from jaxprune.report import compare as compare
from jaxprune.report import explain as explain
from jaxprune.resize import resize as resize
from jaxprune.rules import RULES as RULES
from jaxprune.rules import Rule as Rule
from jaxprune.streams import select_inputs as select_inputs
from jaxprune.verify import Verification as Verification
from jaxprune.verify import verify as verify

__version__ = "0.1.0"
