"""Updates come in; updates that drive channels toward zero go out, as Optax transforms."""

from jaxprune.sparsify.channel_norms import structured
from jaxprune.sparsify.cost_weighted import channel_sizes, morphnet
from jaxprune.sparsify.fold import fold_batch_norm
from jaxprune.sparsify.gates import l1_gates
from jaxprune.sparsify.global_gates import GlobalGates, gated_filters, gdp
from jaxprune.sparsify.l1 import l1_bn_scale
from jaxprune.sparsify.ordered_norms import growl, growl_prox, growl_weights
from jaxprune.sparsify.out_in_channels import group_lasso, oicsr
from jaxprune.sparsify.penalty import PenaltyState
from jaxprune.sparsify.proximal import proximal_l1_bn_scale
from jaxprune.sparsify.proximal_channel_norms import proximal_structured
from jaxprune.sparsify.smooth_l1 import smooth_l1_bn_scale

__all__ = [
    "GlobalGates",
    "PenaltyState",
    "channel_sizes",
    "fold_batch_norm",
    "gated_filters",
    "gdp",
    "group_lasso",
    "growl",
    "growl_prox",
    "growl_weights",
    "l1_bn_scale",
    "l1_gates",
    "morphnet",
    "oicsr",
    "proximal_l1_bn_scale",
    "proximal_structured",
    "smooth_l1_bn_scale",
    "structured",
]
