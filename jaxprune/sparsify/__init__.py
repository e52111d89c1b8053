"""Optax transforms that drive channels toward zero during training."""

from jaxprune.sparsify._penalty import PenaltyState as PenaltyState
from jaxprune.sparsify.fold import fold_batch_norm as fold_batch_norm
from jaxprune.sparsify.gates import l1_gates as l1_gates
from jaxprune.sparsify.growl import growl as growl
from jaxprune.sparsify.growl import growl_prox as growl_prox
from jaxprune.sparsify.growl import growl_weights as growl_weights
from jaxprune.sparsify.l1 import l1_bn_scale as l1_bn_scale
from jaxprune.sparsify.oicsr import group_lasso as group_lasso
from jaxprune.sparsify.oicsr import oicsr as oicsr
from jaxprune.sparsify.proximal import proximal_l1_bn_scale as proximal_l1_bn_scale
from jaxprune.sparsify.proximal_structured import proximal_structured as proximal_structured
from jaxprune.sparsify.smooth_l1 import smooth_l1_bn_scale as smooth_l1_bn_scale
from jaxprune.sparsify.structured import structured as structured
