"""Running statistics of BatchNorm layers, computed afresh from data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_arrays, check_batches, check_callable, kind_of
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.models import model_of
from jaxprune.arguments.paths import flatten
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.batch_norms import norms_in
from jaxprune.recover.leaves import replaced

_FIX_UPDATE = (
    "Fix: let update run the model in train mode and return what that changed, for example\n"
    "  lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])[1]['batch_stats']"
)


def recalibrate(
    update: Callable[[Any, Any], Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    graph: ChannelGraph | None = None,
) -> Any:
    """Returns `variables` with the mean and variance of every BatchNorm measured on `batches`.

    The old statistics are forgotten. The new ones are the moments of all the data: the mean of the
    batches' means, and the mean of their (biased) variances plus the variance of their means. What
    a later BatchNorm sees has passed the earlier ones in train mode, as during training.

    Args:
      update: `update(variables, batch)` runs the model in train mode and returns the new batch
        statistics, as in `mutated["batch_stats"]`. Compiled once, whatever the number of batches.
      variables: the whole variables, running statistics included.
      batches: any number of batches of one shape; one or two thousand examples are plenty.
      graph: what `jaxprune.trace` returned: finds BatchNorm under names that are not Flax's too.

    Returns:
      A tree like `variables`, in which everything but the statistics is untouched.

    Raises:
      TreeError: no BatchNorm among the variables, or `update` does not return its statistics.
      JaxpruneError: no batches, batches of several shapes, statistics that are not finite, that
        `update` leaves as they are, or that it makes of other state which is not as at the start
        (Haiku's debiased averages).

    Source: Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV
    2019, "post-statistics of batch normalization". Deviation: their code averages unbiased batch
    variances and leaves out the variance between batches.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxprune as jp
      >>> model = nn.BatchNorm(use_running_average=False)
      >>> batches = [jnp.full((4, 2), 1.0), jnp.full((4, 2), 3.0)]
      >>> v = model.init(jax.random.key(0), batches[0])
      >>> def update(v, x):
      ...     return model.apply(v, x, mutable=["batch_stats"])[1]["batch_stats"]
      >>> new = jp.recover.recalibrate(update, v, batches)["batch_stats"]
      >>> print(new["mean"], new["var"].round(3))
      [2. 2.] [1. 1.]
    """
    if model_of(update):
        raise JaxpruneError(
            f"recalibrate: update must be a function, got {kind_of(update)}.\n{_FIX_UPDATE}",
            page="howto/linen",
        )
    check_callable(update, "recalibrate: update", _FIX_UPDATE.removeprefix("Fix: "))
    check_arrays(variables, "variables")
    leaves, _ = flatten(variables)
    norms = norms_in(list(leaves), graph).values()
    pairs = [(norm.mean, norm.var) for norm in norms if norm.mean and norm.var]
    if not pairs:
        raise TreeError(
            "recalibrate: no BatchNorm among the variables (no module has a running mean and var)."
            "\nFix: pass the whole variables, {'params': ..., 'batch_stats': ...}, and graph= "
            "where the statistics are not named as in Flax."
        )
    paths = [path for pair in pairs for path in pair]
    step = jax.jit(update)

    # A layer tells only `momentum * old + (1 - momentum) * new`. Old statistics of zero leave the
    # second term; huge ones round it away and tell the momentum. Outputs in train mode depend on
    # neither.
    blank = replaced(variables, dict.fromkeys(paths, 0.0))
    huge = {path: 2.0 ** (jnp.finfo(leaves[path].dtype).maxexp - 2) for path in paths}
    seen: list[dict[str, np.ndarray]] = []
    shape = batch = returned = None
    for batch in check_batches(batches, "recalibrate"):
        shape = shape or _shape(batch)
        _check_shape(len(seen), _shape(batch), shape)
        returned = step(blank, batch)
        seen.append(_read(returned, paths))
        _check_finite(len(seen) - 1, seen[-1])
    if not seen:
        raise JaxpruneError("recalibrate: no batches.\nFix: pass at least one batch of data.")
    echo = _read(step(replaced(variables, huge), batch), paths)
    momentum = {
        path: _shortest((echo[path] - seen[-1][path]).flat[0].real / huge[path]) for path in paths
    }
    _check_momentum(momentum)
    _check_debiased([path for path in paths if momentum[path] == 0], leaves, paths, returned)

    moments = {}
    for mean, var in pairs:
        means, variances = (
            np.stack([statistics[path] for statistics in seen]) / (1 - momentum[path])
            for path in (mean, var)
        )
        moments[mean] = means.mean(axis=0)
        moments[var] = variances.mean(axis=0) + means.var(axis=0)
    return replaced(variables, moments)


def _read(statistics: Any, paths: list[str]) -> dict[str, np.ndarray]:
    """Returns the statistics at `paths`, in double precision."""
    leaves = _named(statistics, paths)
    if missing := [path for path in paths if path not in leaves]:
        raise TreeError(f"recalibrate: update returned no {', no '.join(missing)}.\n{_FIX_UPDATE}")
    arrays = {path: np.asarray(fetch(leaves[path])) for path in paths}
    return {
        path: array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
        for path, array in arrays.items()
    }


def _named(tree: Any, paths: Iterable[str]) -> dict[str, Any]:
    """Returns the leaves at `paths`; the tree may leave out the collection's name."""
    leaves, _ = flatten(tree)
    places = {path: path if path in leaves else path.partition("/")[2] for path in paths}
    return {path: leaves[place] for path, place in places.items() if place in leaves}


def _shortest(momentum: float) -> float:
    """Returns the shortest decimal that rounds to this float32: 0.999 for 0.99900001287.

    1 - momentum would otherwise be wrong by 1e-5 of itself at a momentum of 0.999.
    """
    return float(str(np.float32(momentum)))


def _shape(batch: Any) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(batch)]


