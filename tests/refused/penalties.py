"""The rows of `sparsify`."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from refused.rows import ABSENT, INPUT, REDUCE, ROLES, Row, splat
from refused.values import (
    CALLABLES,
    COUNTS,
    FLAGS,
    GRAPH,
    ONLY,
    PARAMS,
    PATTERNS,
    POSITIVES,
    PROTECT,
    RATIOS,
    STRENGTHS,
    TREES,
    VARIABLES,
    Arg,
    G,
    K,
    V,
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
SPARED = {
    "biases": Arg(False, FLAGS, "biases"),
    "spare": Arg((), without(PATTERNS, "a kind that is absent"), "spare"),
}
BRANCHED = jp.trace(
    lambda v, x: (x + jnp.tanh(x @ v["a"]) @ v["b"]) @ v["c"],
    {name: jnp.ones((2, 2)) for name in "abc"},
    X,
)
OVER = Arg(
    None,
    bad(3, "kernels", {}, [], {"a": 3}, {"a": ["x"]}, {"a": []})
    | {"another graph": sp.depth(BRANCHED)},
    "over",
)
COMPRESSED = sp.learning_compression(GRAPH, sp.norm_ball(1.0), strength=1e-3, period=1).init(PARAMS)
SECTIONS = {
    "only": Arg(
        None, without(PATTERNS, "a kind that is absent") | bad([], ()), "only|kernel|branch"
    ),
    "protect": Arg((), without(PATTERNS, "a kind that is absent") | bad("*"), "protect"),
}
SCORING = Arg(
    jp.scores.l2,
    CALLABLES
    | {
        "no mapping": lambda *_: jnp.ones(4),
        "no scores": lambda *_: {},
        "others": lambda *_: {"a/kernel": jnp.ones(3), "b/kernel": jnp.ones(6)},
        "words": lambda *_: {"a/kernel": "x", "b/kernel": None},
    },
    "score",
)
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
        over=OVER,
        **GROUPS,
    ),
    "sparsify.structured": row(
        sp.structured,
        graph=G,
        penalty=Arg(jnp.sum, CALLABLES, "penalty"),
        strength=STRENGTH,
        roles=ROLES._replace(good=("out", "in")),
        over=OVER,
        **GROUPS,
    ),
    "sparsify.proximal_structured": row(
        sp.proximal_structured,
        graph=G,
        prox=Arg(lambda n, t: jnp.maximum(n - t, 0), CALLABLES, "prox"),
        learning_rate=RATE,
        strength=STRENGTH,
        roles=ROLES,
        over=OVER,
        only=ONLY,
        protect=PROTECT,
    ),
    "sparsify.accelerated_l1_gates": row(
        sp.accelerated_l1_gates,
        strength=STRENGTH,
        learning_rate=RATE,
        momentum=Arg(0.9, STRENGTHS | bad(1.0), "momentum"),
        nonnegative=Arg(True, FLAGS, "nonnegative"),
    ),
    "sparsify.ista": row(
        sp.ista,
        graph=G,
        costs=Arg(
            {"a/kernel": 1.0},
            bad(None, 3, "costs", {}, {"a/kernel": -1}, {"a/kernel": "1"}, {"a/kernel": 0}, [1.0])
            | bad({"a/kernel": float("nan")}, {"b/kernel": 1.0}),
            "costs",
        ),
        strength=STRENGTH,
        learning_rate=RATE,
    ),
    "sparsify.rescale_scales": Row(
        splat(sp.rescale_scales),
        {
            "graph": G,
            "variables": V,
            "factor": Arg(0.5, POSITIVES, "factor"),
            "inputs": INPUT,
            "only": ONLY,
            "protect": PROTECT,
        },
    ),
    "sparsify.learning_compression": row(
        sp.learning_compression,
        graph=G,
        projection=Arg(
            sp.norm_ball(1.0),
            CALLABLES | {"to others": lambda norms: {"x": norms}, "to words": lambda _: "x"},
            "projection",
        ),
        strength=Arg(1e-3, STRENGTHS | bad(0), "strength"),
        period=Arg(2, COUNTS, "period"),
        roles=ROLES,
        over=OVER,
        only=ONLY,
        protect=PROTECT,
    ),
    "sparsify.compressed": Row(
        sp.compressed,
        {
            "params": PARAMETERS,
            "state": Arg(COMPRESSED, bad(None, 3, "state", {}, ()), "state"),
        },
    ),
    **{
        f"sparsify.{name}": Row(
            getattr(sp, name), {"keep_ratio": Arg(0.5, without(RATIOS, "1.0"), "keep_ratio")}
        )
        for name in ("largest_in_each", "largest_of_all")
    },
    "sparsify.norm_ball": Row(sp.norm_ball, {"radius": Arg(1.0, POSITIVES, "radius")}),
    "sparsify.entries": Row(sp.entries, {"graph": G, **SECTIONS}),
    "sparsify.growing_decay": row(
        sp.growing_decay,
        graph=G,
        growth=Arg(
            sp.weak_first,
            CALLABLES | {"to others": lambda norms: {"x": norms}, "to words": lambda _: "x"},
            "growth",
        ),
        delta=Arg(1e-4, STRENGTHS, "delta"),
        period=Arg(2, COUNTS, "period"),
        ceiling=Arg(1.0, STRENGTHS, "ceiling"),
        roles=ROLES,
        only=ONLY,
        protect=PROTECT,
    ),
    "sparsify.weighted_decay": Row(
        lambda base, norms: sp.weighted_decay(base)(norms),
        {
            "base": Arg(16.0, POSITIVES, "base"),
            "norms": Arg(jnp.ones(3), bad(None, "x", {}, 3), "norms"),
        },
    ),
    **{
        f"sparsify.{name}": Row(
            getattr(sp, name),
            {"norms": Arg({"a": jnp.ones(3)}, bad(None, 3, "norms", [1.0]), "norms")},
        )
        for name in ("everywhere", "weak_first")
    },
    "sparsify.shapes": Row(sp.shapes, {"graph": G, **SECTIONS}),
    "sparsify.depth": Row(sp.depth, {"graph": G._replace(good=BRANCHED), **SECTIONS}),
    "sparsify.soft_mask": Row(
        sp.soft_mask,
        {
            "graph": G,
            "variables": V._replace(bad=without(TREES, "the params alone")),
            "keep": K,
            **SPARED,
        },
    ),
    "sparsify.soft_pruning": row(
        sp.soft_pruning,
        graph=G,
        score=SCORING,
        prune_ratio=Arg(0.5, without(RATIOS, "1.0"), "prune_ratio"),
        period=Arg(2, COUNTS, "period"),
        masking=Arg(sp.Masking.SOFT, bad(None, 3, "free", [], {}, jp.schedule.Part.ALL), "masking"),
        **SPARED,
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
