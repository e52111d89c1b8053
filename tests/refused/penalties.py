"""The rows of `sparsify`."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from refused.rows import ABSENT, REDUCE, ROLES, Row
from refused.values import (
    CALLABLES,
    COUNTS,
    FLAGS,
    ONLY,
    PARAMS,
    PROTECT,
    RATIOS,
    STRENGTHS,
    VARIABLES,
    Arg,
    G,
    K,
    X,
    apply,
    bad,
    without,
)

sp = jp.sparsify

MASK = jp.scale_mask(VARIABLES)
STRENGTH = Arg(1e-3, STRENGTHS, "strength")
RATE = Arg(0.1, STRENGTHS, "learning_rate")
SLOPES = jax.tree.map(jnp.ones_like, PARAMS)
UPDATES = Arg(
    SLOPES,
    bad(None, 3, "tree", {"a": X}, [X]) | {"strings": jax.tree.map(lambda _: "x", PARAMS)},
    "updates|gradients|tree|parameters",
)
PARAMETERS = Arg(
    PARAMS,
    bad(3, "tree", {"a": X}, [X]) | {"strings": jax.tree.map(lambda _: "x", PARAMS)},
    "parameters|tree",
)
PRICE = Arg(jp.cost.macs, bad(None, 3, "macs", apply, jp.cost.active_params), "cost|closed form")
STATES = Arg(None, bad(3, "state", {}, ()), "state")
MASKS = Arg(
    MASK,
    bad(3, "mask", {"a": True}, [True])
    | {
        "numbers": jax.tree.map(lambda _: 3, PARAMS),
        "strings": jax.tree.map(lambda _: "x", PARAMS),
    },
    "mask",
)
MASKED = {"strength": STRENGTH, "mask": MASKS}
GROUPS = {
    "size_norm": Arg(False, FLAGS, "size_norm"),
    "view": Arg(
        lambda params, _: params,
        without(CALLABLES, "None"),
        "view",
    ),
    "only": ONLY,
    "protect": PROTECT,
    "protct": Arg(ABSENT, bad(["a/kernel"], None), "protect"),
    "within": Arg(ABSENT, bad({}), "option"),
}
UPDATED = {"updates": UPDATES, "params": PARAMETERS, "state": STATES}


def stepped(make: Any) -> Any:
    """The call that makes a transformation, initializes it and updates with it."""

    def call(updates: Any, params: Any, state: Any, **kwargs: Any) -> Any:
        tx = make(**kwargs)
        return tx.update(updates, tx.init(params) if state is None else state, params)

    return call


def row(make: Any, **args: Arg) -> Row:
    return Row(stepped(make), {**args, **UPDATED})


ROWS: dict[str, Row] = {
    "sparsify.l1_bn_scale": row(sp.l1_bn_scale, **MASKED),
    "sparsify.smooth_l1_bn_scale": row(
        sp.smooth_l1_bn_scale, **MASKED, width=Arg(0.1, STRENGTHS | bad(0), "width")
    ),
    "sparsify.proximal_l1_bn_scale": row(sp.proximal_l1_bn_scale, **MASKED, learning_rate=RATE),
    "sparsify.l1_gates": row(sp.l1_gates, strength=STRENGTH, mask=MASKS),
    "sparsify.oicsr": row(
        sp.oicsr,
        graph=G,
        strength=STRENGTH,
        **GROUPS,
        roles=Arg(ABSENT, bad(("out",)), "option"),
    ),
    "sparsify.group_lasso": row(
        sp.group_lasso,
        graph=G,
        strength=STRENGTH,
        roles=ROLES._replace(bad={**ROLES.bad, "vector": ("vector",)}),
        **GROUPS,
    ),
    "sparsify.structured": row(
        sp.structured,
        graph=G,
        penalty=Arg(jnp.sum, CALLABLES, "penalty"),
        strength=STRENGTH,
        roles=ROLES,
        **GROUPS,
    ),
    "sparsify.proximal_structured": row(
        sp.proximal_structured,
        graph=G,
        prox=Arg(lambda n, t: jnp.maximum(n - t, 0), CALLABLES, "prox"),
        learning_rate=RATE,
        strength=STRENGTH,
        roles=ROLES,
        only=ONLY,
        protect=PROTECT,
    ),
    "sparsify.morphnet": row(
        sp.morphnet,
        graph=G,
        strength=STRENGTH,
        price=PRICE,
        threshold=Arg(0.01, STRENGTHS, "threshold"),
        reduce=REDUCE,
        only=ONLY,
        protect=PROTECT,
    ),
    "sparsify.channel_sizes": Row(
        sp.channel_sizes, {"graph": G, "params": PARAMETERS, "reduce": REDUCE}
    ),
    "sparsify.gdp": row(
        sp.gdp,
        graph=G,
        prune_ratio=Arg(0.5, without(RATIOS, "1.0", "None") | bad(None, {}), "prune_ratio"),
        period=Arg(1, COUNTS, "period"),
        only=ONLY,
        protect=PROTECT,
    ),
    "sparsify.gated_filters": Row(
        sp.gated_filters,
        {
            "graph": G,
            "params": PARAMETERS,
            "keep": K._replace(bad=without(K.bad, "{a: all False}", "{a: all False, jax}")),
        },
    ),
    "sparsify.growl": Row(
        lambda weights, norms: sp.growl(weights)(norms),
        {
            "weights": Arg(lambda n: jnp.ones(n), CALLABLES, "weights"),
            "norms": Arg(jnp.ones(3), bad(None, "x", {}, 3), "norms"),
        },
    ),
    "sparsify.growl_prox": Row(
        sp.growl_prox,
        {
            "norms": Arg(jnp.ones(3), bad(None, "x", {}, 3), "norms"),
            "weights": Arg(jnp.ones(3), bad(None, "x", {}, 3, jnp.ones(2)), "weights"),
        },
    ),
    "sparsify.growl_weights": Row(
        sp.growl_weights,
        {
            "size": Arg(4, COUNTS, "size"),
            "base": Arg(1.0, STRENGTHS, "base"),
            "step": Arg(0.5, STRENGTHS, "step"),
            "ramp": Arg(1.0, STRENGTHS | bad(1.5), "ramp"),
        },
    ),
    "sparsify.fold_batch_norm": Row(
        lambda graph, epsilon, params, variables: sp.fold_batch_norm(graph, epsilon=epsilon)(
            params, variables
        ),
        {
            "graph": G,
            "epsilon": Arg(1e-5, STRENGTHS, "epsilon"),
            "params": PARAMETERS,
            "variables": Arg(VARIABLES, bad(None, 3, "tree", {"a": X}), "variables|variances"),
        },
    ),
}
