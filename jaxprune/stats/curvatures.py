"""Diagonals of the curvature of a loss, by the gates of channels or by the weights."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.numbers import check_count
from jaxprune.errors import JaxpruneError

Tree = Any


class By(Enum):
    """What the loss is differentiated by."""

    GATES = "the gates of channels"  # one number of each channel, at 1
    WEIGHTS = "the weights"  # a tree like the variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The loss of one batch as a function of gates or of weights.

    point: where it is differentiated. outputs: `outputs(point)`, what the network gives.
    loss: `loss(outputs) -> f[]`. examples: batches of one, along a leading axis, and
      `loss_of(point, example)` of one of them.
    """

    point: Tree
    outputs: Callable[[Tree], Any]
    loss: Callable[[Any], Any]
    examples: Any
    loss_of: Callable[[Tree, Any], Any]

    def value(self, point: Tree) -> Any:
        """Returns the loss of the batch."""
        return self.loss(self.outputs(point))


@dataclass(frozen=True, slots=True, kw_only=True)
class Curvature:
    """A statistic that is a diagonal: `estimate(problem, key)` of one batch, averaged over batches.

    Its result is {group: f32[n]} by gates, and a tree like the variables by weights, with zeros for
    those that are integers.
    """

    estimate: Callable[[Problem, Any], Tree]
    by: By = By.GATES

    def __post_init__(self) -> None:
        check_callable(self.estimate, "estimate", "jp.stats.hutchinson().")
        if not isinstance(self.by, By):
            raise JaxpruneError(
                f"by must be one of {', '.join(map(str, By))}, got {self.by!r}.\nFix: by=By.GATES."
            )


def hutchinson(*, samples: int = 1, by: By = By.GATES) -> Curvature:
    """Returns the diagonal of the Hessian as the mean of v * (H v) over random signs v.

    It is exact in expectation; its error falls as 1 / sqrt(samples * batches), and is zero where H
    is diagonal. `samples` Hessian-vector products a batch, each about two gradients.

    Source: Bekas et al., "An estimator for the diagonal of a matrix", 2007; Yao et al.,
    "AdaHessian", AAAI 2021.
    """

    def product(problem: Problem, v: Tree) -> Tree:
        return jax.jvp(jax.grad(problem.value), (problem.point,), (v,))[1]

    return Curvature(estimate=_probed(product, samples), by=by)


def gauss_newton(*, samples: int = 1, by: By = By.GATES) -> Curvature:
    """Returns the diagonal of the generalized Gauss-Newton matrix J^T H_out J, estimated alike.

    H_out is the Hessian of the loss by the outputs. It is never negative in expectation where the
    loss is convex in the outputs.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent",
    2002; the probes are those of `hutchinson`.
    """

    def product(problem: Problem, v: Tree) -> Tree:
        outputs, back = jax.vjp(problem.outputs, problem.point)
        change = jax.jvp(problem.outputs, (problem.point,), (v,))[1]
        curved = jax.jvp(jax.grad(problem.loss), (outputs,), (change,))[1]
        return back(curved)[0]

    return Curvature(estimate=_probed(product, samples), by=by)


def fisher(*, by: By = By.GATES) -> Curvature:
    """Returns the diagonal of the empirical Fisher matrix: the mean over examples of (dL_n)^2.

    L_n is the loss of a batch of one example. By gates the examples run at once; by weights one
    after another, so that no more than one gradient of the weights is held.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018; the
    labels are those of the data, not drawn from the model.
    """

    def estimate(problem: Problem, _: Any) -> Tree:
        examples = problem.examples
        size = jax.tree.leaves(examples)[0].shape[0]
        slope = jax.grad(problem.loss_of)
        if by is By.GATES:
            slopes = jax.vmap(slope, (None, 0))(problem.point, examples)
            return jax.tree.map(lambda g: _square(g).mean(0), slopes)

        def add(sums: Tree, example: Any) -> tuple[Tree, None]:
            slopes = slope(problem.point, example)
            return jax.tree.map(lambda s, g: s + _square(g) / size, sums, slopes), None

        start = jax.tree.map(lambda leaf: jnp.zeros_like(_square(leaf)), problem.point)
        return jax.lax.scan(add, start, examples)[0]

    return Curvature(estimate=estimate, by=by)


def _probed(product: Callable[[Problem, Tree], Tree], samples: int) -> Callable[..., Tree]:
    """The mean of v * product(v) over random signs."""
    count = check_count(samples, "samples", "samples=1.")

    def estimate(problem: Problem, key: Any) -> Tree:
        leaves, treedef = jax.tree.flatten(problem.point)

        def sample(key: Any) -> Tree:
            keys = jax.random.split(key, len(leaves))
            signs = [
                jax.random.rademacher(leaf_key, leaf.shape, leaf.dtype)
                for leaf_key, leaf in zip(keys, leaves, strict=True)
            ]
            v = jax.tree.unflatten(treedef, signs)
            return jax.tree.map(lambda a, b: wide(a * b).real, v, product(problem, v))

        total = sample(key)
        if count > 1:
            keys = jax.random.split(jax.random.fold_in(key, 1), count - 1)
            more = jax.lax.scan(
                lambda sums, step_key: (jax.tree.map(jnp.add, sums, sample(step_key)), None),
                total,
                keys,
            )[0]
            total = more
        return jax.tree.map(lambda leaf: leaf / count, total)

    return estimate


def _square(x: Any) -> Any:
    size = abs(wide(x))
    return size * size
