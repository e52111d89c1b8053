"""One set of weights comes in; networks of many widths go out, trained, searched and served.

A width is a keep, the first channels of every group. Its network is `jp.slice` of the shared
variables, run through `resize`. Slicing is differentiable, so that the gradients of all widths add
up on the shared variables, and no layer needs to know. An S-Net, whose widths have BatchNorm of
their own:

>>> from functools import partial
>>> import flax.linen as nn, jax, jax.numpy as jnp, optax
>>> import jaxprune as jp
>>> from jaxprune import slimmable
>>> class Net(nn.Module):
...     @nn.compact
...     def __call__(self, x, train=False):
...         x = nn.Conv(16, (3, 3), use_bias=False)(x)
...         x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
...         return nn.Dense(4)(x.mean((1, 2)))
>>> model, x = Net(), jax.random.normal(jax.random.key(0), (32, 6, 6, 2))
>>> labels = jnp.argmax(x.mean((1, 2)) @ jnp.ones((2, 4)).at[0].set(jnp.arange(4.0) - 2), axis=-1)
>>> variables = model.init(jax.random.key(1), x)
>>> graph = jp.trace(lambda v, x: model.apply(v, x), variables, x[:1])

>>> def loss(logits, labels):
...     return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
>>> def network(keep):  # variables at the widths of keep, x -> outputs, new statistics
...     small = jp.linen.resize(model, graph, keep)
...     return partial(small.apply, train=True, mutable=["batch_stats"])
>>> widths = {width: slimmable.prefix(graph, width, divisor=4) for width in (1.0, 0.5, 0.25)}
>>> params, rest = slimmable.split(graph, variables, widths)
>>> gradients = slimmable.gradients(network, graph, loss)
>>> optimizer = optax.sgd(0.1, momentum=0.9)
>>> state = optimizer.init(params)
>>> @jax.jit
... def step(params, rest, state, x, labels):
...     grads, rest, losses, _ = gradients(params, rest, widths, x, labels)
...     updates, state = optimizer.update(grads, state, params)
...     return optax.apply_updates(params, updates), rest, state, losses
>>> first = slimmable.gradients(network, graph, loss)(params, rest, widths, x, labels).losses
>>> for _ in range(20):
...     params, rest, state, losses = step(params, rest, state, x, labels)
>>> bool((losses < first).all())
True

Then any of its widths, each compiled once:

>>> net = slimmable.switch(
...     lambda keep: jp.linen.resize(model, graph, keep).apply, graph, params, rest, widths
... )
>>> net.at(0.25)(x).shape
(32, 4)
>>> print(slimmable.spectrum(graph, widths))
width  channels    MACs  parameters
  1.0        16  10,432         388
  0.5         8   5,216         196
 0.25         4   2,608         100

A US-Net shares scale and bias (`split(..., private=statistics(variables))`), draws the widths of a
step (`sandwich`), lets the largest teach the others (`distill=distillation()`), and measures the
statistics of every width after training (`calibrate`). With drawn keeps as arguments of the jitted
step, one program serves them all, if their groups are exact. AutoSlim trains that at `nonuniform`
widths of a wider network, and looks where it can be narrow: `evaluator`, `space`, `greedy`.

Widths, statistics, and the network of one width alone:

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> drawn = {"a": slimmable.uniform(graph, rng, 0.25, 1.0, divisor=4)}
>>> drawn["b"] = slimmable.nonuniform(graph, rng, 0.25, 1.0, divisor=4)
>>> sorted(slimmable.sandwich(widths | drawn, rng, n=2), reverse=True)
[1.0, 0.25]
>>> slimmable.outside_trained_range(graph, widths[0.25], [widths[1.0], widths[0.5]])
['Conv_0/kernel']
>>> [path.split("/")[-1] for path in slimmable.statistics(variables)]
['mean', 'var']
>>> len(slimmable.switchable(variables))
4
>>> rest = slimmable.calibrate(network, graph, params, rest, widths, [x])
>>> served = lambda keep: jp.linen.resize(model, graph, keep).apply
>>> run, small = slimmable.extract(served, graph, params, rest, 0.5, widths[0.5])
>>> shown = slimmable.variables(graph, params, rest, 0.5, widths[0.5])
>>> run(small, x).shape, shown["params"]["Conv_0"]["kernel"].shape
((32, 4), (3, 3, 2, 8))
>>> taught = slimmable.gradients(network, graph, loss, distill=slimmable.distillation())
>>> taught(params, rest, widths, x, labels).losses.shape
(3,)

AutoSlim's search, and its controls:

>>> space = slimmable.space(graph, parts=4, divisor=4)
>>> space
{'Conv_0/kernel': (16, 12, 8, 4)}
>>> error = lambda logits, labels: (logits.argmax(-1) != labels).mean()
>>> evaluate = slimmable.evaluator(network, graph, variables, x, labels, error)
>>> target = 0.5 * jp.cost.macs(graph)
>>> slimmable.check_targets(graph, space, [target], jp.cost.macs)
>>> slimmable.greedy(evaluate, graph, space, [target])[0].widths
{'Conv_0/kernel': 8}
>>> slimmable.random_search(evaluate, graph, space, target, rng, samples=2).widths
{'Conv_0/kernel': 8}
>>> slimmable.evolve(evaluate, graph, space, target, rng, population=2, generations=1).widths
{'Conv_0/kernel': 8}
>>> len(list(slimmable.greedy_path(evaluate, space)))
4
>>> seconds = slimmable.measured(served, graph, variables, x, repeats=2)
>>> seconds(graph, {"Conv_0/kernel": 8}) > 0
True

Sources: Yu et al., "Slimmable Neural Networks", ICLR 2019; Yu and Huang, "Universally Slimmable
Networks and Improved Training Techniques", ICCV 2019; Yu and Huang, "AutoSlim: Towards One-Shot
Architecture Search for Channel Numbers", 2019.
"""

