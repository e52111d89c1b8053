"""What the paper and its authors' code say, on small networks."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import optax
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments import models
from experiments.methods.network_slimming import stages
from experiments.methods.network_slimming.config import Config
from experiments.runner import checkpoints, fit, training
from experiments.runner import task as networks
from experiments.runner.task import Network, Task
from experiments.tasks import classification

CONFIG = Config(limit=96, widths=(6,), batch_size=32, epochs=1, finetune_epochs=1, prune_ratio=0.5)


@pytest.fixture(scope="module")
def task() -> Task:
    return classification.task(CONFIG)


@pytest.fixture(scope="module")
def dense(task) -> Network:
    return spread(networks.initial(task))


def spread(network: Network) -> Network:
    """The network with random scales, as after training."""
    rng = np.random.default_rng(0)
    scales = jp.scale_mask(network.variables)
    params = jax.tree.map(
        lambda is_scale, leaf: (
            rng.uniform(0.1, 1, leaf.shape).astype(np.float32) if is_scale else leaf
        ),
        scales,
        network.variables["params"],
    )
    return network._replace(variables=network.variables | {"params": params})


def two_layers() -> tuple[jp.ChannelGraph, dict[str, np.ndarray]]:
    """Two layers of five channels, and the scales of the worked example."""
    variables = {"a": np.ones((3, 5)), "b": np.ones((5, 5)), "c": np.ones((5, 2))}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"] @ v["c"], variables, np.ones((1, 3)))
    return graph, {
        "a": np.array([0.1, 0.2, 0.3, 0.4, 0.9]),
        "b": np.array([0.5, 0.6, 0.7, 0.8, 0.35]),
    }


def kept(keep) -> list[int]:
    return [int(mask.sum()) for mask in keep.values()]


def test_sixty_percent_of_two_layers_of_five_keeps_one_and_three():
    graph, scores = two_layers()
    assert kept(jp.select.global_ratio(graph, scores, prune_ratio=0.6)) == [1, 3]


def test_the_two_threshold_rules_differ_by_one_channel():
    graph, scores = two_layers()
    select = partial(jp.select.global_ratio, graph, scores, prune_ratio=0.6)
    rules = jp.select.exact_count, jp.select.lua_author, jp.select.pytorch_author
    exact, lua, author = (sum(kept(select(ties=rule))) for rule in rules)
    ascending = np.sort(np.concatenate(list(scores.values())))
    assert exact == lua == np.sum(ascending > ascending[int(10 * 0.6) - 1]) == 4
    assert author == np.sum(ascending > ascending[int(10 * 0.6)]) == 3


def test_a_layer_collapses_without_a_floor_and_not_with_one(task, dense):
    graph = task.graph
    scores = dict(jax.device_get(jp.scores.bn_scale(graph, dense.variables)))
    first = next(iter(scores))
    scores[first] = scores[first] / 100
    ascending = np.sort(np.concatenate(list(scores.values())))
    threshold = ascending[len(scores[first])]
    assert not (scores[first] > threshold).any()  # the authors' mask, which has no floor
    ratio = len(scores[first]) / len(ascending)
    for least in (1, 3):
        keep = jp.select.global_ratio(graph, scores, prune_ratio=ratio, min_channels=least)
        assert keep[first].sum() == least
    empty = keep | {first: np.zeros(len(scores[first]), bool)}
    with pytest.raises(jp.errors.KeepError, match="keeps none"):
        jp.slice(graph, dense.variables, empty)


def images(task: Task) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(5, *task.dataset.image_shape)).astype(np.float32)


def logits(network: Network, x: np.ndarray) -> jax.Array:
    return jax.jit(partial(network.model.apply, train=False))(network.variables, x)


def test_the_mask_and_the_sliced_network_give_the_same_logits(task, dense):
    keep = stages.choose(task, dense)
    assert 0 < sum(kept(keep)) < sum(mask.size for mask in keep.values())
    networks = (cut(task, dense, keep) for cut in (stages.mask, stages.cut))
    masked, sliced = (logits(network, images(task)) for network in networks)
    np.testing.assert_allclose(sliced, masked, rtol=1e-5, atol=1e-6)


def authors(scales, gradients, *, strength, rate, momentum=0.9, decay=1e-4):
    """`grad += s * sign(gamma)`, then SGD of PyTorch with Nesterov, in float64."""
    scale, buffer = scales.astype(np.float64), np.zeros_like(scales, np.float64)
    found = []
    for gradient in gradients:
        total = gradient + strength * np.sign(scale) + decay * scale
        buffer = momentum * buffer + total
        scale = scale - rate * (total + momentum * buffer)
        found.append(scale)
    return np.array(found)


def test_gamma_decays_through_the_momentum_as_in_the_update_of_the_authors():
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.05, 1, 7).astype(np.float32)
    gradients = rng.normal(scale=0.1, size=(9, 7)).astype(np.float32)
    variables = {
        "params": {"norm": {"scale": scales}},
        "batch_stats": {"norm": {"mean": np.zeros(7), "var": np.ones(7)}},
    }
    rate = training.schedule(0.1, steps=100)
    config = replace(CONFIG, strength=0.05)
    tx = training.sgd(rate, **stages.penalty(config, rate, variables))
    params, state, found = variables["params"], tx.init(variables["params"]), []
    update = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update({"norm": {"scale": gradient}}, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params["norm"]["scale"])
    expected = authors(scales, gradients, strength=0.05, rate=0.1)
    np.testing.assert_allclose(np.array(found), expected, rtol=2e-6, atol=1e-6)
    without = authors(scales, gradients, strength=0.0, rate=0.1)
    assert np.abs(expected[-1]).mean() < np.abs(without[-1]).mean()


def moved(tx, state, params, gradients, steps: int = 3):
    """The parameters after some steps with the same gradients, in one program."""

    @jax.jit
    def run(params, state):
        for _ in range(steps):
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return run(params, state)


@pytest.fixture(scope="module")
def momentum(dense) -> tuple:
    """SGD after a step of ones: its state, and what was stepped."""
    tx = optax.sgd(0.1, momentum=0.9)
    params = dense.variables["params"]
    gradients = jax.tree.map(np.ones_like, params)
    return tx, tx.update(gradients, tx.init(params), params)[1], params, gradients


def test_masks_need_a_fresh_optimizer(task, dense, momentum):
    tx, state, params, gradients = momentum
    keep, graph = stages.choose(task, dense), task.graph

    def at_zero(tree):
        return jp.mask(graph, {"params": tree}, keep)["params"]

    def revived(params) -> bool:
        same = jax.tree.map(np.array_equal, params, at_zero(jax.device_get(params)))
        return not all(jax.tree.leaves(same))

    masked, gradients = at_zero(params), at_zero(gradients)
    assert revived(moved(tx, state, masked, gradients))  # the old momentum
    assert not revived(moved(tx, tx.init(masked), masked, gradients))
    held = jp.schedule.masked_updates(tx, graph)
    ones = jax.tree.map(np.ones_like, params)
    kept = optax.GradientTransformation(held.init, partial(held.update, keep=keep))
    assert not revived(moved(kept, kept.init(masked), masked, ones))


def test_slices_take_their_part_of_the_optimizer_along(task, dense, momentum):
    tx, state, params, gradients = momentum
    keep, graph = stages.choose(task, dense), task.graph

    def cut(tree):
        return jp.slice(graph, {"params": tree}, keep)["params"]

    small = jp.slice_opt_state(graph, state, keep, tx=tx, params=params)
    got = moved(tx, small, cut(params), cut(gradients))
    expected = cut(jax.device_get(moved(tx, state, params, gradients)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), got, expected)
    network = stages.cut(task, dense._replace(momentum=state[0].trace), keep)
    jax.tree.map(np.testing.assert_array_equal, network.momentum, small[0].trace)


def test_a_pass_takes_at_most_half_of_a_layer_and_its_share_of_what_is_left(task, dense):
    config = replace(CONFIG, passes=2, min_channels=2)
    task = task._replace(config=config)
    network, before = dense, jp.widths(task.graph)
    for number in (1, 2):
        keep = stages.choose(task, network, number=number)
        network = stages.cut(task, network, keep)
        after = jp.widths(task.graph, keep)
        assert all(after[name] >= max(2, before[name] / 2) for name in keep)
        assert sum(after.values()) < sum(before.values())
        before = after


def test_masks_and_slices_choose_alike_in_every_pass(task, dense):
    keeps = []
    for cut in (stages.mask, stages.cut):
        network = cut(task, dense, stages.choose(task, dense))
        keeps.append(stages.choose(task, network))
    for name in keeps[0]:
        np.testing.assert_array_equal(keeps[0][name], keeps[1][name])


def test_selection_within_a_keep_is_selection_on_what_it_left(task, dense):
    graph, config = task.graph, task.config
    first = stages.choose(task, dense)
    small = stages.cut(task, dense, first)
    left = training.channel_graph(small.model, task.dataset.image_shape)
    whole, part = (
        jp.scores.bn_scale(g, v) for g, v in ((graph, dense.variables), (left, small.variables))
    )
    for select in (
        partial(jp.select.global_ratio, prune_ratio=0.4),
        partial(jp.select.global_ratio, prune_ratio=0.4, quota=jp.cost.macs),
        partial(jp.select.per_group, prune_ratio=0.4),
        partial(jp.select.budget, keep_macs=jp.cost.macs(left) // 2),
        partial(jp.select.threshold, threshold=0.5, max_prune_ratio=0.5),
    ):
        got = select(graph, whole, within=first)
        expected = jp.compose(first, select(left, part))
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])
    assert config.prune_ratio == 0.5


def test_equal_macs_mean_more_epochs(task, dense):
    keep = stages.choose(task, dense)
    equal, more = (
        stages.scratch_epochs(task._replace(config=replace(CONFIG, epochs=10, retrain=r)), keep)
        for r in ("scratch-e", "scratch-b")
    )
    macs = [jp.cost.macs(task.graph, k) for k in (None, keep)]
    assert equal == 10
    assert more == int(10 * macs[0] / macs[1])


@pytest.mark.parametrize("method", ["slice", "mask"])
@pytest.mark.parametrize("start", ["rewind", "scratch-e"])
def test_retraining_begins_where_it_says(monkeypatch, start, method):
    config = replace(CONFIG, model="mlp", widths=(8, 6), retrain=start, method=method)
    task = classification.task(config)
    dense = networks.initial(task)
    keep = stages.choose(task, dense)
    cut = {"slice": stages.cut, "mask": stages.mask}[method]
    seen = []

    def fitted(model, variables, *_, **options):
        seen.append((model, variables))
        return fit.State(variables, options["opt_state"], np.int32(0))

    monkeypatch.setattr(training, "fit", fitted)
    stages.retrain(task, "again", cut(task, dense, keep))
    ((model, variables),) = seen
    first = cut(task, networks.initial(task), keep)
    assert model == first.model
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, first.variables)
    kernels = [v["params"]["Dense_1"]["kernel"] for v in (variables, first.variables)]
    assert np.array_equal(*kernels) == (start == "rewind")
    zeros = [np.mean(kernel == 0) for kernel in kernels]
    assert zeros[0] == zeros[1]
    assert (zeros[0] > 0) == (method == "mask")


@pytest.mark.parametrize(
    "stream", [models.PreResNet(depth=11, widths=(4, 6, 8)), models.DenseNet(7)]
)
def test_readers_of_a_stream_are_pruned_alone_and_again(tmp_path, task, stream):
    graph = training.channel_graph(stream, task.dataset.image_shape)
    config = replace(CONFIG, passes=2)
    task = task._replace(config=config, model=stream, graph=graph)
    start = spread(networks.initial(task))
    scores = jp.scores.bn_scale(graph, start.variables)
    norms = jp.batch_norms(start.variables)
    assert len(scores) == len(norms)  # no two BatchNorms share a group, as in the authors' code
    network = start
    for number in (1, 2):
        keep = stages.choose(task, network, number=number)
        masked, network = (cut(task, network, keep) for cut in (stages.mask, stages.cut))
    expected = logits(network, images(task))
    np.testing.assert_allclose(logits(masked, images(task)), expected, rtol=1e-4, atol=1e-5)
    checkpoints.save(tmp_path, task, "pruned", network)
    again = checkpoints.load(tmp_path, task, "pruned")
    np.testing.assert_array_equal(logits(again, images(task)), expected)
