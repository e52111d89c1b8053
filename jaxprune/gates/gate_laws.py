"""Laws of random gates: how gates are drawn, which of them are zero, and what an open one costs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.arguments.numbers import check_positive, is_number, plain
from jaxprune.errors import GateError

Params = Any
"""What is learned of some gates: arrays of their shape."""


class Law(NamedTuple):
    """The distribution of the gates of one group or branch, as pure functions.

    init: shape -> params, of gates that are open.
    sample: (key, params) -> f32[shape], gates as they are drawn in training.
    fixed: params -> f32[shape], the gates of evaluation, exactly zero where they are shut.
    open: params -> f32[shape], the probability that a gate is not zero, differentiable.
    complexity: params -> f32[shape], what the source adds to the loss for each gate.
    """

    init: Callable[[tuple[int, ...]], Params]
    sample: Callable[[jax.Array, Params], jax.Array]
    fixed: Callable[[Params], jax.Array]
    open: Callable[[Params], jax.Array]
    complexity: Callable[[Params], jax.Array]


def hard_concrete(
    *, temperature: float = 2 / 3, low: float = -0.1, high: float = 1.1, start: float = 3.0
) -> Law:
    """Returns the hard concrete law: a stretched sigmoid of logistic noise, clipped to [0, 1].

    With u uniform in (0, 1) and log alpha what is learned of a gate, one number:

      s = sigmoid((log u - log(1 - u) + log alpha) / temperature)
      sample = clip(s * (high - low) + low, 0, 1)
      fixed = clip(sigmoid(log alpha) * (high - low) + low, 0, 1)
      open = P(sample > 0) = sigmoid(log alpha - temperature * log(-low / high))

    `complexity` is `open`, the expected L0 norm. A gate that is shut by `fixed` (log alpha below
    log(-low / high), -2.4) may still open in training, so that a count of zeros and the sum of
    `open` agree only once the gates have decided.

    Args:
      temperature: above 0.
      low: where the stretched sigmoid begins, below 0.
      high: where it ends, above 1.
      start: log alpha in the beginning; the paper's gates begin open with a probability of about
        one half to one.

    Raises:
      GateError: a number is out of range.

    Source: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018,
    equations 10 to 13.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> law = jp.gates.hard_concrete()
    >>> round(float(law.open(jnp.zeros(()))), 5), float(law.fixed(jnp.zeros(()))) == 0.5
    (0.83182, True)
    """
    temperature = check_positive(temperature, "temperature", "temperature=2/3.", GateError)
    start = _finite(start, "start", -math.inf, math.inf, "start=3.0.")
    low = _finite(low, "low", -math.inf, 0.0, "low=-0.1.")
    high = _finite(high, "high", 1.0, math.inf, "high=1.1.")

    def stretched(s: jax.Array) -> jax.Array:
        return jnp.clip(s * (high - low) + low, 0, 1)

    def sample(key: jax.Array, params: Params) -> jax.Array:
        noise = jax.random.logistic(key, params.shape, params.dtype)
        return stretched(jax.nn.sigmoid((noise + params) / temperature))

    def open_(params: Params) -> jax.Array:
        return jax.nn.sigmoid(params - temperature * math.log(-low / high))

    return Law(
        init=lambda shape: jnp.full(shape, start, jnp.float32),
        sample=sample,
        fixed=lambda params: stretched(jax.nn.sigmoid(params)),
        open=open_,
        complexity=open_,
    )


def gaussian(*, threshold: float = 0.0, start: float = -9.0) -> Law:
    """Returns the Gaussian law: a gate with a mean and a variance, shut where noise drowns it.

    What is learned of a gate is its mean m and the logarithm v of its variance. With
    log alpha = v - log m^2, the logarithm of noise over signal,

      sample = m + exp(v / 2) * noise
      fixed = m where log alpha < threshold, 0 elsewhere
      complexity = log(1 + m^2 / exp(v)) / 2

    `complexity` bounds the information that a channel passes on; its sum times a strength is added
    to the loss. `open` is sigmoid(threshold - log alpha): the source has no such probability. It
    is one half where a gate is about to be shut, and close to 0 or 1 once it has decided.

    Args:
      threshold: of log alpha; 0 in the source, 3 in sparse variational dropout.
      start: v in the beginning; m begins at 1.

    Raises:
      GateError: a number is not finite.

    Source: Dai et al., "Compressing Neural Networks using the Variational Information Bottleneck",
    ICML 2018, section 3. There every example draws its own noise: map `sample` and the gated
    function over keys and examples (`jax.vmap`) for that. The threshold of 3 is that of Molchanov
    et al., "Variational Dropout Sparsifies Deep Neural Networks", ICML 2017.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> law = jp.gates.gaussian()
    >>> params = {"mean": jnp.array([1.0, 0.1]), "log_variance": jnp.array([-2.0, -2.0])}
    >>> law.fixed(params).tolist()
    [1.0, 0.0]
    """
    threshold = _finite(threshold, "threshold", -math.inf, math.inf, "threshold=0.0.")
    start = _finite(start, "start", -math.inf, math.inf, "start=-9.0.")

    def log_alpha(params: Params) -> jax.Array:
        tiny = jnp.finfo(params["mean"].dtype).tiny
        return params["log_variance"] - jnp.log(jnp.maximum(jnp.square(params["mean"]), tiny))

    def init(shape: tuple[int, ...]) -> Params:
        ones = jnp.ones(shape, jnp.float32)
        return {"mean": ones, "log_variance": start * ones}

    def sample(key: jax.Array, params: Params) -> jax.Array:
        mean = params["mean"]
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + jnp.exp(params["log_variance"] / 2) * noise

    return Law(
        init=init,
        sample=sample,
        fixed=lambda params: jnp.where(log_alpha(params) < threshold, params["mean"], 0),
        open=lambda params: jax.nn.sigmoid(threshold - log_alpha(params)),
        complexity=lambda params: jax.nn.softplus(-log_alpha(params)) / 2,
    )


def _finite(value: Any, name: str, above: float, below: float, fix: str) -> float:
    """Returns a number strictly between two others as Python's.

    Raises:
      GateError: it is none.
    """
    if not (is_number(value) and above < plain(value) < below):
        raise GateError(
            f"{name} must be a number above {above:g} and below {below:g}, got {value!r}.\n"
            f"Fix: {fix}"
        )
    return float(plain(value))
