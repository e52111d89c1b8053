"""Text as a task: windows of bytes, a small decoder, and what benchmarks make of its network."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from benchmarks import criteria, criteria_page
from benchmarks import dense as packed
from benchmarks.criterion_cells import Bench, Cell
from experiments import models
from experiments.data import text
from experiments.data.augment import normalized
from experiments.methods import dense
from experiments.runner import directory, presets, training
from experiments.runner.config import from_json, to_json
from experiments.runner.experiment import execute
from experiments.tasks import classification

BYTES = 2000


def test_the_default_text_is_the_one_that_its_provenance_names() -> None:
    found = text.read()
    assert len(found) == 148_476
    digest = hashlib.sha256(found).hexdigest()
    assert f"SHA-256 {digest[:8]}" in (text.__doc__ or "")
    assert found.startswith(b"                ALICE'S ADVENTURES IN WONDERLAND")
    assert len(text.FILE.read_bytes()) < 100_000


def test_windows_are_followed_by_their_next_bytes_and_no_byte_is_in_two_parts() -> None:
    whole = bytes(np.random.default_rng(0).integers(0, 256, BYTES, dtype=np.uint8))
    parts = text.parts(whole, length=16)
    starts = (0, BYTES - 2 * BYTES // 10, BYTES - BYTES // 10, BYTES)
    for part, start, end in zip(parts, starts, starts[1:], strict=False):
        stretch = np.frombuffer(whole[start:end], np.uint8)
        count = (len(stretch) - 1) // 16
        assert part.images.shape == part.labels.shape == (count, 16)
        np.testing.assert_array_equal(part.images.ravel(), stretch[: 16 * count])
        np.testing.assert_array_equal(part.labels.ravel(), stretch[1 : 16 * count + 1])


def test_a_text_is_a_file_or_the_files_of_a_folder(tmp_path) -> None:
    (tmp_path / "b.txt").write_bytes(b"second")
    (tmp_path / "a.txt").write_bytes(b"first ")
    assert text.read(tmp_path) == b"first second"
    assert text.read(tmp_path / "b.txt") == b"second"


def test_what_is_no_text_is_an_error_that_says_what_to_do(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"(?s)cannot read the text .*none.*Fix: --data-dir FILE"):
        text.read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no \*\.txt"):
        text.read(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)100 bytes is too short.*1300 bytes or more"):
        text.parts(b"x" * 100)
    with pytest.raises(ValueError, match=r"(?s)'convnet' does not read dataset='text'.*decoder"):
        classification.task(replace(dense.Config(), dataset="text"))


def test_the_sizes_of_the_decoder_are_those_counted_by_hand() -> None:
    graph = training.channel_graph(models.build("decoder"), (128,))
    weights = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128  # queries, keys and values, out, MLP
    assert jp.cost.params(graph) == 2 * 256 * 64 + 4 * (weights + 2 * 64) + 64
    attention = 2 * 8 * 128 * 128 * 8
    assert jp.cost.macs(graph) == 128 * (256 * 64 + 4 * weights) + 4 * attention


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A decoder of two layers, trained on 2 kB."""
    root = tmp_path_factory.mktemp("text")
    file = root / "some.txt"
    file.write_bytes(text.read()[:BYTES])
    config = replace(
        presets.config("text", dense.PRESETS, dense.Config()),
        data_dir=file,
        root=root,
        widths=(8, 8),
        batch_size=4,
        scale=0.3,
    )
    return execute(dense.EXPERIMENT, config)


def test_a_decoder_learns_in_nats_per_byte(run) -> None:
    summary = directory.read_json(run / directory.SUMMARY)
    epochs = [record["train"]["loss"] for record in directory.read_metrics(run)]
    assert len(epochs) == 3
    assert epochs[0] <= 1.1 * math.log(256)
    assert summary["loss"]["test"] < epochs[0]
    value = directory.read_config(run)
    assert to_json(from_json(value, dense.Config)) == value


@pytest.fixture(scope="module")
def bench(run) -> Bench:
    packed.pack(run, "small", root=run)
    found = packed.load("small", root=run)
    return Bench(packed.task(found, run.parent / "some.txt"), found.variables)


def test_a_packed_network_is_what_was_trained_and_any_other_file_is_refused(run, bench) -> None:
    summary = directory.read_json(run / directory.SUMMARY)
    found = packed.load("small", root=run)
    assert found.about["loss"] == summary["loss"]["test"]
    assert found.about["accuracy"] == summary["accuracy"]["dense"]
    losses, right = bench.evaluate(found.variables)
    assert losses.mean() == pytest.approx(found.about["loss"], rel=1e-5)
    assert right.mean() == pytest.approx(found.about["accuracy"], abs=1e-6)
    file = run / "other.npz"
    file.write_bytes((run / "small.npz").read_bytes() + b"x")
    (run / "other.json").write_text((run / "small.json").read_text())
    with pytest.raises(ValueError, match=r"(?s)has the SHA-256 .* was expected"):
        packed.load("other", root=run)
    with pytest.raises(ValueError, match=r"no network 'none'.*\n.*other.*small"):
        packed.load("none", root=run)


def test_a_cell_is_the_sliced_network(bench) -> None:
    keep, variables = bench.pruned(Cell(0.5, "uniform", "l2", "none"))
    assert jp.cost.macs(bench.graph, keep) <= 0.5 * bench.macs
    assert {jp.kinds(bench.graph)[name] for name, own in keep.items() if not np.all(own)} == {
        jp.Kind.STREAM,
        jp.Kind.HEADS,
        jp.Kind.HIDDEN,
    }
    small = jp.slice(bench.graph, variables, keep)
    test = bench.task.dataset.test
    images = normalized(bench.task.dataset.mean, bench.task.dataset.std, test.images)
    logits = jp.narrow(bench.graph.fn, bench.graph, keep)(small, images)
    logs = np.asarray(jax.nn.log_softmax(logits))
    expected = -np.take_along_axis(logs, test.labels[..., None], -1).mean((1, 2))
    found = bench.measure(Cell(0.5, "uniform", "l2", "none"))
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)


def test_cells_are_compared_example_by_example_and_told_on_the_page(bench, run, tmp_path) -> None:
    losses = criteria.Losses(tmp_path)
    cells = [
        Cell(0.5, "uniform", "random", "none", 0),
        Cell(0.5, "uniform", "l2", "none"),
        Cell(0.5, "uniform", "bn_scale", "none"),
        Cell(0.5, "uniform", "l2", "least_squares"),
    ]
    found = {each.name: criteria.measured(bench, each, losses, (0,)) for each in cells}
    random, l2, failed, fitted = found.values()
    assert "failed" in failed
    assert l2["to_random"][0] == pytest.approx(l2["loss"] - random["loss"], abs=1e-6)
    assert fitted["to_none"][0] == pytest.approx(fitted["loss"] - l2["loss"], abs=1e-6)
    assert fitted["to_none"][1] <= fitted["to_none"][0] <= fitted["to_none"][2]
    about = packed.load("small", root=run).about
    planned = [*found, "0.3/uniform/l1/none"]
    journal = {
        "about": about,
        "dense": {"loss": 5.0, "accuracy": 0.1},
        "cells": found,
        "planned": planned,
    }
    page = criteria_page.page({"small": journal})
    assert f"| l2 | {l2['loss']:.4f} [" in page
    assert "Not measured yet (1 of 5): 0.3/uniform/l1/none." in page
    assert "Not for this network: 0.5/uniform/bn_scale/none: " in page


def test_an_interval_of_means_covers_what_normal_theory_says() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean, low, high = criteria.interval(values)
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
