"""WDSR at several widths: its groups, its start, its pictures and their measure, and a run."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments import data
from experiments.data import pictures
from experiments.models.wdsr import Wdsr
from experiments.procedures import joint
from experiments.runner import checkpoints, directory, fit, presets
from experiments.runner.fit import DivergedError
from experiments.tasks import super_resolution
from experiments.tasks.super_resolution import Config
from jaxprune import slimmable
from jaxprune.arguments import paths

MODEL = Wdsr(widths=(4, 8), blocks=2)
LOW = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype(np.float32)


@cache
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), LOW)


@cache
def graph() -> jp.ChannelGraph:
    return jp.trace(MODEL.apply, variables(), LOW[:1])


def test_the_stream_and_each_block_are_a_group_and_pixels_are_none() -> None:
    """Lengths of normalized kernels are cut with them; nothing depends on a width by itself."""
    groups = graph().groups
    assert {name: group.size for name, group in groups.items()} == {
        "Conv_1/kernel": 4,
        "Conv_2/kernel": 8,
        "Conv_4/kernel": 8,
    }
    assert not any(group.inexact for group in groups.values())
    assert any("WeightNorm" in slot.path for slot in groups["Conv_1/kernel"].slots)


@pytest.mark.parametrize("width", [0.5, 0.25])
def test_a_width_is_the_masked_network(width: float) -> None:
    rng = np.random.default_rng(1)
    v = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variables())
    keep = slimmable.prefix(graph(), width, divisor=1)
    small = jp.linen.resize(MODEL, graph(), keep)
    got = jax.jit(small.apply)(jp.slice(graph(), v, keep), LOW)
    expected = jax.jit(MODEL.apply)(jp.mask(graph(), v, keep), LOW)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert np.std(expected - jax.jit(MODEL.apply)(v, LOW)) > 0.1


def test_it_starts_as_what_repeats_every_pixel_but_for_a_little() -> None:
    """The skip repeats, in the order of the pixels; and no kernel is zero, which stays zero."""
    v = variables()
    got = np.asarray(jax.jit(MODEL.apply)(v, LOW))
    repeated = LOW.repeat(2, axis=1).repeat(2, axis=2)
    assert got.shape == (2, 12, 16, 3)
    assert 1e-3 < np.abs(got - repeated).max() < 1
    assert np.corrcoef(got.ravel(), repeated.ravel())[0, 1] > 0.98
    assert all(np.any(leaf) for path, leaf in paths.flatten(v)[0].items() if "kernel" in path)


def test_psnr_by_hand() -> None:
    """One of 4 x 4 inner pixels differs by (10, 20, 40) of 255; the border differs and is cut."""
    true = np.full((2, 8, 8, 3), 100, np.uint8)
    found = true.copy()
    found[:, :2] = 0
    found[:, :, -2:] = 255
    found[0, 3, 4] = (110, 120, 140)
    difference = (65.481 * 10 + 128.553 * 20 + 24.966 * 40) / 255
    expected = 20 * np.log10(255) - 10 * np.log10(difference**2 / 16)
    ratios = pictures.psnr(found, true)
    np.testing.assert_allclose(ratios[0], expected, rtol=1e-12)
    assert ratios[1] == np.inf


def test_luma_of_black_and_white() -> None:
    ends = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    np.testing.assert_allclose(pictures.luma(ends), [16, 235])


def test_halves_and_doubles_keep_flat_pictures_and_are_bytes() -> None:
    flat = np.broadcast_to(np.array([7, 200, 255], np.uint8), (3, 8, 6, 3))
    half = pictures.halved(flat)
    assert (half.shape, half.dtype) == ((3, 4, 3, 3), np.uint8)
    np.testing.assert_array_equal(pictures.doubled(half), flat)
    edge = np.zeros((1, 4, 8, 3), np.uint8)
    edge[:, :, 4:] = 255
    half = pictures.halved(edge)
    assert half.min() == 0
    assert half.max() == 255, "what overshoots is cut, not wrapped"


def test_a_crop_of_the_halves_is_the_crop_of_the_pictures() -> None:
    """Pictures of pixels that are repeated: the halved crop is that of the halves, turned alike."""
    low = jnp.arange(8 * 6 * 5 * 3, dtype=jnp.int32).reshape(8, 6, 5, 3)
    high = low.repeat(2, axis=1).repeat(2, axis=2)
    crop = jax.jit(partial(pictures.crops, size=4))
    small, large = crop(jax.random.key(0), low, high)
    assert small.shape == (8, 4, 4, 3)
    np.testing.assert_array_equal(large[:, ::2, ::2], small)
    np.testing.assert_array_equal(large[:, 1::2, 1::2], small)
    assert len({tuple(np.sign(np.diff(part[:2, :2, 0].ravel()))) for part in small}) > 2


def test_generated_pictures_are_always_the_same(monkeypatch) -> None:
    monkeypatch.setattr(pictures, "PARTS", {"train": 5, "validation": 2, "test": 3})
    one, again = (pictures.load("shapes", size=16, limit=limit) for limit in (None, 4))
    assert [len(part.low) for part in one[:3]] == [5, 2, 3]
    assert len(again.train.low) == 4
    np.testing.assert_array_equal(one.train.high[:4], again.train.high)
    np.testing.assert_array_equal(one.test.low, again.test.low)
    assert one.test.low.shape[1:] == (8, 8, 3)
    assert not np.array_equal(one.train.high[:2], one.validation.high)


def test_gray_images_and_images_of_odd_size_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"digits are 8x8x1, expected color .*\nFix: --dataset"):
        pictures.load("digits", size=16)
    with pytest.raises(ValueError, match=r"shapes are 17x17x3, expected .* even"):
        pictures.load("shapes", size=17)


def test_streams_are_an_error(monkeypatch) -> None:
    stream = data.Stream(size=1, image_shape=(2, 2, 3), batches=lambda *_: iter(()))
    found = replace(data.load("digits"), train=stream)
    monkeypatch.setattr(data, "load", lambda *_, **__: found)
    with pytest.raises(ValueError, match=r"imagenet2012 is streamed.*\nFix: --dataset cifar10"):
        pictures.load("imagenet2012", size=16)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"grid": (0.5, 1.0)}, r"grid=\(0.5, 1.0\) must be two widths or more, falling"),
        ({"grid": (1.0,)}, "two widths or more"),
        ({"mix": 1.5}, r"mix=1.5 must be in \[0, 1\]"),
        ({"patch": 0}, "patch=0 must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_an_error(fields, text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}(.|\n)*\nFix: "):
        Config(**fields)


def test_the_loss_of_what_learns_from_the_largest_width() -> None:
    """At rest where they agree, also if rounding differs; else the error, less its corner."""
    corner = super_resolution.CORNER
    outputs, teacher, targets = (jnp.full(3, value) for value in (1.0, 3.0, 2.0))
    error = [np.sqrt(d**2 + corner**2) - corner for d in (2, 1)]
    got = super_resolution.regression(0.25)(outputs, teacher, targets)
    np.testing.assert_allclose(got, 0.25 * error[0] + 0.75 * error[1], rtol=1e-5)
    slope = jax.grad(lambda x: super_resolution.charbonnier(x, outputs) * 3)(outputs + 1e-6)
    assert np.abs(slope).max() < 1e-3


def tiny(root, **fields) -> Config:
    small = {"image_size": 16, "patch": 6, "widths": (4, 4), "divisor": 1, "blocks": 1}
    short = {"batch_size": 4, "grid": (1.0, 0.5), "others": (0.75,), "epochs": 2}
    return replace(Config(), root=root, **(small | short | fields))


def test_a_run_trains_measures_and_goes_on(tmp_path, monkeypatch, capsys) -> None:
    """A run that is killed in the second phase ends as one that is not, bit for bit."""
    monkeypatch.setattr(pictures, "PARTS", {"train": 8, "validation": 2, "test": 3})
    run = super_resolution.main(tiny(tmp_path, name="whole"))
    assert "never trained" in capsys.readouterr().out
    found = directory.read_json(run / "summary.json")
    assert list(found["psnr"]) == ["1.0", "0.75", "0.5"]
    assert list(found["alone"]) == ["0.5"]
    assert found["macs"]["1.0"] > found["macs"]["0.75"] > found["macs"]["0.5"]
    assert (run / "psnr.png").exists()
    assert [r["phase"] for r in directory.read_metrics(run)] == ["slimmable"] * 2 + ["alone"] * 2

    kept = directory.append_metrics

    def killed(run, record) -> None:
        if record["phase"] == "alone" and record["epoch"] == 2:
            raise KeyboardInterrupt
        kept(run, record)

    monkeypatch.setattr(directory, "append_metrics", killed)
    config = tiny(tmp_path, name="killed", resume=True)
    with pytest.raises(KeyboardInterrupt):
        super_resolution.main(config)
    monkeypatch.setattr(directory, "append_metrics", kept)
    again = super_resolution.main(config)
    other = directory.read_json(again / "summary.json")
    assert {key: other[key] for key in ("psnr", "alone")} == {
        key: found[key] for key in ("psnr", "alone")
    }
    assert len(directory.read_metrics(again)) == 4
    assert not checkpoints.path(again, checkpoints.RUNNING).exists()


def test_patches_larger_than_the_halves_are_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "PARTS", {"train": 2, "validation": 1, "test": 1})
    with pytest.raises(ValueError, match=r"patches of 9 pixels .* of 8x8.\nFix: --patch 8"):
        super_resolution.task(tiny(tmp_path, patch=9))


def test_presets_name_settings_of_the_configuration() -> None:
    for name in super_resolution.PRESETS:
        assert presets.config(name, super_resolution.PRESETS, Config()).preset == name


def test_too_few_examples_and_losses_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"3 training images do not fill a batch of 4.\nFix: "):
        next(joint.rows(np.random.default_rng(0), 3, 4))
    heard = fit.QUIET._replace(on_epoch=lambda *_: 1 / 0)
    with pytest.raises(DivergedError, match=r"\[nan\] in epoch 1 .*\nFix: a lower"):
        fit.fit(
            fit.State({}, ()),
            lambda state, *_: (state, {"loss": float("nan")}),
            epochs=1,
            steps=1,
            journal=heard,
        )
