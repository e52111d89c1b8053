"""What statistics cost beside a forward pass and a gradient, on ResNet-20 and a 4-layer decoder.

Command: python -m benchmarks.measuring
Compiles one update of `jp.stats.collector` for each, and the measuring pass of `least_squares`,
with the plain forward pass and gradient, each of which stands there twice as the measure of noise.
Calls them in turn and writes the least times, the temporary memory of the compiled programs and the
size of what they keep to benchmarks/results/measuring.md.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxprune as jp
from benchmarks.resnet20 import MODEL, problem
from experiments.runner.training import cross_entropy
from jaxprune import stats
from jaxprune.recover import Form, Order
from jaxprune.recover.fitting import Fitting
from jaxprune.recover.measuring import draw_of
from jaxprune.stats import At

ROUNDS = 15
RESULTS = Path(__file__).parent / "results" / "measuring.md"
TEXT = """# Statistics

Written by `python -m benchmarks.measuring` on {device}: one update by one batch, least of {rounds}
calls, as a share of a forward pass and of a gradient by all weights. *Memory* is the temporary
memory of the compiled program, *kept* what goes from batch to batch: n numbers of each channel,
n x n of covariances and contributions, and K x K of each reader of K inputs of `gram`,
`removal_costs` and `least_squares`, whose patches of convolutions take window times the memory of
the activation. `least_squares` is its pass over a batch, for all readers of all groups that no
stack has, at once (`AT_ONCE`), and in the pruned network with targets of
the whole one (`IN_TURN`), where every kernel has a pass of its own. *Eight* are mean, zeros, norm,
maximum, mean square, moments, what contractions write, and weighted norm in one pass."""
HEAD = (
    "| program | ms | of a forward | of a gradient | memory, MiB | kept, MiB |\n"
    "|---|---|---|---|---|---|"
)
FORWARD = {
    "mean": {"mean": stats.mean()},
    "zero_share": {"zeros": stats.zero_share()},
    "moments": {"moments": stats.moments()},
    "activation_norm": {"norm": stats.activation_norm()},
    "eight": {
        "mean": stats.mean(),
        "zeros": stats.zero_share(),
        "norm": stats.activation_norm(),
        "maximum": stats.maximum(),
        "square": stats.mean_square(),
        "moments": stats.moments(),
        "written": stats.sum(at=At.WRITES),
        "weighted": stats.weighted_norm(),
    },
    "covariance": {"covariance": stats.covariance()},
    "gram": {"gram": stats.gram()},
    "gram, 10 rows an example": {"gram": stats.gram(positions=10)},
    "contributions": {"added": stats.contributions()},
    "removal_costs": {"costs": stats.removal_costs()},
}
BACKWARD = {
    "by gates": {"slopes": stats.sum(at=At.GATES)},
    "by gates, per example": {"slopes": stats.mean_square(at=At.EXAMPLES)},
    "products": {"products": stats.sum_of_squares(at=At.PRODUCTS)},
}


class Network(NamedTuple):
    """A function with a batch, and its loss."""

    name: str
    graph: jp.ChannelGraph
    variables: Any
    batch: Any
    loss: Callable[[Any, Any], jax.Array]


def resnet() -> Network:
    """Returns ResNet-20 in eval mode on 128 images."""
    _, variables, *half = problem()
    images, labels = (jnp.concatenate([x, x]) for x in half)

    def fn(variables: Any, images: jax.Array) -> jax.Array:
        return MODEL.apply(variables, images, train=False)

    graph = jp.trace(fn, variables, images)
    loss = lambda logits, batch: cross_entropy(logits, batch[1])  # noqa: E731
    return Network("ResNet-20, 128 images", graph, variables, (images, labels), loss)


def decode(v: Any, tokens: jax.Array) -> jax.Array:
    """Returns the logits of four layers in a scan: attention and a gated MLP behind RMSNorm."""

    def norm(x: jax.Array) -> jax.Array:
        return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def layer(x: jax.Array, w: Any) -> tuple[jax.Array, None]:
        q, k, u = (jnp.einsum("btd,dhe->bthe", norm(x), w[name]) for name in ("q", "k", "v"))
        mixed = jax.nn.dot_product_attention(q, k, u, is_causal=True)
        x = x + jnp.einsum("bthe,hed->btd", mixed, w["o"])
        gate = jax.nn.silu(norm(x) @ w["gate"])
        return x + (gate * (norm(x) @ w["up"])) @ w["down"], None

    return norm(lax.scan(layer, v["embed"][tokens], v["layers"])[0]) @ v["head"]


def decoder() -> Network:
    """Returns a decoder of width 256, with 4 heads, on 8 sequences of 128 tokens."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape) / 16, jnp.float32)

    shapes = {name: (256, 4, 64) for name in "qkv"} | {"o": (4, 64, 256), "down": (1024, 256)}
    shapes |= {"gate": (256, 1024), "up": (256, 1024)}
    layers = {name: weights(4, *shape) for name, shape in shapes.items()}
    v = {"embed": weights(512, 256), "layers": layers, "head": weights(256, 512)}
    tokens = jnp.asarray(random.integers(0, 512, (8, 128)))

    def loss(logits: jax.Array, tokens: jax.Array) -> jax.Array:
        return cross_entropy(logits[:, :-1].reshape(-1, 512), tokens[:, 1:].ravel())

    return Network("decoder, 8 x 128 tokens", jp.trace(decode, v, tokens), v, tokens, loss)


