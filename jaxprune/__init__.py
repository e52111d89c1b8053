"""Structured pruning for JAX: trace, score, cut, and hand back a smaller network."""

from jaxprune import (
    errors,
    gates,
    haiku,
    keras,
    linen,
    nnx,
    plan,
    recover,
    schedule,
    scores,
    select,
    slimmable,
    sparsify,
    stats,
)
from jaxprune.arguments.absent_names import absent as _absent
from jaxprune.arguments.bounds import Absolute, Share
from jaxprune.checkpoint import Restored, open_variables, restore, save, slice_stored
from jaxprune.cutting.optimizer_state import slice_opt_state
from jaxprune.cutting.pruned import Pruned
from jaxprune.cutting.transforms import mask, unslice
from jaxprune.gates import gated, tap
from jaxprune.graph import ChannelGraph, Group, Slot
from jaxprune.groups.interior import interior
from jaxprune.groups.kinds import Kind, kinds, of_kind
from jaxprune.inspecting import cost
from jaxprune.inspecting.batch_norms import batch_norms, scale_mask
from jaxprune.inspecting.branches import Branch, branches
from jaxprune.inspecting.check_spec import check_spec
from jaxprune.inspecting.compose import compose
from jaxprune.inspecting.cost import latency
from jaxprune.inspecting.draw import draw
from jaxprune.inspecting.explain import explain
from jaxprune.inspecting.spec import keep_from_spec, spec
from jaxprune.keep.check import widths
from jaxprune.keep.reindexing import reindex, reindexed
from jaxprune.program import spaces
from jaxprune.program.rules import RULES, Rule
from jaxprune.program.stream_readers import select_inputs
from jaxprune.pruning.compare import compare
from jaxprune.pruning.prune import prune
from jaxprune.pruning.slice import slice
from jaxprune.running.export import export
from jaxprune.running.masked import masked
from jaxprune.running.narrow import narrow
from jaxprune.running.resize import resize
from jaxprune.running.verify import Verification, verify
from jaxprune.tracing.trace import trace

__all__ = [
    "RULES",
    "Absolute",
    "Branch",
    "ChannelGraph",
    "Group",
    "Kind",
    "Pruned",
    "Restored",
    "Rule",
    "Share",
    "Slot",
    "Verification",
    "batch_norms",
    "branches",
    "check_spec",
    "compare",
    "compose",
    "cost",
    "draw",
    "errors",
    "explain",
    "export",
    "gated",
    "gates",
    "haiku",
    "interior",
    "keep_from_spec",
    "keras",
    "kinds",
    "latency",
    "linen",
    "mask",
    "masked",
    "narrow",
    "nnx",
    "of_kind",
    "open_variables",
    "plan",
    "prune",
    "recover",
    "reindex",
    "reindexed",
    "resize",
    "restore",
    "save",
    "scale_mask",
    "schedule",
    "scores",
    "select",
    "select_inputs",
    "slice",
    "slice_opt_state",
    "slice_stored",
    "slimmable",
    "spaces",
    "sparsify",
    "spec",
    "stats",
    "tap",
    "trace",
    "unslice",
    "verify",
    "widths",
]

__version__ = "0.1.0"

_PRUNE = "jp.linen.prune, jp.nnx.prune and jp.keras.prune take a model, jp.prune a function"
_COSTS = "jp.cost.macs(graph), jp.cost.params(graph); one multiply-accumulate is two FLOPs"

__getattr__ = _absent(
    "jaxprune",
    renamed={
        "axes": "jp.spaces",
    },
    expected={
        "load": ("jp.restore(path), of what jp.save wrote", "howto/linen"),
        "load_checkpoint": ("jp.restore(path), of what jp.save wrote", "howto/linen"),
        "Pruner": (_PRUNE, "start"),
        "prune_model": (_PRUNE, "start"),
        "prune_params": ("jp.slice(graph, variables, keep)", "start"),
        "cut": ("jp.slice(graph, variables, keep)", "start"),
        "apply_mask": ("jp.mask(graph, variables, keep)", "concepts/executions"),
        "flops": (_COSTS, "concepts/costs"),
        "macs": (_COSTS, "concepts/costs"),
        "params": (_COSTS, "concepts/costs"),
        "count_params": (_COSTS, "concepts/costs"),
        "budget": ("jp.select.budget(graph, scores, keep_macs=0.5)", "howto/budgets"),
        "l1": ("jp.scores.l1(graph, variables)", "choosing"),
        "l2": ("jp.scores.l2(graph, variables)", "choosing"),
        "finetune": ("a training loop of yours, from the variables of the cut", "howto/linen"),
        "equinox": ("jp.trace, jp.slice and jp.resize take functions of them", "howto/equinox"),
        "flax": ("jp.linen, or jp.nnx", "howto/index"),
        "torch": ("none: this library prunes JAX functions", "comparison"),
    },
)
