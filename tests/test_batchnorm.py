"""BatchNorm layers are found by structure."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from jaxprune.arguments.paths import flatten
from jaxprune.errors import TreeError
from jaxprune.inspecting.batch_norms import BatchNorm, batch_norms, scale_mask


class Gaussian(nn.Module):
    """Parameters named like statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mean = self.param("mean", nn.initializers.zeros, (3,))
        var = self.param("var", nn.initializers.ones, (3,))
        scale = self.param("scale", nn.initializers.ones, (3,))
        return x * jnp.sum(scale * mean / var)


class Network(nn.Module):
    """A BatchNorm under another name, one without a scale, and look-alikes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (3, 3), name="mean")(x)
        x = nn.BatchNorm(use_running_average=True, name="Rescale")(x)
        x = nn.BatchNorm(use_running_average=True, use_scale=False)(nn.Dense(3)(x))
        return nn.LayerNorm()(Gaussian(name="Gaussian_0")(x))


@pytest.fixture(scope="module")
def variables():
    return jax.eval_shape(Network().init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))


def test_batch_norms_are_found_by_structure(variables):
    found = batch_norms(variables)
    assert found == {
        "BatchNorm_0": BatchNorm(
            scale=None,
            bias="params/BatchNorm_0/bias",
            mean="batch_stats/BatchNorm_0/mean",
            var="batch_stats/BatchNorm_0/var",
        ),
        "Rescale": BatchNorm(
            scale="params/Rescale/scale",
            bias="params/Rescale/bias",
            mean="batch_stats/Rescale/mean",
            var="batch_stats/Rescale/var",
        ),
    }
    assert batch_norms(list(flatten(variables)[0])) == found


def test_a_lone_batch_norm_has_the_empty_path():
    variables = nn.BatchNorm(use_running_average=True).init(jax.random.key(0), jnp.zeros((2, 3)))
    assert batch_norms(variables)[""].scale == "params/scale"


def test_scale_mask_mirrors_params_and_marks_the_scales(variables):
    mask = scale_mask(variables)
    assert jax.tree.structure(mask) == jax.tree.structure(variables["params"])
    assert {path for path, value in flatten(mask)[0].items() if value} == {"Rescale/scale"}


def test_nnx_state_and_pure_dict():
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.dense = nnx.Linear(2, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(3, rngs=rngs)

    state = nnx.state(Model(nnx.Rngs(0)))
    pure = nnx.to_pure_dict(state)
    for tree in (state, pure):
        assert batch_norms(tree)["norm"] == BatchNorm(
            "norm/scale", "norm/bias", "norm/mean", "norm/var"
        )
        mask = scale_mask(tree)
        assert jax.tree.structure(mask) == jax.tree.structure(tree)
        assert sum(jax.tree.leaves(mask)) == 1


@pytest.mark.parametrize("strip", ["batch_stats", "Rescale"])
def test_no_scale_is_an_error(variables, strip):
    tree = {
        collection: {name: leaf for name, leaf in leaves.items() if name != strip}
        for collection, leaves in variables.items()
        if collection != strip
    }
    with pytest.raises(TreeError, match=r"no BatchNorm with a scale.*\nFix: pass the whole variab"):
        scale_mask(tree)
