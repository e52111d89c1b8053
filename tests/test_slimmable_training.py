"""Slimmable training: the laws of one step, whose leaves are whose, and how much is compiled."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import slimmable
from jaxprune.errors import JaxpruneError, KeepError, TreeError
from slimmable_networks import close, loss, setup, widths_of

equal = partial(jax.tree.map, np.testing.assert_array_equal)


def test_a_width_equals_the_masked_network():
    with jax.enable_x64(True):
        net = setup(dtype=jnp.float64)
        for width in (0.75, 0.4):
            keep = slimmable.prefix(net.graph, width, divisor=1)
            params, rest = slimmable.split(net.graph, net.variables, {width: keep})
            small = slimmable.variables(net.graph, params, rest, width, keep)
            masked = jp.mask(net.graph, net.variables, keep)
            close(net.serve(keep)(small, net.x), net.model.apply(masked, net.x))
            close(net.train(keep)(small, net.x)[0], net.train({})(masked, net.x)[0])


def test_the_traced_width_is_the_plain_network_bit_for_bit():
    net = setup()
    widths = widths_of(net.graph, (1.0,))
    params, rest = slimmable.split(net.graph, net.variables, widths)
    equal(slimmable.variables(net.graph, params, rest, 1.0, widths[1.0]), net.variables)

    @jax.jit
    def plain(variables):
        def value(tree):
            inputs = {**variables, "params": tree}
            logits, new = net.model.apply(inputs, net.x, train=True, mutable=["batch_stats"])
            return loss(logits, net.labels), new

        return jax.value_and_grad(value, has_aux=True)(variables["params"])

    (value, new), grads = plain(net.variables)
    got = slimmable.gradients(net.train, net.graph, loss)(params, rest, widths, net.x, net.labels)
    params, rest = got.params, got.rest
    whole = slimmable.variables(net.graph, params, rest, 1.0, widths[1.0])
    assert got.losses.tolist() == [value]
    equal(whole, {"params": grads, **new})


@pytest.mark.parametrize("private", ["switchable", "statistics"])
def test_the_step_is_the_sum_of_the_separate_gradients_scattered(private):
    with jax.enable_x64(True):
        net = setup(dtype=jnp.float64)
        widths = widths_of(net.graph)
        chosen = getattr(slimmable, private)(net.variables)
        params, rest = slimmable.split(net.graph, net.variables, widths, private=chosen)
        step = jax.jit(
            lambda *args: slimmable.gradients(net.train, net.graph, loss)(
                *args[:2], widths, *args[2:]
            )
        )
        got = step(params, rest, net.x, net.labels)

        def separate(keep):
            run, small = net.train(keep), jp.slice(net.graph, net.variables, keep)

            def value(tree):
                return loss(run({**small, "params": tree}, net.x)[0], net.labels)

            return jax.jit(jax.value_and_grad(value))(small["params"])

        values, grads = zip(*map(separate, widths.values()), strict=True)
        close(got.losses, jnp.stack(values))
        total = jax.tree.map(
            lambda *leaves: sum(leaves),
            *(
                jp.unslice(net.graph, {"params": jax.device_get(grad)}, keep)["params"]
                for grad, keep in zip(grads, widths.values(), strict=True)
            ),
        )
        norms = {name for name in total if name.startswith("norm")}
        switched = private == "switchable"
        for name, grad in total.items():
            if switched and name in norms:
                assert jax.tree.leaves(got.params.shared["params"][name]) == []
            else:
                close(got.params.shared["params"][name], grad)
        assert set(got.params.private) == (set(widths) if switched else set())
        for width, grad in zip(widths, grads, strict=True):
            for name in norms if switched else ():
                close(got.params.private[width]["params"][name], grad[name])


def test_a_traced_keep_is_executed_by_mask_and_gives_the_same_step():
    with jax.enable_x64(True):
        net = setup(dtype=jnp.float64)
        grid = widths_of(net.graph, (0.75, 0.5))
        gradients = slimmable.gradients(
            net.train, net.graph, loss, distill=slimmable.distillation()
        )
        traces = []

        @jax.jit
        def step(params, rest, drawn):
            traces.append(0)
            return gradients(params, rest, {1.0: {}, **drawn}, net.x, net.labels)

        for private in (slimmable.statistics(net.variables), ()):
            params, rest = slimmable.split(net.graph, net.variables, {1.0: {}}, private=private)
            traces.clear()
            step(params, rest, {"drawn": grid[0.75]})
            got = step(params, rest, {"drawn": grid[0.5]})
            assert len(traces) == 1
            widths = {1.0: {}, "drawn": grid[0.5]}
            close(got, gradients(params, rest, widths, net.x, net.labels))


def test_a_grid_compiles_one_program_for_each_width():
    net = setup()
    grid, traces = widths_of(net.graph, (1.0, 0.5, 0.25)), []
    private = slimmable.statistics(net.variables)
    params, rest = slimmable.split(
        net.graph, net.variables, {w: grid[w] for w in (1.0, 0.25)}, private=private
    )

    def counted(logits, labels):
        traces.append(0)
        return loss(logits, labels)

    step = slimmable.gradients(net.train, net.graph, counted)
    rng = np.random.default_rng(0)
    for n in (2, 3, 2, 3):
        drawn = slimmable.sandwich(grid, rng, n)
        got = step(params, rest, drawn, net.x, net.labels)
        rest = got.rest
        assert set(rest.private) == {1.0, 0.25}
    assert len(traces) == 3


def test_every_width_of_an_s_net_has_its_own_norms_and_shared_ones_follow_all():
    net = setup()
    widths = widths_of(net.graph)
    step = slimmable.gradients(net.train, net.graph, loss)
    params, rest = slimmable.split(net.graph, net.variables, widths)
    got = step(params, rest, widths, net.x, net.labels).rest
    for width, keep in widths.items():
        small = jp.slice(net.graph, net.variables, keep)
        _, alone = net.train(keep)(small, net.x)
        close(got.private[width]["batch_stats"], jax.tree.map(np.asarray, alone["batch_stats"]))
    equal(got.shared, rest.shared)

    params, rest = slimmable.split(net.graph, net.variables, widths, private=())
    naive, current = step(params, rest, widths, net.x, net.labels).rest, net.variables
    assert naive.private == {}
    for keep in widths.values():
        new = net.train(keep)(jp.slice(net.graph, current, keep), net.x)[1]["batch_stats"]
        new = jp.unslice(net.graph, {"batch_stats": new}, keep, into=current)
        current = {**current, **new}
    close(naive.shared["batch_stats"], current["batch_stats"])


def test_in_place_distillation():
    net = setup()
    widths = widths_of(net.graph)
    params, rest = slimmable.split(net.graph, net.variables, widths)
    logits = [
        np.asarray(net.train(keep)(jp.slice(net.graph, net.variables, keep), net.x)[0], float)
        for keep in widths.values()
    ]

    def soft(values, temperature):
        powers = np.exp(values / temperature)
        return powers / powers.sum(axis=-1, keepdims=True)

    def label(values):
        return -np.log(soft(values, 1)[np.arange(12), net.labels]).mean()

    def expected(temperature, mix):
        cross = -(soft(logits[0], temperature) * np.log(soft(logits[1], temperature))).sum(-1)
        return mix * temperature**2 * cross.mean() + (1 - mix) * label(logits[1])

    student, teacher = (jnp.asarray(values, jnp.float32) for values in logits[::-1])
    default = slimmable.distillation()(student, teacher, net.labels)
    np.testing.assert_allclose(default, expected(1.0, 1.0), rtol=1e-4)
    distill = slimmable.distillation(temperature=2.0, mix=0.7, loss=loss)
    step = slimmable.gradients(net.train, net.graph, loss, distill=distill)
    got = step(params, rest, widths, net.x, net.labels)
    np.testing.assert_allclose(got.losses, [label(logits[0]), expected(2.0, 0.7)], rtol=1e-4)
    np.testing.assert_allclose(got.outputs, logits[0], rtol=1e-4)

    # the teacher learns from labels alone: its own BatchNorm has the gradient of its own loss
    alone = slimmable.gradients(net.train, net.graph, loss)
    alone = alone(params, rest, {1.0: widths[1.0]}, net.x, net.labels)
    equal(got.params.private[1.0], alone.params.private[1.0])


def test_calibrated_statistics_are_the_moments_of_the_data():
    net = setup()
    widths = widths_of(net.graph)
    private = slimmable.statistics(net.variables)
    params, rest = slimmable.split(net.graph, net.variables, {1.0: {}}, private=private)
    batches = [net.x, 2 * net.x + 1]
    new = slimmable.calibrate(net.train, net.graph, params, rest, {0.5: widths[0.5]}, batches)
    stem = net.variables["params"]["stem"]
    data = np.concatenate(batches).astype(np.float64) @ np.asarray(stem["kernel"], np.float64)
    data = (data + np.asarray(stem["bias"]))[:, :4]
    found = new.private[0.5]["batch_stats"]
    np.testing.assert_allclose(found["norm"]["mean"], data.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["norm"]["var"], data.var(axis=0), rtol=1e-5)
    equal(new.private[1.0], rest.private[1.0])
    equal(new.shared, rest.shared)
    small = slimmable.variables(net.graph, params, new, 0.5, widths[0.5])
    again = jp.recover.recalibrate(lambda v, x: net.train(widths[0.5])(v, x)[1], small, batches)
    close(small, again)


def test_the_whole_state_can_be_donated():
    net = setup()
    widths = widths_of(net.graph)
    params, rest = slimmable.split(net.graph, jax.tree.map(jnp.copy, net.variables), widths)
    gradients = slimmable.gradients(net.train, net.graph, loss)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, rest):
        got = gradients(params, rest, widths, net.x, net.labels)
        return jax.tree.map(jnp.subtract, params, got.params), got.rest

    for _ in range(2):
        params, rest = step(params, rest)


def test_bad_steps_are_refused():
    net = setup()
    widths = widths_of(net.graph)
    step = slimmable.gradients(net.train, net.graph, loss, distill=slimmable.distillation())
    params, rest = slimmable.split(net.graph, net.variables, widths)

    def run(widths):
        return step(params, rest, widths, net.x, net.labels)

    with pytest.raises(KeepError, match=r"width 0.25 has no trained leaves(.|\n)*Fix: name it"):
        run({**widths, 0.25: {}})
    with pytest.raises(KeepError, match=r"first width teaches(.|\n)*Fix: put the largest"):
        run({0.5: widths[0.5], 1.0: {}})
    with pytest.raises(KeepError, match=r"its keep is traced(.|\n)*Fix: a concrete keep"):
        jax.jit(lambda keep: run({1.0: {}, 0.5: keep}))(widths[0.5])
    with pytest.raises(KeepError, match=r"no widths.\nFix:"):
        run({})
    with pytest.raises(KeepError, match=r"no widths.\nFix:"):
        slimmable.split(net.graph, net.variables, {})
    with pytest.raises(TreeError, match="the tree does not mirror"):
        slimmable.variables(net.graph, params, rest, 0.5, {})
    with pytest.raises(TreeError, match="the tree does not mirror"):
        run({1.0: {}, 0.5: slimmable.prefix(net.graph, 0.25, divisor=2)})
    with pytest.raises(KeepError, match=r"\[1.0, 'small'\] have no order(.|\n)*Fix: numbers"):
        slimmable.split(net.graph, net.variables, {1.0: {}, "small": widths[0.5]})
    shared, others = slimmable.split(net.graph, net.variables, widths, private=())
    with pytest.raises(KeepError, match=r"first width teaches(.|\n)*Fix: put the largest"):
        jax.jit(
            lambda drawn: step(
                shared, others, {0.5: widths[0.5], 1.0: {}, **drawn}, net.x, net.labels
            )
        )({"drawn": widths[0.5]})

    def writes(keep):
        return lambda v, x: (net.serve(keep)(v, x), {"params": v["params"]})

    with pytest.raises(TreeError, match=r"the network updates \['params/(.|\n)*Fix: let the"):
        slimmable.gradients(writes, net.graph, loss)(params, rest, widths, net.x, net.labels)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0.0}, r"temperature must be a number above 0 .* got 0.0.\nFix: "),
        ({"mix": 1.5}, r"mix must be in \[0, 1\], got 1.5.\nFix: "),
        ({"mix": 0.5}, r"with mix=0.5 the loss of the labels is missing.\nFix: "),
        ({"loss": loss}, r"with mix=1.0 the loss of the labels has no effect.\nFix: "),
    ],
)
def test_bad_distillation_is_refused(options, text):
    with pytest.raises(JaxpruneError, match=f"distillation: {text}"):
        slimmable.distillation(**options)


def test_a_width_outside_of_the_trained_range_warns():
    net = setup()
    trained = widths_of(net.graph)
    private = slimmable.statistics(net.variables)
    params, rest = slimmable.split(net.graph, net.variables, trained, private=private)
    narrow = widths_of(net.graph, (0.25,))
    with pytest.warns(UserWarning, match=r"width 0.25 is outside(.|\n)*Fix: train"):
        slimmable.calibrate(net.train, net.graph, params, rest, narrow, [net.x], trained=trained)
