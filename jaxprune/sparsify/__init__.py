"""Updates come in; updates that drive channels toward zero go out, as Optax transforms."""

from jaxprune.sparsify.channel_norms import structured as structured
from jaxprune.sparsify.fold import fold_batch_norm as fold_batch_norm
from jaxprune.sparsify.gates import l1_gates as l1_gates
from jaxprune.sparsify.l1 import l1_bn_scale as l1_bn_scale
from jaxprune.sparsify.ordered_norms import growl as growl
from jaxprune.sparsify.ordered_norms import growl_prox as growl_prox
from jaxprune.sparsify.ordered_norms import growl_weights as growl_weights
from jaxprune.sparsify.out_in_channels import group_lasso as group_lasso
from jaxprune.sparsify.out_in_channels import oicsr as oicsr
from jaxprune.sparsify.penalty import PenaltyState as PenaltyState
from jaxprune.sparsify.proximal import proximal_l1_bn_scale as proximal_l1_bn_scale
from jaxprune.sparsify.proximal_channel_norms import proximal_structured as proximal_structured
from jaxprune.sparsify.smooth_l1 import smooth_l1_bn_scale as smooth_l1_bn_scale
