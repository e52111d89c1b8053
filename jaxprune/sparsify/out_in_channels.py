"""Out-in-channel sparsity regularization, and the group lasso of single layers beside it."""

from collections.abc import Collection
from typing import Unpack

import jax.numpy as jnp
import optax

from jaxprune.graph import ChannelGraph
from jaxprune.sparsify.channel_norms import Options, channels, lifted
from jaxprune.sparsify.sections import Sets


def oicsr(
    graph: ChannelGraph, strength: float | optax.Schedule, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """Adds the subgradient of `strength * sum over channels of ||v_c||_2` to the gradients.

    v_c concatenates the filters that make channel c and the weights that read it in the next
    layers, so both shrink together and go together:

      gradient of w  <-  gradient + strength * sum over the v_c that hold w of w / ||v_c||

    A kernel makes the channels of one group and reads those of another. The v_c therefore overlap,
    their subgradients add up, and block soft-thresholding would not be the proximal operator. See
    `structured` for the rest: the place in a chain, what is left out, precision and errors.

    With BatchNorm after a layer the penalty can fall by shrinking the filters, which changes
    nothing in the network; `view=fold_batch_norm(graph)` closes that way out.

    Algorithm 1 of the paper (all channels sorted by their joint energy, the smallest removed up to
    the target, no layer losing more than half) is

      jp.select.budget(graph, jp.scores.channel_energy(graph, variables), keep_macs=0.5,
                       max_prune_ratio=0.5)

    with `only=jp.interior(graph)` where residual streams shall stay whole, as in the paper.

    Args:
      graph: what `jaxprune.trace` returned.
      strength: coefficient, at least 0, or a schedule of it. The paper gives none; 1e-5 to 1e-4 is
        where to start.
      **options: see `Options`; `size_norm` is off in the paper.

    Source: Li et al., "OICSR: Out-In-Channel Sparsity Regularization for Compact Deep Neural
    Networks", CVPR 2019.

    >>> import jax
    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([[4.0], [0.0]])}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = oicsr(graph, 0.5)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> [round(float(updates[name].ravel()[0]), 4) for name in ("a", "b")]  # v_0 = (3, 4)
    [0.3, 0.4]
    """
    sets = channels("oicsr", graph, ("out", "in"), options)
    return lifted("oicsr", graph, jnp.sum, strength, sets, options)


def group_lasso(
    graph: ChannelGraph,
    strength: float | optax.Schedule,
    *,
    roles: Collection[str] = ("out",),
    over: Sets | None = None,
    **options: Unpack[Options],
) -> optax.GradientTransformationExtraArgs:
    """Adds the subgradient of a group lasso on the filters, or on the weights that read a channel.

    As `oicsr`, which is the same with both roles, but v_c holds the entries of one role alone: the
    separated regularization that the paper compares with.

    Args:
      graph: what `jaxprune.trace` returned.
      strength: coefficient, at least 0, or a schedule of it.
      roles: ("out",), the filters of each channel, or ("in",), the weights that read it.
      over: sets of weights in the place of channels: `shapes(graph)` or `depth(graph)`.
      **options: see `Options`.

    Source: Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016,
    section 3. There every layer has its own groups; here the filters of coupled layers (those
    that a residual stream adds up) form one. Its four penalties are those with
    `roles=("out",)` (filters), `roles=("in",)` (channels), `over=shapes(graph)` and
    `over=depth(graph)`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxprune as jp
      >>> params = {"a": jnp.array([[3.0, 1.0], [4.0, 0.0]]), "b": jnp.ones((2, 1))}
      >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 2)))
      >>> tx = jp.sparsify.group_lasso(graph, 0.5)
      >>> none = jax.tree.map(jnp.zeros_like, params)
      >>> print(tx.update(none, tx.init(params), params)[0]["a"].round(1))
      [[0.3 0.5]
       [0.4 0. ]]
    """
    sets = channels("group_lasso", graph, roles, options, over, usual=("out",))
    return lifted("group_lasso", graph, jnp.sum, strength, sets, options)
