"""Optax transforms that drive channels toward zero during training."""

from jaxprune.sparsify.l1 import L1BNScaleState as L1BNScaleState
from jaxprune.sparsify.l1 import l1_bn_scale as l1_bn_scale
