"""Plain Flax models; none of them knows about pruning."""

from collections.abc import Mapping
from types import MappingProxyType

from flax import linen as nn

from experiments.models.convnet import ConvNet as ConvNet

MODELS: Mapping[str, type[nn.Module]] = MappingProxyType({"convnet": ConvNet})


def build(name: str, **fields: object) -> nn.Module:
    """Returns the model of that name.

    Raises:
      ValueError: there is none.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}.\nFix: one of {sorted(MODELS)}.")
    return MODELS[name](**fields)
