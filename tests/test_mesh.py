"""The same seed gives the same training on one device and on a mesh, up to the order of sums."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
import mesh_runs
from experiments import models
from experiments.data import Dataset, Split, Stream
from experiments.data.augment import Augment
from experiments.procedures import joint
from experiments.procedures.joint import Joint
from experiments.runner import devices, directory, fit, training
from experiments.runner.config import Common
from jaxprune import slimmable
from same_runs import Interrupted, interrupt

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (70, 4, 4, 3), np.uint8)
LABELS = RANDOM.integers(0, 10, 70, np.int32)
WIDTHS = (4,)


def split(start: int, stop: int) -> Split:
    return Split(PIXELS[start:stop], LABELS[start:stop])


def streamed(part: Split) -> Stream:
    """The images of a part as a stream gives them: in order, or turned around by the seed."""

    def batches(size: int, seed: int | None, rows: Any = slice(None)) -> Iterator[Split]:
        turned = part if seed is None else Split(part.images[::-1], part.labels[::-1])
        stop = part.size if seed is None else part.size // size * size
        for start in range(0, stop, size):
            yield Split(*(each[start : start + size][rows] for each in turned))

    return Stream(size=part.size, image_shape=part.image_shape, batches=batches)


def dataset(made: Any = lambda part: part) -> Dataset:
    parts = {"train": split(0, 50), "validation": split(50, 61), "test": split(61, 70)}
    return Dataset(
        name="made", classes=10, mean=(120.0,) * 3, std=(60.0,) * 3,
        augment=Augment(pad=1, flip=True, jitter=0.2), **{n: made(p) for n, p in parts.items()},
    )  # fmt: skip


def epochs(mesh: str, data: Dataset, number: int = 4) -> list[Any]:
    """Returns the figures of every epoch of five or six steps, and the test accuracy at last."""
    found, model = [], models.build("mlp", classes=10, widths=WIDTHS)
    variables = jax.device_get(model.init(jax.random.key(0), PIXELS[:1] / 255.0, train=False))
    tx = training.sgd(0.1)
    with devices.using(Common(mesh=mesh)):
        step = training.train_step(model, tx, data, 8)
        journal = fit.QUIET._replace(on_epoch=lambda epoch, _: found.append(epoch.figures))
        state = training.fit(
            model, variables, data, tx=tx, epochs=number, batch_size=8, key=jax.random.key(1),
            step=step, journal=journal,
        )  # fmt: skip
        found.append(training.evaluate(model, state.variables, data, data.test)._asdict())
    assert step._cache_size() == 1, "an epoch compiles the step again"
    return found


def assert_close(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), found, expected)


@pytest.fixture(scope="module")
def one() -> list[Any]:
    return epochs("", dataset())


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_first_24_steps_and_the_measures_are_those_of_one_device(count, one) -> None:
    assert_close(epochs(f"data={count}", dataset()), one)


def test_a_large_set_is_divided_and_gives_the_same(one, monkeypatch) -> None:
    monkeypatch.setattr(devices, "WHOLE", 0)
    with devices.using(Common(mesh="data=8")):
        images, labels = devices.whole(split(0, 50))
        assert images.shape == (56, 4, 4, 3)
        assert images.addressable_data(0).shape == (7, 4, 4, 3)
        np.testing.assert_array_equal(np.asarray(labels)[:50], LABELS[:50])
    assert_close(epochs("data=8", dataset()), one)


def test_a_stream_gives_the_same_on_a_mesh() -> None:
    data = dataset(streamed)
    assert_close(epochs("data=4", data, number=1), epochs("", data, number=1))


def test_every_device_has_its_part_of_a_batch() -> None:
    with devices.using(Common(mesh="data=4")):
        put = devices.spread(PIXELS[:8])
        assert put.addressable_data(1).shape == (2, 4, 4, 3)
        assert [devices.multiple(size) for size in (1, 4, 5)] == [4, 4, 8]
    assert devices.spread(PIXELS) is PIXELS


def decoded(mesh: str) -> tuple[Any, fit.State]:
    """One step of a small decoder, and the state after it where it lies."""
    model = models.build("decoder", classes=256, widths=(6, 8), stream=8, heads=4, shared=4, size=2)
    rng, tx = np.random.default_rng(0), training.sgd(0.1)
    text = Split(rng.integers(0, 256, (8, 4), np.uint8), rng.integers(0, 256, (8, 4), np.int32))
    data = Dataset(
        name="text", classes=256, train=text, validation=text, test=text, mean=(0.0,), std=(1.0,),
        augment=Augment(),
    )  # fmt: skip
    variables = jax.device_get(model.init(jax.random.key(0), text.images[:1], train=False))
    with devices.using(Common(mesh=mesh, model="decoder", batch_size=8)):
        state = fit.State(variables, tx.init(variables["params"]))
        state = devices.settled(state)
        order = np.arange(8, dtype=np.int32)
        step = training.train_step(model, tx, data, 8)
        state, metrics = step(state, devices.whole(text), order, jax.random.key(0))
    return jax.device_get(metrics), state


def test_a_decoder_is_divided_along_the_model_as_it_says() -> None:
    (found, state), (expected, _) = decoded("data=2,model=4"), decoded("")
    assert_close(found, expected)
    layers = state.variables["params"]
    momentum = jax.tree.leaves(state.opt_state, is_leaf=lambda x: isinstance(x, dict))
    for tree in (layers, *(each for each in momentum if isinstance(each, dict))):
        parts = {name: tree["layer_1"][name]["kernel"].addressable_data(0).shape
                 for name in ("query", "out", "up", "down")}  # fmt: skip
        assert parts == {"query": (8, 1, 2), "out": (1, 2, 8), "up": (8, 2), "down": (2, 8)}
        assert tree["layer_0"]["up"]["kernel"].addressable_data(0).shape == (8, 6), "6 is not 4 n"


def joined(mesh: str) -> Any:
    """The figures of a training of two widths, by batches that are made on the host."""
    model = models.build("mlp", classes=10, widths=WIDTHS)
    graph = training.channel_graph(model, (4, 4, 3))
    grid = {str(width): slimmable.prefix(graph, width) for width in (1.0, 0.5)}
    first = jax.device_get(model.init(jax.random.key(0), PIXELS[:1] / 255.0, train=False))
    split = slimmable.split(graph, first, grid)
    found: list[Any] = []

    def network(keep: Any) -> Any:
        small = jp.linen.resize(model, graph, keep)
        return lambda v, x: small.apply(v, x, train=True, mutable=["batch_stats"])

    with devices.using(Common(mesh=mesh)):
        how = Joint(
            tx=training.sgd(0.1), gradients=joint.gradients(network, graph, training.cross_entropy),
            draw=lambda _: grid, batch=lambda rows, _: (PIXELS[rows] / 255.0, LABELS[rows]),
            examples=32, batch_size=16, epochs=2, seed=(0,),
            measure=lambda variables: {"size": float(optax.tree.norm(variables["params"]))},
        )  # fmt: skip
        journal = fit.QUIET._replace(on_epoch=lambda epoch, _: found.append(epoch.figures))
        joint.train(how, *split, journal)
    return found


def test_widths_that_train_together_do_so_on_a_mesh() -> None:
    assert_close(joined("data=8"), joined(""), rtol=1e-4)


@pytest.mark.parametrize("name", mesh_runs.RUNS)
def test_whole_runs_in_float64_choose_the_same(name, tmp_path) -> None:
    expected = mesh_runs.found(name, str(tmp_path / "one"), precision="float64")
    found = mesh_runs.found(name, str(tmp_path / "eight"), mesh="data=8", precision="float64")
    mesh_runs.check(found, expected)


def test_a_run_goes_on_with_another_number_of_devices(tmp_path, monkeypatch) -> None:
    expected = mesh_runs.found("network_slimming", str(tmp_path / "whole"), precision="float64")
    config = {"root": str(tmp_path / "broken"), "precision": "float64", "resume": True}
    for mesh, number in (("data=8", 1), ("data=2", 2)):
        with monkeypatch.context() as patch:
            interrupt(patch, directory, "append_metrics", number, before=False)
            with pytest.raises(Interrupted):
                mesh_runs.found("network_slimming", mesh=mesh, **config)
    mesh_runs.check(mesh_runs.found("network_slimming", **config), expected)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "form": ({"mesh": "8"}, r"mesh='8' is not of the form data=8 or data=2,model=4\nFix: "),
    "order": ({"mesh": "model=2,data=4"}, "mesh='model=2,data=4' is not of the form"),
    "batch": ({"mesh": "data=7"}, "batch_size=64 is not a multiple of the 7 devices along data"),
    "count": ({"mesh": "data=16"}, r"is of 16 devices, there are 8.\nFix: --mesh data=8, or"),
    "model": (
        {"mesh": "data=2,model=4"},
        r"'convnet' does not say how it is divided over model=4.\nFix: --mesh data=8, or one",
    ),
    "alone": ({"process": 0}, "coordinator, processes and process are for --distributed"),
    "some": ({"process": 0, "distributed": True}, "processes and process go together"),
    "heartbeat": ({"heartbeat": 0}, "heartbeat=0 must be above 0"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_the_devices_is_refused(changes, text, tmp_path) -> None:
    with pytest.raises(ValueError, match=text):
        mesh_runs.network_slimming.main(
            mesh_runs.network_slimming.Config(**changes, root=tmp_path, limit=128)
        )
    assert not list(tmp_path.iterdir())


def test_other_batches_than_those_of_a_step_are_refused_too() -> None:
    config = replace(mesh_runs.GATES, mesh="data=2")
    with pytest.raises(
        ValueError, match="finetune_batch_size=3 is not a multiple of the 2 devices"
    ):
        replace(config, finetune_batch_size=3)
    assert replace(config, finetune_batch_size=4).finetune_batch_size == 4
