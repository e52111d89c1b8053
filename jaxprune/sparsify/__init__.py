"""Updates come in; updates that drive channels toward zero go out, as Optax transforms."""

from jaxprune.sparsify.accelerated_gates import AcceleratedState, accelerated_l1_gates
from jaxprune.sparsify.channel_norms import structured
from jaxprune.sparsify.compression import CompressionState, compressed, learning_compression
from jaxprune.sparsify.cost_weighted import channel_sizes, morphnet
from jaxprune.sparsify.costly_scales import ista
from jaxprune.sparsify.filters_at_zero import soft_mask
from jaxprune.sparsify.fold import fold_batch_norm
from jaxprune.sparsify.gates import l1_gates
from jaxprune.sparsify.global_gates import GlobalGates, gdp
from jaxprune.sparsify.growing_strengths import (
    GrowingState,
    everywhere,
    growing_decay,
    weak_first,
    weighted_decay,
)
from jaxprune.sparsify.l1 import l1_bn_scale
from jaxprune.sparsify.ordered_norms import growl, growl_prox, growl_weights
from jaxprune.sparsify.out_in_channels import group_lasso, oicsr
from jaxprune.sparsify.penalty import PenaltyState
from jaxprune.sparsify.projections import largest_in_each, largest_of_all, norm_ball
from jaxprune.sparsify.proximal import proximal_l1_bn_scale
from jaxprune.sparsify.proximal_channel_norms import proximal_structured
from jaxprune.sparsify.rescaled_scales import rescale_scales
from jaxprune.sparsify.sections import depth, entries, shapes
from jaxprune.sparsify.smooth_l1 import smooth_l1_bn_scale
from jaxprune.sparsify.zeroed_every_period import Masking, SoftPruningState, soft_pruning

__all__ = [
    "AcceleratedState",
    "CompressionState",
    "GlobalGates",
    "GrowingState",
    "Masking",
    "PenaltyState",
    "SoftPruningState",
    "accelerated_l1_gates",
    "channel_sizes",
    "compressed",
    "depth",
    "entries",
    "everywhere",
    "fold_batch_norm",
    "gdp",
    "group_lasso",
    "growing_decay",
    "growl",
    "growl_prox",
    "growl_weights",
    "ista",
    "l1_bn_scale",
    "l1_gates",
    "largest_in_each",
    "largest_of_all",
    "learning_compression",
    "morphnet",
    "norm_ball",
    "oicsr",
    "proximal_l1_bn_scale",
    "proximal_structured",
    "rescale_scales",
    "shapes",
    "smooth_l1_bn_scale",
    "soft_mask",
    "soft_pruning",
    "structured",
    "weak_first",
    "weighted_decay",
]
