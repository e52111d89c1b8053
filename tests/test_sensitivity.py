"""The experiment of sensitivities, and `--score`, at a size of seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from matplotlib.figure import Figure

import jaxprune as jp
from experiments import data
from experiments.data.augment import normalized
from experiments.methods import agp, layerwise, sensitivity
from experiments.procedures import recovering, scoring
from experiments.report import plots
from experiments.runner import checkpoints, training
from experiments.runner.experiment import execute
from experiments.runner.task import initial
from experiments.tasks import classification
from jaxprune.schedule import Part, Training, constant

ONCE = Training(epochs=1, rates=constant(0.05))
SMALL: dict[str, Any] = {
    "limit": 128, "model": "mlp", "widths": (8, 4), "batch_size": 32, "dense": ONCE
}  # fmt: skip
CONFIG = sensitivity.Config(**SMALL, prune_ratios=(0.25, 0.5), resume=True)
FIRST, SECOND = "Dense_0/kernel", "Dense_1/kernel"


def run(root: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    path = execute(sensitivity.EXPERIMENT, replace(CONFIG, root=root, **changes))
    return path, json.loads((path / sensitivity.FILE).read_text())


def test_the_file_has_the_stated_format_and_one_program_serves_all(tmp_path, capsys) -> None:
    training._score.clear_cache()
    path, found = run(tmp_path)
    assert training._score._cache_size() == 1  # of the validation after the epoch, and of all masks
    assert list(found) == ["score", "measure", "images", "dense", "groups", "channels", "masked"]
    assert (found["score"], found["measure"], found["images"]) == ("l2", "accuracy", 200)
    (epoch,) = (json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines())
    assert found["dense"] == epoch["validation"]["accuracy"]
    assert list(found["groups"]) == [FIRST, SECOND]
    for values in found["groups"].values():
        assert list(values) == ["0.25", "0.5"]
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in values.values())
    assert found["channels"] == {FIRST: {"0.25": 6, "0.5": 4}, SECOND: {"0.25": 3, "0.5": 2}}
    assert found["masked"] == []
    assert (path / sensitivity.PICTURE).stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert f"dense {100 * found['dense']:.1f}" in shown
    assert f"{100 * found['groups'][SECOND]['0.5']:.1f}" in shown
    assert json.loads((path / "summary.json").read_text())["sensitivity"] == found


def test_the_group_that_matters_comes_out_as_when_it_is_sliced(tmp_path) -> None:
    """Half of the first group does nothing, all of the second does much."""
    task = classification.task(replace(CONFIG, root=tmp_path, measure="loss", score="l1"))
    variables, graph = initial(task).variables, task.graph
    params = {name: dict(layer) for name, layer in variables["params"].items()}
    dead = np.arange(8) < 4
    params["Dense_0"]["kernel"] = params["Dense_0"]["kernel"] * ~dead
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"] * ~dead[:, None]
    params["Dense_2"]["kernel"] = params["Dense_2"]["kernel"] * 1000
    params["BatchNorm_1"]["bias"] = params["BatchNorm_1"]["bias"] + 1
    variables = variables | {"params": params}
    found = sensitivity.sweep(task, variables)
    lost = {
        name: abs(values["0.5"] - found["dense"]) / found["dense"]
        for name, values in found["groups"].items()
    }
    assert lost[FIRST] < 1e-5
    assert lost[SECOND] > 0.1
    scores = jp.scores.l1(graph, variables)
    keep = jp.select.per_group(graph, {SECOND: scores[SECOND]}, prune_ratio=0.5)
    small, cut = jp.linen.resize(task.model, graph, keep), jp.slice(graph, variables, keep)
    expected = training.evaluate(small, cut, task.dataset, task.dataset.validation)
    np.testing.assert_allclose(found["groups"][SECOND]["0.5"], expected.loss, rtol=1e-4)


def test_every_score_by_name_is_of_the_groups_of_the_network() -> None:
    task = classification.task(CONFIG)
    variables = initial(task).variables
    given = scoring.Given(task, task.graph, variables, jax.random.key(0))
    found = {name: scoring.scores(name, given) for name in scoring.SCORES}
    for name, scores in found.items():
        assert {group: np.shape(s) for group, s in scores.items()} == {FIRST: (8,), SECOND: (4,)}
        assert all(np.isfinite(values).all() for values in scores.values()), name
        assert any(np.ptp(values) > 0 for values in scores.values()) or name == "bn_scale", name
    orders = {tuple(np.argsort(scores[FIRST]).tolist()) for scores in found.values()}
    assert len(orders) > len(found) / 2
    (batch,) = data.examples(task.dataset.train, size=128, count=1, seed=0)  # two batches as one
    images = normalized(task.dataset.mean, task.dataset.std, batch.images)

    def loss(params: Any) -> jax.Array:
        logits = task.model.apply(variables | {"params": params}, images, train=False)
        return 2 * training.cross_entropy(logits, batch.labels)

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    expected = jp.scores.taylor(task.graph, variables, {"params": gradients})
    for name, values in found["taylor"].items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)


def test_agp_prunes_by_the_score_that_is_named(tmp_path, monkeypatch) -> None:
    asked = []
    scores = scoring.scores

    def heard(name: str, given: scoring.Given) -> Any:
        asked.append(name)
        return scores(name, given)

    monkeypatch.setattr(scoring, "scores", heard)
    how = {"train": ONCE, "finetune": (ONCE,), "rounds": 2, "final": 0.5, "score": "wanda"}
    path = execute(agp.EXPERIMENT, agp.Config(**SMALL, **how, root=tmp_path))
    summary = json.loads((path / "summary.json").read_text())
    assert asked == ["wanda", "wanda"]
    assert summary["channels"] == {"dense": 12, "pruned": 6}


def test_every_recovery_by_name_makes_up_for_what_went() -> None:
    """On its images it is never farther from the dense outputs, and keeps as many channels."""
    task = classification.task(CONFIG)
    variables, graph = initial(task).variables, task.graph
    given = scoring.Given(task, graph, variables, jax.random.key(0))
    keep = {FIRST: np.arange(8) % 3 != 0, SECOND: np.arange(4) != 1}
    images = np.concatenate([images for images, _ in scoring.batches(task)])
    dense = np.asarray(graph.fn(variables, images))

    def error(keep: Any, variables: Any) -> float:
        return float(
            ((np.asarray(graph.fn(jp.mask(graph, variables, keep), images)) - dense) ** 2).sum()
        )

    found = {name: recovering.recovered(name, given, keep) for name in recovering.RECOVERIES}
    errors = {name: error(*each) for name, each in found.items()}
    for name, (kept, _) in found.items():
        assert jp.widths(graph, kept) == {FIRST: 5, SECOND: 3}, name
    fitted = {"least_squares", "at_once", "scale", "bias", "obs", "lasso", "dcp"}
    assert all(errors[name] < errors["none"] for name in fitted), errors
    assert errors["absorb"] <= errors["none"]
    assert errors["least_squares"] < min(errors["scale"], errors["bias"])


def test_agp_recovers_by_the_name_that_is_given(tmp_path) -> None:
    how = {"train": ONCE, "finetune": (), "rounds": 2, "final": 0.5, "recover": "obs"}
    path = execute(agp.EXPERIMENT, agp.Config(**SMALL, **how, root=tmp_path))
    summary = json.loads((path / "summary.json").read_text())
    assert summary["channels"] == {"dense": 12, "pruned": 6}
    with pytest.raises(ValueError, match=r"recover='l3' is not one of none, least_squares, "):
        agp.Config(recover="l3")


def test_layer_by_layer_only_what_reads_a_group_trains(tmp_path) -> None:
    train = replace(ONCE, part=Part.READERS)
    config = layerwise.Config(
        **SMALL, train=train, finetune=(), recover="least_squares", root=tmp_path
    )
    path = execute(layerwise.EXPERIMENT, config)
    summary = json.loads((path / "summary.json").read_text())
    assert summary["channels"] == {"dense": 12, "pruned": 6}
    phases = [record["phase"] for record in summary["rounds"]]
    assert phases == ["dense", "layer-1", "recover-1", "layer-2", "recover-2", "commit-1"]
    task = classification.task(CONFIG)
    before, after = (checkpoints.load(path, task, name).variables for name in ("dense", "commit-1"))
    kept = np.asarray(after["params"]["Dense_0"]["kernel"])
    old = np.asarray(before["params"]["Dense_0"]["kernel"])
    assert {column.tobytes() for column in kept.T} <= {column.tobytes() for column in old.T}


def test_a_score_or_a_ratio_that_is_none_is_an_error() -> None:
    for kind in (agp.Config, sensitivity.Config):
        with pytest.raises(ValueError, match=r"score='l3' is not one of l1, l2, .*[\s\S]*Fix: "):
            kind(score="l3")
    for ratios in ((), (0.5, 1.0)):
        with pytest.raises(ValueError, match=r"must be some, each in \[0, 1\)"):
            sensitivity.Config(prune_ratios=ratios)


def test_every_line_of_the_picture_is_explained(monkeypatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    groups = {f"group {number}": {"0.5": 0.1, "0.1": 0.5} for number in range(12)}
    found = {"score": "l2", "measure": "accuracy", "images": 100, "dense": 0.9, "groups": groups}
    plots.sensitivity(Path("a"), found)
    plots.sensitivity(Path("b"), found | {"measure": "loss"})
    labels = ("nothing pruned, ± standard error", "nothing pruned")
    for figure, dense in zip(figures, labels, strict=True):
        (axes,), (legend,) = figure.axes, figure.legends
        words = [text.get_text() for text in legend.get_texts()]
        assert words == [*groups, dense]
        looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
        assert len(looks) == 13
        assert axes.get_lines()[0].get_xdata().tolist() == [10, 50]