def _check_shape(number: int, got: list[tuple[int, ...]], expected: list[tuple[int, ...]]) -> None:
    if got != expected:
        raise JaxpruneError(
            f"recalibrate: batch {number} has the shapes {got}, batch 0 has {expected}; batches "
            "weigh the same, so the moments would be wrong.\n"
            "Fix: drop the rest that does not fill a batch."
        )


def _check_finite(number: int, statistics: Mapping[str, np.ndarray]) -> None:
    if broken := [path for path, value in statistics.items() if not np.isfinite(value).all()]:
        raise JaxpruneError(
            f"recalibrate: batch {number} gives statistics that are not finite at "
            f"{', '.join(broken)}.\n"
            "Fix: look for NaN or infinity in the batch and in the parameters of the first layer "
            "named here."
        )


def _check_debiased(
    anew: list[str], leaves: Mapping[str, Any], paths: list[str], returned: Any
) -> None:
    """Raises if statistics that are made anew are made of other state that is not zero."""
    shapes = {leaves[path].shape for path in anew}
    given = _named(returned, [path for path in leaves if path not in paths])
    pairs = {
        path: fetch((leaves[path], new)) for path, new in given.items() if np.shape(new) in shapes
    }
    others = [path for path, (old, new) in pairs.items() if np.any(old) and np.any(new != old)]
    if others:
        raise JaxpruneError(
            f"recalibrate: update makes {anew[0]} of other state that it moves, such as "
            f"{others[0]}, and not of its old value: the moments would be wrong.\n"
            "Fix: pass this state as it was at the start (zeros, as init gives it)."
        )


def _check_momentum(momentum: Mapping[str, float]) -> None:
    if unmoved := [path for path, value in momentum.items() if not 0 <= value < 1]:
        raise JaxpruneError(
            f"recalibrate: update leaves the statistics as they are at {', '.join(unmoved)}.\n"
            + _FIX_UPDATE
        )
