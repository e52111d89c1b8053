"""Serving: one program for each width, plain networks, the spectrum of costs."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import slimmable
from jaxprune.errors import JaxpruneError, KeepError
from slimmable_networks import setup


@pytest.fixture(scope="module")
def served():
    net = setup()
    widths = {w: slimmable.prefix(net.graph, w, divisor=2) for w in (1.0, 0.5)}
    return net, widths, *slimmable.split(net.graph, net.variables, widths)


def test_a_switch_compiles_every_width_once(served):
    net, widths, params, rest = served
    traces = []

    def network(keep):
        run = net.serve(keep)

        def counted(variables, x):
            traces.append(0)
            return run(variables, x)

        return counted

    switch = slimmable.switch(network, net.graph, params, rest, widths).warm_up(net.x)
    assert switch.widths == (1.0, 0.5)
    assert len(traces) == 2
    for width in (0.5, 1.0, 0.5):
        small = jp.slice(net.graph, net.variables, widths[width])
        expected = net.serve(widths[width])(small, net.x)
        np.testing.assert_allclose(switch.at(width)(net.x), expected, rtol=1e-5)
    assert len(traces) == 2


def test_an_exported_width_is_a_plain_network(served):
    net, widths, params, rest = served
    run, small = slimmable.extract(net.serve, net.graph, params, rest, 0.5, widths[0.5])
    expected = jp.slice(net.graph, net.variables, widths[0.5])
    jax.tree.map(np.testing.assert_array_equal, small, expected)
    fresh = jp.trace(run, small, net.x[:1])
    assert jp.cost.macs(fresh) == jp.cost.macs(net.graph, widths[0.5])


def test_the_spectrum(served):
    net, widths, _, _ = served
    table = slimmable.spectrum(net.graph, widths, accuracy=lambda width: width / 2)
    assert table.widths == (1.0, 0.5)
    assert table.columns["channels"] == (20, 10)
    assert table.columns["MACs"] == (16 + 192 + 24, 8 + 48 + 12)
    assert table.columns["parameters"] == tuple(
        jp.cost.params(net.graph, keep) for keep in widths.values()
    )
    assert str(table).splitlines() == [
        "width  channels  MACs  parameters  accuracy",
        f"  1.0        20   232         {table.columns['parameters'][0]}       0.5",
        f"  0.5        10    68         {table.columns['parameters'][1]:>3}      0.25",
    ]


def test_frames_a_second():
    low, high = slimmable.estimate_fps(300e6, slimmable.MOBILE_SOC)
    assert (low, high) == (40, pytest.approx(53.33, abs=0.01))
    assert slimmable.estimate_fps(5e8, 2e9) == (4, 4)
    assert slimmable.estimate_fps(2e9, slimmable.MOBILE_CORE) == (1, 1)
    with pytest.raises(JaxpruneError, match=r"estimate_fps: macs=0(.|\n)*Fix"):
        slimmable.estimate_fps(0, 1e9)


def test_widths_that_cannot_be_served_are_refused(served):
    net, widths, params, rest = served
    switch = slimmable.switch(net.serve, net.graph, params, rest, widths)
    with pytest.raises(KeepError, match=r"no width 0.75, only \[1.0, 0.5\](.|\n)*Fix"):
        switch.at(0.75)
    shared, rest = slimmable.split(
        net.graph, net.variables, widths, private=slimmable.statistics(net.variables)
    )
    other = {0.75: slimmable.prefix(net.graph, 0.75, divisor=2)}
    with pytest.raises(KeepError, match=r"width 0.75 has no statistics(.|\n)*Fix: rest = calib"):
        slimmable.switch(net.serve, net.graph, shared, rest, other)
    ready = slimmable.calibrate(net.train, net.graph, shared, rest, other, [net.x])
    narrow = {0.75: other[0.75]}
    trained = {0.5: widths[0.5]}
    with pytest.warns(UserWarning, match=r"width 0.75 is outside of the trained range"):
        slimmable.switch(net.serve, net.graph, shared, ready, narrow, trained=trained)
