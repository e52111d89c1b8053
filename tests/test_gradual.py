"""Gate Decorator and OICSR from end to end, at a size of seconds."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import itertools

import jax
from jax.experimental.compilation_cache import compilation_cache

import jaxprune as jp
from experiments import evaluate, models
from experiments.methods import gate_decorator, oicsr
from experiments.procedures import kept_rounds, rounds
from experiments.report import plots
from experiments.runner import checkpoints, directory, fit, presets, training
from experiments.runner import config as configuration
from experiments.tasks import classification
from jaxprune.schedule import Part, Training, constant, triangular
from same_runs import Interrupted, check_same, interrupt

RATE = constant(0.05)
SMALL: dict[str, Any] = {
    "limit": 128,
    "model": "mlp",
    "widths": (12, 10),
    "batch_size": 32,
    "dense": Training(epochs=2, rates=RATE),
    "finetune": (Training(epochs=1, rates=RATE),),
    "resume": True,
}
GATES = gate_decorator.Config(
    **SMALL,
    share=0.08,
    ticks=2,
    keep_macs=(0.75, 0.4),
    tick=Training(epochs=2, rates=constant(1e-2), part=Part.GATES),
    tock=Training(epochs=1, rates=triangular(1e-2, 5e-2), strength=1e-3),
)
OICSR = oicsr.Config(
    **SMALL,
    share=0.2,
    keep_macs=(0.7,),
    train=Training(epochs=1, rates=RATE, strength=1e-2),
)


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles every program once for all runs of this file."""
    values = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "whole" not in request.fixturenames:
        monkeypatch.setattr(kept_rounds, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A run that nothing interrupts, and the steps that it compiled."""
    steps, make = [], training.train_step

    def kept(*args: Any, **options: Any) -> Any:
        steps.append(make(*args, **options))
        return steps[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", kept)
        run = gate_decorator.main(replace(GATES, root=tmp_path_factory.mktemp("whole")))
    return run, steps


def phases(run: Path) -> list[str]:
    return [record["phase"] for record in directory.read_json(run / "summary.json")["rounds"]]


def states(module: Any, config: Any) -> Iterator[rounds.State]:
    task, method = classification.task(config), module.method(config)
    return rounds.rounds(task, method, rounds.initial(task, method))


def test_the_run_tells_the_whole_story(whole: Any) -> None:
    run, _ = whole
    names = {path.name for path in run.iterdir()}
    assert names == {
        "checkpoints", "config.json", "metrics.jsonl", "rounds.png", "summary.json", "widths.png"
    }  # fmt: skip
    kept = ["dense", "commit-1", "commit-2", "finetune-1"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {*kept, "last"}
    summary = directory.read_json(run / "summary.json")
    assert list(summary["accuracy"]) == kept
    order = phases(run)
    assert order[:4] == ["dense", "tock-1", "tick-1", "tick-2"]
    assert order[-1] == "finetune-1"
    left = [record["macs"] for record in summary["rounds"]]
    assert left == sorted(left, reverse=True)
    assert [left[order.index(name)] for name in kept[1:3]] == list(summary["milestones"].values())
    for share, target in zip(summary["milestones"].values(), GATES.keep_macs, strict=True):
        assert target - 0.15 < share <= target
    assert summary["macs"]["pruned"] == round(left[-1] * summary["macs"]["dense"])
    trained = [name for name in order if not name.startswith("commit")]
    epochs = [(r["phase"], r["epoch"]) for r in directory.read_metrics(run)]
    assert list(dict(epochs)) == trained
    assert min(summary["images_per_s"].values()) > 0
    assert {"commit", "command", "device", "train_s", "wall_time_s"} < set(summary)


def test_the_figure_is_against_the_ticks(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = whole
    figures: list[plots.Figure] = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    summary = directory.read_json(run / "summary.json")
    kept_rounds.draw(run, summary)
    accuracy, macs, *cuts = figures[0].axes[0].lines
    shown = [record for record in summary["rounds"] if record["kind"] != "finetune"]
    for line, name in ((accuracy, "accuracy"), (macs, "macs")):
        assert list(line.get_xdata()) == [record["rounds"] for record in shown]
        assert list(line.get_ydata()) == [record[name] for record in shown]
    ends = [record["rounds"] for record in shown if record["kind"] == "commit"]
    assert [cut.get_xdata()[0] for cut in cuts] == ends


def test_all_ticks_are_one_program(whole: Any) -> None:
    """And all Tocks are, until a commit changes the shapes."""
    run, steps = whole
    order = phases(run)
    kinds = {(name.split("-")[0], order[:at].count("commit-1")) for at, name in enumerate(order)}
    trained = {kind for kind in kinds if kind[0] != "commit"}
    assert len(order) > len(trained) + 4
    assert len(steps) == len(trained)
    assert [step._cache_size() for step in steps] == [1] * len(steps)


def test_the_network_can_be_read_again(whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = whole
    assert evaluate.main(run)
    assert "the same" in capsys.readouterr().out


def test_masked_and_cut_are_one_network_at_a_commit() -> None:
    """What the last Tick left, masked and melted, and what the commit after it left."""
    *_, before, after = itertools.islice(states(gate_decorator, GATES), 5)
    assert after.done is not None
    assert after.done.name == "commit-1"
    networks = [rounds.network(gate_decorator.method(GATES), state) for state in (before, after)]
    images: Any = classification.task(GATES).dataset.validation.images
    masked, cut = (
        jax.jit(partial(network.model.apply, train=False))(network.variables, images / 255)
        for network in networks
    )
    np.testing.assert_allclose(cut, masked, rtol=1e-4, atol=1e-5)
    one, other = (record | {"phase": "", "kind": ""} for record in after.records[-2:])
    assert one == other


def test_an_interrupted_run_ends_like_one_that_was_not(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a Tick, before and after its checkpoint; in a save; between those of a commit."""
    config = replace(GATES, root=tmp_path)
    last = tmp_path / "gate_decorator" / "checkpoints" / "last"
    found = []
    for module, name, at, before in (
        (directory, "append_metrics", 4, False),
        (directory, "append_metrics", 2, True),
        (os, "replace", 5, True),
        (training, "channel_graph", 2, False),
        (checkpoints, "save", 2, False),
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, module, name, at, before=before)
            with pytest.raises(Interrupted):
                gate_decorator.main(config)
        done = jp.restore(last).metadata["done"]
        found.append(f"{done['kind']}-{done['number']}")
    assert found[:2] == ["tock-1", "tock-1"]
    assert found[3:] == ["tick-2", "tick-5"]
    check_same(gate_decorator.main(config), whole[0], ["rounds", "widths", "macs"])


ONE: dict[str, Any] = {"keep_macs": (0.6,), "share": 0.3, "resume": False}
COMBINATIONS = {
    "tick-only pcnn": (gate_decorator, replace(GATES, framework="tick-only", score="pcnn", **ONE)),
    "one-shot gbn": (gate_decorator, replace(GATES, framework="one-shot", **ONE)),
    "one-shot slim": (gate_decorator, replace(GATES, framework="one-shot", score="slim", **ONE)),
    "tick-tock random": (gate_decorator, replace(GATES, score="random", **ONE)),
    "oicsr": (oicsr, OICSR),
    "separated": (oicsr, replace(OICSR, regularizer="separated", channels="all")),
    "l1": (oicsr, replace(OICSR, regularizer="l1")),
}


@pytest.mark.parametrize(("module", "config"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_every_combination_ends_at_its_target(module: Any, config: Any, tmp_path: Path) -> None:
    run = module.main(replace(config, root=tmp_path))
    summary = directory.read_json(run / "summary.json")
    assert summary["macs"]["pruned"] <= config.keep_macs[-1] * summary["macs"]["dense"]
    assert summary["final"] == "finetune-1"
    kinds = {record["kind"] for record in summary["rounds"]}
    assert kinds - {"dense", "commit", "finetune"} == {
        "tick-tock": {"tick", "tock"}, "tick-only": {"tick"}, "one-shot": {"score"}
    }.get(getattr(config, "framework", ""), {"train"})  # fmt: skip
    if module is oicsr:
        assert set(summary["ratios"]) == set(summary["widths"]["dense"])
        assert 0 < max(summary["ratios"].values()) <= 0.5


def test_nothing_trains_in_the_scoring_of_one_shot(tmp_path: Path) -> None:
    _, config = COMBINATIONS["one-shot gbn"]
    run = gate_decorator.main(replace(config, root=tmp_path, finetune=()))
    dense, cut = (jp.restore(run / "checkpoints" / name) for name in ("dense", "commit-1"))
    graph = classification.task(config).graph
    kept = jp.keep_from_spec(cut.spec)
    expected = jp.slice(graph, dense.variables, kept)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(cut.variables), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=str(path))


def test_what_is_frozen_or_pruned_does_not_move() -> None:
    """A Tick moves gates, their biases and the head; a Tock all, but no channel that is gone."""
    found = list(itertools.islice(states(gate_decorator, replace(GATES, keep_macs=(0.4,))), 5))
    assert [state.done and state.done.name for state in found] == [
        "dense-1", "tock-1", "tick-1", "tick-2", "tock-2"
    ]  # fmt: skip
    for old, new in itertools.pairwise(found[1:]):
        graph, keep = new.progress.graph, new.progress.keep
        masked = jp.mask(graph, old.variables, keep)["params"]
        same = jax.tree.map(np.array_equal, masked, new.variables["params"])
        assert new.done is not None
        assert new.done.training is not None
        trains = jp.schedule.trainable(graph, old.variables, new.done.training.part)
        assert jax.tree.map(np.logical_not, same) == trains
        again = jp.mask(graph, new.variables, keep)
        jax.tree.map(np.testing.assert_array_equal, again["params"], new.variables["params"])
    assert not all(kept.all() for kept in found[-1].progress.keep.values())


STRONG = [
    (gate_decorator, replace(GATES, tock=replace(GATES.tock, strength=1.0)), jp.scores.bn_scale),
    (oicsr, replace(OICSR, train=replace(OICSR.train, strength=1.0)), jp.scores.channel_energy),
]


@pytest.mark.parametrize(("module", "config", "score"), STRONG, ids=["gates", "oicsr"])
def test_the_penalty_is_in_the_training(module: Any, config: Any, score: Any) -> None:
    sums = [
        sum(values.sum() for values in score(state.progress.graph, state.variables).values())
        for state in itertools.islice(states(module, config), 2)
    ]
    assert sums[1] < 0.8 * sums[0]


def poisoned(patch: pytest.MonkeyPatch, tick: int, batch: int) -> None:
    """Makes the loss of a batch of a Tick NaN, by what the step returns."""
    fit, calls = training.fit, []

    def fitted(*args: Any, **options: Any) -> Any:
        if options["tally"] is None:
            return fit(*args, **options)
        calls.append(None)
        step, steps = options["step"], []

        def bad(*arguments: Any) -> Any:
            state, metrics = step(*arguments)
            steps.append(None)
            if len(steps) == batch:
                metrics = metrics._replace(loss=metrics.loss * np.nan)
            return state, metrics

        return fit(*args, **options | ({"step": bad} if len(calls) == tick else {}))

    patch.setattr(training, "fit", fitted)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_network(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(GATES, root=tmp_path)
    with monkeypatch.context() as patch:
        poisoned(patch, tick=2, batch=7)
        with pytest.raises(
            fit.DivergedError, match=r"nan in epoch 2, batch 3 of 4\.\nFix: a lower learning"
        ) as caught:
            gate_decorator.main(config)
    (note,) = caught.value.__notes__
    assert note.startswith("This was in tick-2, of which nothing is kept; the network before it is")
    assert note.endswith("checkpoints/last.")
    last = jp.restore(tmp_path / "gate_decorator" / "checkpoints" / "last")
    assert last.metadata["done"]["kind"] == "tick"
    assert last.metadata["done"]["number"] == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.variables))
    check_same(gate_decorator.main(config), whole[0], ["rounds", "widths", "macs"])


def test_a_network_that_diverges_says_where(tmp_path: Path) -> None:
    hot = Training(epochs=2, rates=constant(1e30))
    with pytest.raises(fit.DivergedError, match=r"the loss is (nan|inf) in epoch 1, ") as e:
        gate_decorator.main(replace(GATES, root=tmp_path, dense=hot))
    assert e.value.__notes__ == ["This was in dense, of which nothing is kept; none was."]
    assert not (tmp_path / "gate_decorator" / "checkpoints" / "dense").exists()


DENSENET = replace(GATES, name="streams", model="densenet40", widths=(), keep_macs=(0.1,))
"""Only its groups with a BatchNorm have scores; without the others 10.5 % of the MACs stay."""


def test_bad_input_is_an_error_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"one-shot prunes once, keep_macs=\(0.75, 0.4\).*\nFix: "):
        replace(GATES, framework="one-shot")
    with pytest.raises(ValueError, match=r"tick.strength: a Tick has no penalty.*\nFix: "):
        replace(GATES, tick=replace(GATES.tick, strength=0.1))
    with pytest.raises(ValueError, match=r"train.strength=0 is not a regularization\nFix: "):
        replace(OICSR, train=replace(OICSR.train, strength=0.0))
    with pytest.raises(ValueError, match=r"batch_size=0 must be above 0\nFix: "):
        replace(OICSR, batch_size=0)
    monkeypatch.setattr(training, "fit", None)
    for module, config in (
        (gate_decorator, replace(GATES, min_keep_ratio=0.9)),
        (oicsr, replace(OICSR, keep_macs=(0.1,))),
        (gate_decorator, replace(GATES, keep_macs=(0.3, 0.5))),
        (gate_decorator, DENSENET),
    ):
        with pytest.raises(jp.errors.BudgetError, match=r"\nFix: "):
            module.main(replace(config, root=tmp_path))
    with pytest.raises(ValueError, match=r"no preset 'vgg'.\nFix: one of \['cifar10-small'"):
        presets.chosen(oicsr.PRESETS, oicsr.Config(), ["--preset", "vgg"])


@pytest.mark.parametrize("module", [gate_decorator, oicsr])
def test_presets(module: Any) -> None:
    for name, changes in module.PRESETS.items():
        found = presets.chosen(module.PRESETS, module.Config(), ["--preset", name])
        assert replace(found, **changes) == found
        models.build(found.model)
        module.method(found)
        value = configuration.to_json(found)
        assert configuration.from_json(value, module.Config) == found


def test_the_settings_of_the_paper() -> None:
    for name, share, batch in (("resnet56-cifar10", 0.002, 64), ("vgg16-cifar100", 0.005, None)):
        found = presets.config(name, gate_decorator.PRESETS, gate_decorator.Config())
        assert (found.share, found.ticks, found.finetune_batch_size) == (share, 10, batch)
        assert (found.batch_size, found.min_keep_ratio) == (128, 0.1)
        assert (found.dense.epochs, found.dense.learning_rate(160)(81)) == (160, 0.01)
        assert found.tock == jp.schedule.TOCK
