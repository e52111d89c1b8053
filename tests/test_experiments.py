"""The experiments from end to end, at a size of seconds."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from experiments import data, evaluate, models, search
from experiments.methods import network_slimming
from experiments.methods.network_slimming import PRESETS, Config
from experiments.runner import config, directory, presets

ROOT = Path(__file__).parents[1]
TINY = Config(
    limit=256, widths=(6,), epochs=2, finetune_epochs=1, prune_ratio=0.5, recalibration_batches=1
)
MLP = replace(TINY, model="mlp", widths=(8, 6))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return network_slimming.main(replace(TINY, root=tmp_path_factory.mktemp("runs")))


def read(path: Path) -> dict:
    return json.loads((path / "summary.json").read_text())


def test_the_run_directory_tells_the_whole_story(run):
    names = {path.name for path in run.iterdir()}
    files = {"config.json", "metrics.jsonl", "summary.json", "scales.png", "widths.png"}
    assert names == files | {"checkpoints", "curve.png"}
    checkpoints = {path.name for path in (run / "checkpoints").iterdir()}
    assert checkpoints == {"dense", "pruned", "recalibrated", "finetuned"}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["phase"], r["epoch"]) for r in records] == [
        ("dense", 1),
        ("dense", 2),
        ("finetuned", 1),
    ]
    assert all(0 <= r["validation"]["accuracy"] <= 1 for r in records)
    assert records[1]["train"]["loss"] < records[0]["train"]["loss"]
    assert json.loads((run / "config.json").read_text())["widths"] == [6]


def test_the_summary_has_accuracies_costs_and_provenance(run):
    summary = read(run)
    stages = ["dense", "pruned", "recalibrated", "finetuned"]
    assert list(summary["accuracy"]) == list(summary["validation_accuracy"]) == stages
    assert summary["final"] == "finetuned"
    assert summary["channels"] == {"dense": 12, "pruned": 6}
    assert summary["channels_pruned"] == 0.5
    assert sum(summary["widths"]["pruned"].values()) == 6
    assert summary["macs"]["dense"] == 8 * 8 * 9 * (6 + 6 * 6 + 6 * 6) + 6 * 10
    for name in ("macs", "parameters", "bytes", "activation_bytes"):
        assert summary[name]["pruned"] < summary[name]["dense"]
    assert min(summary["latency_ms"].values()) > 0
    assert summary["curve"]["accuracy"][0] == summary["validation_accuracy"]["dense"]
    assert summary["seed"] == 0
    assert {"commit", "command", "device", "versions", "wall_time_s", "train_s"} < set(summary)


PROCEDURES = {
    "two passes": ({"passes": 2}, ["trained-2", "pruned-2", "recalibrated-2", "finetuned-2"]),
    "masks": ({"method": "mask"}, ["sliced"]),
    "masks twice": ({"method": "mask", "passes": 2, "recalibration_batches": 0}, ["sliced"]),
    "scratch": ({"retrain": "scratch-b", "penalty": "smooth-l1"}, ["scratch-b"]),
    "rewind": ({"retrain": "rewind", "penalty": "proximal-l1"}, ["rewound"]),
    "momentum": ({"momentum": "sliced", "rule": "pytorch_author"}, ["finetuned"]),
    "layers": ({"scope": "layer"}, ["finetuned"]),
    "budget": ({"target_macs": 0.5}, ["finetuned"]),
}


@pytest.mark.parametrize(("changes", "last"), PROCEDURES.values(), ids=PROCEDURES)
def test_every_procedure_ends_in_a_network_that_can_be_read_again(
    tmp_path, capsys, monkeypatch, changes, last
):
    monkeypatch.setattr(network_slimming.report, "draw", lambda *_: None)
    path = network_slimming.main(replace(MLP, root=tmp_path, **changes))
    summary = read(path)
    assert list(summary["accuracy"])[-len(last) :] == last
    assert summary["final"] == last[-1]
    if "target_macs" in changes:
        assert summary["macs"]["pruned"] <= 0.5 * summary["macs"]["dense"]
    if changes.get("method") == "mask":
        *_, masked, sliced = summary["accuracy"].values()
        assert abs(sliced - masked) <= 1 / 400
    if "scope" in changes:
        assert list(summary["widths"]["pruned"].values()) == [4, 3]
    assert evaluate.main(path)
    assert "the same" in capsys.readouterr().out


def test_a_search_chooses_on_validation_images_and_tests_once(tmp_path, monkeypatch):
    tested = []
    accuracy = search.results.accuracy

    def counted(task, network, split):
        tested.append(split is task.dataset.test)
        return accuracy(task, network, split)

    monkeypatch.setattr(search.results, "accuracy", counted)
    path = search.main(
        search.Search(
            slimming=replace(MLP, root=tmp_path, name="search"),
            strengths=(1e-3, 1e-2),
            ratios=(0.5, 0.95, 0.2),
            tolerance=1.0,
            judge="recalibrated",
        )
    )
    found = json.loads((path / "search.json").read_text())
    assert [(row["strength"], row["ratio"]) for row in found["rows"]] == [(1e-3, 0.5), (1e-2, 0.5)]
    assert found["chosen"]["macs"] == min(row["macs"] for row in found["rows"])
    assert set(found["test"]) == {"dense", "pruned"}
    assert tested[-2:] == [True, True]
    assert sum(tested) == 2
    assert (path / "scales.png").exists()


def test_flags_override_the_preset():
    arguments = ["--preset", "vgg19-cifar10", "--seed", "3"]
    chosen = presets.chosen(PRESETS, Config(), arguments)
    assert (chosen.model, chosen.prune_ratio, chosen.widths) == ("vgg19", 0.7, ())
    assert presets.chosen(PRESETS, Config(), []) == Config()
    with pytest.raises(ValueError, match=r"no preset 'vgg'.\nFix: one of \['cifar10-small'"):
        presets.config("vgg", PRESETS, Config())


def test_contradictions_are_errors():
    with pytest.raises(ValueError, match=r"momentum=sliced is for sliced networks.*\nFix: "):
        replace(TINY, method="mask", momentum="sliced")
    with pytest.raises(ValueError, match=r"passes=0 must be above 0\nFix: "):
        replace(TINY, passes=0)
    with pytest.raises(ValueError, match=r"overwrite replaces a run and resume goes on"):
        replace(TINY, overwrite=True, resume=True)


def test_a_configuration_survives_json():
    chosen = replace(TINY, root=Path("a"), data_dir=Path("b"), milestones=(0.25,))
    value = json.loads(json.dumps(config.to_json(chosen)))
    assert config.from_json(value, Config) == chosen
    with pytest.raises(ValueError, match=r"no field \['speed'\].\nFix: use the version"):
        config.from_json(value | {"speed": 1}, Config)


def test_a_scale_shortens_every_training():
    chosen = replace(TINY, scale=0.1)
    assert [chosen.scaled(epochs) for epochs in (160, 30, 5, 1)] == [16, 3, 1, 1]


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
    directory.write_json(tmp_path / "summary.json", summary)
    assert not evaluate.main(tmp_path)
    assert "DIFFERENT" in capsys.readouterr().out


def test_a_directory_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*config.json.*\nFix: give the directory"):
        evaluate.main(tmp_path)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match=r"no data set 'mnits'.\nFix: one of \['caltech_birds2"):
        data.load("mnits")
    with pytest.raises(ValueError, match=r"no model 'vgg'.\nFix: one of \['alexnet'"):
        models.build("vgg")


def test_a_taken_name_gets_a_number(tmp_path):
    first = directory.create(tmp_path, "a")
    (first / "config.json").write_text("{}")
    assert directory.create(tmp_path, "a") == tmp_path / "a-2"
    assert directory.create(tmp_path, "a") == tmp_path / "a-3"
    assert (first / "config.json").exists()
    assert directory.create(tmp_path, "a", overwrite=True) == first
    assert not list(first.iterdir())


def test_what_is_no_run_is_never_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"is not a run .* not overwritten.\nFix: choose another"):
        directory.create(tmp_path, "a", overwrite=True)
    assert (tmp_path / "a" / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_is_not_a_path(tmp_path, name):
    with pytest.raises(ValueError, match=r"is not a name for a run.\nFix:"):
        directory.create(tmp_path, name)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    directory.write_json(path, {"accuracy": 0.5})
    with pytest.raises(TypeError):
        directory.write_json(path, {"accuracy": object()})
    assert directory.read_json(path) == {"accuracy": 0.5}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
