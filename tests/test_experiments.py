"""The experiments from end to end, at a size of seconds."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from experiments import data, evaluate, models, network_slimming, runs, training

ROOT = Path(__file__).parents[1]
TINY = network_slimming.Config(
    widths=(6,), epochs=2, finetune_epochs=1, prune_ratio=0.5, recalibration_batches=1
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return network_slimming.main(replace(TINY, root=tmp_path_factory.mktemp("runs")))


def test_the_run_directory_tells_the_whole_story(run):
    names = {path.name for path in run.iterdir()}
    files = {"config.json", "metrics.jsonl", "summary.json", "scales.png", "widths.png"}
    assert names == files | {"checkpoints"}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["phase"], r["epoch"]) for r in records] == [
        ("train", 1),
        ("train", 2),
        ("fine-tune", 1),
    ]
    assert all(0 <= r["validation"]["accuracy"] <= 1 for r in records)
    assert records[1]["train"]["loss"] < records[0]["train"]["loss"]
    assert json.loads((run / "config.json").read_text())["widths"] == [6]


def test_the_summary_has_accuracies_costs_and_provenance(run):
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["accuracy"]) == ["dense", "pruned", "recalibrated", "finetuned"]
    assert summary["channels"] == {"dense": 12, "pruned": 6}
    assert summary["channels_pruned"] == 0.5
    assert summary["macs"]["dense"] == 8 * 8 * 9 * (6 + 6 * 6 + 6 * 6) + 6 * 10
    for name in ("macs", "parameters", "bytes", "activation_bytes"):
        assert summary[name]["pruned"] < summary[name]["dense"]
    assert min(summary["latency_ms"].values()) > 0
    assert summary["seed"] == 0
    assert {"commit", "command", "device", "versions", "wall_time_s"} < set(summary)


def test_a_new_process_gets_the_same_accuracy(run):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", str(run)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = json.loads((run / "summary.json").read_text())["accuracy"]["finetuned"]
    assert done.returncode == 0, done.stderr
    assert f"accuracy {expected!r} on 400 test images of digits" in done.stdout
    assert "the same" in done.stdout


def test_another_accuracy_is_noticed(run, tmp_path, capsys):
    for path in run.iterdir():
        (tmp_path / path.name).symlink_to(path)
    summary = json.loads((run / "summary.json").read_text())
    summary["accuracy"]["finetuned"] += 1 / 400
    (tmp_path / "summary.json").unlink()
    runs.write_json(tmp_path / "summary.json", summary)
    assert not evaluate.main(tmp_path)
    assert "DIFFERENT" in capsys.readouterr().out


def test_a_directory_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*config.json.*\nFix: give the directory"):
        evaluate.main(tmp_path)


def test_digits_are_split_alike_every_time():
    first, second = data.digits(), data.digits()
    parts = [
        (getattr(d, part) for part in ("train", "validation", "test")) for d in (first, second)
    ]
    for one, other in zip(*parts, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    sizes = [len(split.labels) for split in (first.train, first.validation, first.test)]
    assert sizes == [1197, 200, 400]
    assert first.image_shape == (8, 8, 1)
    assert first.train.images.dtype == np.float32
    assert abs(first.train.images.mean()) < 1e-5
    assert abs(first.train.images.std() - 1) < 1e-5
    assert set(first.test.labels) == set(range(first.classes)) == set(range(10))


def test_digits_parts_are_disjoint():
    dataset = data.digits()
    parts = (dataset.train, dataset.validation, dataset.test)
    images = [{image.tobytes() for image in split.images} for split in parts]
    assert sum(map(len, images)) == len(set.union(*images)) == 1797


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match=r"no data set 'mnist'.\nFix: one of \['digits'\]"):
        data.load("mnist")
    with pytest.raises(ValueError, match=r"no model 'vgg'.\nFix: one of \['convnet'\]"):
        models.build("vgg")


def test_batches_are_full_and_shuffled_by_the_generator():
    split = data.Split(np.arange(10), np.arange(10))
    batches = list(training.batches(split, 4, np.random.default_rng(0)))
    again = list(training.batches(split, 4, np.random.default_rng(0)))
    assert [len(batch.labels) for batch in batches] == [4, 4]
    assert len({int(label) for batch in batches for label in batch.labels}) == 8
    np.testing.assert_array_equal(batches[0].images, again[0].images)
    np.testing.assert_array_equal(batches[0].images, batches[0].labels)


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match=r"1197 training images do not fill a batch of 2000"):
        training.fit(
            models.build("convnet"),
            {},
            data.digits(),
            tx=training.sgd(0.1, steps=1),
            epochs=1,
            batch_size=2000,
            rng=np.random.default_rng(0),
        )


def test_a_taken_name_gets_a_number(tmp_path):
    first = runs.create(tmp_path, "a")
    (first / "config.json").write_text("{}")
    assert runs.create(tmp_path, "a") == tmp_path / "a-2"
    assert runs.create(tmp_path, "a") == tmp_path / "a-3"
    assert (first / "config.json").exists()
    assert runs.create(tmp_path, "a", overwrite=True) == first
    assert not list(first.iterdir())


def test_what_is_no_run_is_never_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"is not a run .* not overwritten.\nFix: choose another"):
        runs.create(tmp_path, "a", overwrite=True)
    assert (tmp_path / "a" / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_is_not_a_path(tmp_path, name):
    with pytest.raises(ValueError, match=r"is not a name for a run.\nFix:"):
        runs.create(tmp_path, name)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    runs.write_json(path, {"accuracy": 0.5})
    with pytest.raises(TypeError):
        runs.write_json(path, {"accuracy": object()})
    assert runs.read_json(path) == {"accuracy": 0.5}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