def programs(net: Network) -> dict[str, tuple[Callable[[], Any], float, float]]:
    """Returns {name: (call, MiB of temporary memory, MiB of the results)}, compiled."""
    inputs = net.batch[0] if isinstance(net.batch, tuple) else net.batch

    def compiled(run: Callable[..., Any], *args: Any) -> Any:
        program = jax.jit(run).lower(*args).compile()
        memory = program.memory_analysis()
        sizes = (memory.temp_size_in_bytes / 2**20, memory.output_size_in_bytes / 2**20)
        return lambda: program(*args), *sizes

    def gradient(v: Any, inputs: Any, batch: Any) -> Any:
        return jax.grad(lambda v: net.loss(net.graph.fn(v, inputs), batch))(v)

    def scored(v: Any, inputs: Any, batch: Any) -> Any:
        return jp.scores.taylor(net.graph, v, gradient(v, inputs, batch))

    found: dict[str, Any] = {}
    for name in ("forward", "forward again"):
        found[name] = compiled(lambda v, x: net.graph.fn(v, x), net.variables, inputs)
    for name in ("gradient", "gradient again"):
        found[name] = compiled(gradient, net.variables, inputs, net.batch)
    found["taylor, by weights"] = compiled(scored, net.variables, inputs, net.batch)
    for name, wanted in (FORWARD | BACKWARD).items():
        loss = net.loss if name in BACKWARD else None
        tools = stats.collector(net.graph, wanted, loss=loss)
        state = tools.init(net.variables, net.batch)
        found[name] = compiled(tools.update, state, net.variables, net.batch)
    keep = {name: np.arange(g.size) >= g.size // 2 for name, g in net.graph.groups.items()}
    keep = {name: kept for name, kept in keep.items() if net.graph.groups[name].layers is None}
    work = Fitting(
        net.graph,
        net.variables,
        keep,
        [inputs],
        Form.KERNEL,
        0.01,
        Order.AT_ONCE,
        None,
        None,
        draw_of(None, None),
    )
    every = np.ones(len(work.readers), bool)
    measure = work.measuring.measure
    found["least_squares, AT_ONCE"] = compiled(measure, net.variables, None, inputs, every, 0)
    pruned = jp.mask(net.graph, net.variables, keep)
    found["least_squares, IN_TURN"] = compiled(measure, pruned, net.variables, inputs, every, 0)
    return found


def table(net: Network) -> str:
    """Returns the measured table of a network."""
    calls = programs(net)
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, (call, *_) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            least[name] = min(least[name], time.perf_counter() - start)
    rows = [
        f"| {name} | {1e3 * least[name]:.1f} | {least[name] / least['forward']:.2f} "
        f"| {least[name] / least['gradient']:.2f} | {memory:.1f} | {kept:.2f} |"
        for name, (_, memory, kept) in calls.items()
    ]
    return "\n".join([f"## {net.name}", "", HEAD, *rows])


def main() -> None:
    """Writes the tables."""
    device = f"{jax.devices()[0].device_kind} with JAX {jax.__version__}"
    text = TEXT.format(device=device, rounds=ROUNDS)
    RESULTS.write_text("\n\n".join([text, table(resnet()), table(decoder())]) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