from jaxprune.arguments.absent_names import absent as _absent
from jaxprune.slimmable.calibration import calibrate
from jaxprune.slimmable.exploration import evolve, random_search
from jaxprune.slimmable.search import (
    Evaluate,
    Found,
    Space,
    check_targets,
    evaluator,
    greedy,
    greedy_path,
    measured,
    space,
)
from jaxprune.slimmable.serving import (
    MOBILE_CORE,
    MOBILE_SOC,
    Device,
    Spectrum,
    Switch,
    estimate_fps,
    extract,
    spectrum,
    switch,
)
from jaxprune.slimmable.state import Split, split, statistics, switchable, variables
from jaxprune.slimmable.training import Distillation, Gradients, Network, distillation, gradients
from jaxprune.slimmable.widths import (
    make_divisible,
    nonuniform,
    outside_trained_range,
    prefix,
    sandwich,
    uniform,
)

__all__ = [
    "MOBILE_CORE",
    "MOBILE_SOC",
    "Device",
    "Distillation",
    "Evaluate",
    "Found",
    "Gradients",
    "Network",
    "Space",
    "Spectrum",
    "Split",
    "Switch",
    "calibrate",
    "check_targets",
    "distillation",
    "estimate_fps",
    "evaluator",
    "evolve",
    "extract",
    "gradients",
    "greedy",
    "greedy_path",
    "make_divisible",
    "measured",
    "nonuniform",
    "outside_trained_range",
    "prefix",
    "random_search",
    "sandwich",
    "space",
    "spectrum",
    "split",
    "statistics",
    "switch",
    "switchable",
    "uniform",
    "variables",
]

__getattr__ = _absent(
    "jaxprune.slimmable",
    {
        "export": "jp.slimmable.extract",
        "outside": "jp.slimmable.outside_trained_range",
        "descent": "jp.slimmable.greedy_path",
    },
)
