"""SGD, and how its learning rate falls."""

from collections.abc import Callable, Sequence
from typing import Any

import optax


def schedule(
    learning_rate: float, *, steps: int, milestones: Sequence[float] = (0.5, 0.75)
) -> optax.Schedule:
    """Returns the learning rate that falls to a tenth after each of these shares of `steps`."""
    drops = {int(share * steps): 0.1 for share in milestones}
    return optax.piecewise_constant_schedule(learning_rate, drops)


def sgd(
    learning_rate: float | optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    nesterov: bool = True,
    decays: Callable[[Any], Any] | None = None,
    before: optax.GradientTransformation | None = None,
    after: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Returns SGD with momentum and weight decay.

    Args:
      learning_rate: a number, or a schedule from step to number.
      momentum: how much of the last update each update has.
      weight_decay: added to the gradient of every parameter, before the momentum.
      nesterov: whether the momentum is that of Nesterov.
      decays: params -> True where the weight decay acts; everywhere by default.
      before: a transformation of the gradients, in front of everything else.
      after: a transformation of the finished updates.

    Source: Liu et al., Network Slimming, ICCV 2017, section 4.
    """
    return optax.chain(
        before or optax.identity(),
        optax.add_decayed_weights(weight_decay, mask=decays),
        optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
        after or optax.identity(),
    )
