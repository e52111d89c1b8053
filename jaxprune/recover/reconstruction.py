"""Readers fitted anew to what they wrote before, from data, without training."""

from collections.abc import Callable, Iterable
from typing import Any

from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.recover.fits import Form
from jaxprune.recover.fitting import Fitting, Order, Recovered
from jaxprune.recover.measuring import draw_of


def least_squares(
    graph: ChannelGraph,
    variables: Any,
    keep: Keep,
    batches: Iterable[Any],
    *,
    form: Form = Form.KERNEL,
    ridge: float = 0.01,
    order: Order = Order.IN_TURN,
    positions: int | None = None,
    key: Any = None,
    inputs: Callable[[Any], Any] | None = None,
    fn: Callable[..., Any] | None = None,
) -> Recovered:
    """Returns full variables to slice, whose readers of pruned groups make up for what goes.

    Every contraction with a kernel that sums over a pruned group gets, for the inputs x_S that
    stay, the W and b that minimize

        Σ |y - x_S W - b|^2 + ridge * mean(diag(X_S^T X_S)) * |W - W0|^2

    over all rows of the data: examples, positions, patches of a convolution. y is what it writes in
    the whole network, W0 its kernel there; b goes into the bias, or the running mean, that follows,
    and stays zero where none can take it. Solved in float64 on the host from the moments, which are
    summed up in float32 (float64 where the model is), by Cholesky; where that fails, or the moments
    are too coarse for it, by the pseudo-inverse, which the fit then names.

    Exact: on the data (the rows that are drawn), no fitted reader has a larger squared error, for
    these inputs, than with W0 and its old bias (a ridge toward W0; checked, and W0 stays where
    rounding says otherwise). Where pruned inputs are linear in the kept ones and ridge is 0, its
    outputs are what they were. Not exact: what this is worth on other data, and to the loss. The
    inputs of the pruned network are those of the masked one, which is the sliced one where the
    groups are exact.

    Args:
      graph: the channel graph, traced in evaluation mode.
      variables: all variables, concrete.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.
      batches: as for `jp.stats.collect`, each an array or a tree whose first items are the inputs.
        With IN_TURN a list, or what can be iterated again.
      form: `KERNEL` fits all weights; `SCALE` one factor of each channel and reader, and `BIAS`
        nothing but b, for which a few numbers of each output are summed up and no K x K.
      ridge: how strongly weights stay, relative to the mean square of the inputs; at least 0.
      order: `IN_TURN` fits one kernel after the other, in the order of the program, each on what
        the pruned and fitted network before it gives: one pass over the data for each. The last
        reader before a sum with a shortcut (of which only factors of its outputs part it, such as
        a BatchNorm) makes up for the error of the shortcut too: y is what makes the sum that of
        the whole network. `AT_ONCE` takes one pass; no reader is told of the errors before it.
      positions: how many rows of an example are drawn for each reader, in every batch anew; all by
        default, and where there are fewer. They are drawn without replacement of all rows of
        a batch together: as many times `positions` as it has examples. He et al. take 10.
      key: the PRNG key of the draw; that of 0 by default.
      inputs: `inputs(batch)` gives the inputs of the call, a tuple, or a mapping of keywords.
      fn: the function that runs, if not the traced one: a variant that takes the same variables.

    Returns:
      The variables, of which kernels of readers (at kept inputs), biases and running means differ,
      and a fit for every reader: `print(*recovered.fits, sep=chr(10))`. Readers that share one
      kernel are fitted together. In a scan over stacked layers each layer has readers of its own,
      as if the layers stood one after the other; what they read of a batch is held for all layers.
      A reader whose kernel is computed from variables, is read elsewhere too, or stands inside of
      another loop or a branch, stays as it is, and its fit says why.

    Raises:
      KeepError, TreeError: before anything is computed.
      JaxpruneError: no data, numbers that are not finite (the batch and the groups are named).

    Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017,
    section 3.1 (KERNEL); Luo et al., "ThiNet", ICCV 2017, "Minimize the reconstruction error"
    (SCALE); An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models"
    (FLAP), AAAI 2024, "Baseline bias compensation" (BIAS). Deviations: the ridge and the bias,
    which neither of the first two has; all outputs of a position count, where they draw some.

    >>> import jaxprune as jp, numpy as np
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> v = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array([[1.0], [3.0]], np.float32)}
    >>> x = np.array([[1.0], [2.0]], np.float32)
    >>> graph, keep = jp.trace(fn, v, x), {"a": np.array([True, False])}
    >>> recovered = jp.recover.least_squares(graph, v, keep, [x], ridge=0)
    >>> round(float(jp.slice(graph, recovered.variables, keep)["b"][0, 0]), 4)
    7.0
    """
    draw = draw_of(positions, key)
    work = Fitting(graph, variables, keep, batches, form, ridge, order, inputs, fn, draw)
    return work.recovered()
