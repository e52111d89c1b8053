"""`experiments.autoslim`: what the searches may ask, what they find, and what trains afterwards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments.data import Split
from experiments.methods import autoslim
from experiments.procedures import curves
from experiments.report import plots
from experiments.runner import directory, training
from experiments.runner import task as networks
from experiments.tasks import classification
from slimmable_runs import AUTO


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "spectrum", lambda *_: None)


def test_a_search_asks_only_for_widths_that_were_trained() -> None:
    config = replace(AUTO, low=0.4)
    task = classification.task(config)
    space, _ = autoslim.searches.aims(config, task)
    least = autoslim.searches.uniform(config, task)(0.4)
    assert all(counts[-1] >= least[group] for group, counts in space.items())
    wider, _ = autoslim.searches.aims(AUTO, task)
    assert sum(map(len, space.values())) < sum(map(len, wider.values()))


def test_scores_leave_no_layer_narrower_than_it_was_trained() -> None:
    config = replace(AUTO, low=0.4, searches=("scores",))
    task = classification.task(config)
    variables = networks.initial(task).variables
    first = variables["params"]["BatchNorm_0"]
    first["scale"] = 1e-3 * np.asarray(first["scale"])
    _, batch = autoslim.apart(config, task.dataset)
    *_, last = autoslim.searches.search(config, task, variables, batch)["scores"]
    assert last["widths"]["Dense_0/kernel"] == 4


@pytest.mark.parametrize("retrain", ["alone", "jointly"])
def test_autoslim_finds_widths_within_every_target(retrain: Any, tmp_path: Path) -> None:
    searches: Any = ("greedy", "uniform", "scores", "random", "evolution")
    searches = searches if retrain == "jointly" else ("greedy", "scores")
    config = replace(AUTO, root=tmp_path, retrain=retrain, searches=searches)
    run = autoslim.main(config)
    summary, task = directory.read_json(run / directory.SUMMARY), classification.task(config)
    base = jp.cost.macs(task.graph, autoslim.searches.uniform(config, task)(1.0))
    assert set(summary["curves"]) == set(searches)
    for label, names in summary["curves"].items():
        assert names == [f"{label}-{share}" for share in config.keep_macs]
        for name, share in zip(names, config.keep_macs, strict=True):
            assert 0 < summary["networks"][name]["macs"] <= share * base
    trained = {record["phase"] for record in directory.read_metrics(run)}
    alone = {name for names in summary["curves"].values() for name in names}
    jointly = {f"{label}-jointly" for label in searches}
    assert trained == {"supernet"} | (alone if retrain == "alone" else jointly)


def test_the_supernet_does_not_see_what_the_search_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(
        curves,
        "trained",
        lambda run, *_: seen.update(train=run.task.dataset.train) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        autoslim.main(replace(AUTO, root=tmp_path))
    whole = classification.task(AUTO).dataset
    rest, batch = autoslim.apart(AUTO, whole)
    assert isinstance(rest, Split)
    np.testing.assert_array_equal(seen["train"].images, rest.images)
    assert rest.size + batch.size == whole.train.size == 128
    pictures = [{np.asarray(image).tobytes() for image in part.images} for part in (rest, batch)]
    assert not pictures[0] & pictures[1]


@pytest.mark.parametrize("retrain", ["alone", "jointly"])
def test_only_what_was_found_trains_with_smooth_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retrain: Any
) -> None:
    asked = []

    def smoothed(share: float) -> Any:
        asked.append(share)
        return lambda logits, labels: 100 + training.cross_entropy(logits, labels)

    monkeypatch.setattr(training, "smoothed", smoothed)
    config = replace(
        AUTO, root=tmp_path, retrain=retrain, smoothing=0.1, searches=("greedy",), judge="loss"
    )
    metrics = directory.read_metrics(autoslim.main(config))
    assert asked == [0.1]
    assert {r["phase"] for r in metrics if r["train"]["loss"] < 50} == {"supernet"}


def test_a_target_out_of_reach_is_an_error_before_any_training(tmp_path: Path) -> None:
    config = replace(AUTO, root=tmp_path, keep_macs=(0.01,))
    with pytest.raises(jp.errors.BudgetError, match=r"out of reach(.|\n)*Fix: .* lower --low"):
        autoslim.main(config)
    assert directory.read_metrics(tmp_path / autoslim.EXPERIMENT.name) == []


def test_a_held_out_batch_leaves_images_to_train_on() -> None:
    whole = classification.task(AUTO).dataset
    with pytest.raises(ValueError, match=r"held_out=128 leaves none of 128(.|\n)*--held-out"):
        autoslim.apart(replace(AUTO, held_out=128), whole)


def test_all_that_a_search_finds_fits_where_norms_read_a_stream() -> None:
    config = replace(AUTO, model="preresnet164", widths=(), low=0.3)
    task = classification.task(config)
    space, (target, *_) = autoslim.searches.aims(config, task)

    def evaluate(candidates: Any) -> Any:
        return np.random.default_rng(0).random(len(candidates))

    rng = np.random.default_rng(0)
    found = jp.slimmable.random_search(evaluate, task.graph, space, target, rng, samples=2)
    keep = jp.slimmable.prefix(task.graph, found.widths)
    assert jp.cost.macs(task.graph, jp.widths(task.graph, keep)) == found.cost
