"""S-Net, US-Net and AutoSlim from end to end, at a size of seconds."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments import evaluate, models, spectrum
from experiments.methods import autoslim, slimmable, us_slimmable
from experiments.procedures import supernet
from experiments.report import plots
from experiments.runner import checkpoints, directory, presets, training
from experiments.runner import task as networks
from experiments.runner.task import Task
from experiments.tasks import classification
from jaxprune.arguments import paths
from jaxprune.schedule import Part
from same_runs import Interrupted, check_same, interrupt
from slimmable_runs import AUTO, HOW, S_NET, US_NET


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "s_net" not in request.fixturenames:
        monkeypatch.setattr(plots, "spectrum", lambda *_: None)


@pytest.fixture(scope="module")
def s_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slimmable.main(replace(S_NET, root=tmp_path_factory.mktemp("s_net")))


def read(run: Path) -> Any:
    return directory.read_json(run / directory.SUMMARY)


def test_an_s_net_beside_networks_trained_alone(s_net: Path) -> None:
    names = ["slimmable-1.0", "slimmable-0.5", "alone-1.0", "alone-0.5"]
    assert {path.name for path in s_net.iterdir()} == {
        "checkpoints", "config.json", "metrics.jsonl", "spectrum.png", "summary.json"
    }  # fmt: skip
    assert {path.name for path in (s_net / "checkpoints").iterdir()} == {"supernet", *names}
    summary = read(s_net)
    assert list(summary["accuracy"]) == names
    assert summary["curves"] == {"slimmable": names[:2], "alone": names[2:]}
    costs = summary["networks"]
    for cut, alone in zip(names[:2], names[2:], strict=True):
        assert {**costs[cut], "latency_ms": 0} == {**costs[alone], "latency_ms": 0}
    assert list(costs["slimmable-0.5"]["widths"].values()) == [6, 6]
    assert [(r["phase"], r["epoch"]) for r in directory.read_metrics(s_net)] == [
        (name, epoch) for name in ("supernet", *names[2:]) for epoch in (1, 2)
    ]


def test_a_width_is_evaluated_from_its_checkpoint(s_net: Path, tmp_path: Path) -> None:
    assert evaluate.main(s_net)
    directory.write_json(tmp_path / directory.CONFIG, {"experiment": "detection"})
    directory.write_json(tmp_path / directory.SUMMARY, {})
    with pytest.raises(ValueError, match=r"'detection', which does not classify.\nFix: a run"):
        evaluate.main(tmp_path)


def test_runs_are_drawn_in_one_picture(
    s_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "all.png"
    spectrum.main((s_net, s_net), picture)
    assert picture.stat().st_size > 1000
    (tmp_path / "summary.json").write_text("{}")
    other = tmp_path / "other" / s_net.name
    shutil.copytree(s_net, other)
    drawn = []
    monkeypatch.setattr(plots, "spectrum", lambda _, curves: drawn.extend(curves))
    spectrum.main((s_net, other), tmp_path / "both.png")
    assert len(set(drawn)) == len(drawn) == 4
    with pytest.raises(ValueError, match=r"has no curves.\nFix: runs of slimmable, us_slimmable"):
        spectrum.main((tmp_path,), picture)


def test_every_width_of_an_s_net_has_its_own_norm_and_the_kernels_are_shared(s_net: Path) -> None:
    task = classification.task(S_NET)
    wide, narrow = (
        jp.restore(checkpoints.path(s_net, f"slimmable-{width}")).variables for width in (1.0, 0.5)
    )
    keep = jp.slimmable.prefix(task.graph, 0.5, divisor=2)
    cut = jp.slice(task.graph, wide, keep)
    same = jax.tree.map(np.array_equal, cut["params"], narrow["params"])
    assert {name for name, each in same.items() if not all(each.values())} == {
        name for name in same if "Norm" in name
    }


@pytest.mark.parametrize(
    "config",
    [US_NET, replace(US_NET, execution="slice"), replace(US_NET, sandwich=False, distill=False)],
    ids=["mask", "slice", "plain"],
)
def test_a_us_net_runs_at_widths_that_it_was_not_trained_at(config: Any, tmp_path: Path) -> None:
    assert 0.6 not in us_slimmable.multipliers(config)
    run = us_slimmable.main(replace(config, root=tmp_path))
    assert list(read(run)["accuracy"]) == ["us-1.0", "us-0.6", "us-0.25"]
    task = classification.task(config)
    train: Any = task.dataset.train
    for name in read(run)["accuracy"]:
        found = checkpoints.load(run, task, name)
        update = training.batch_statistics(found.model, task.dataset)
        moments = jp.recover.recalibrate(update, found.variables, [train.images])
        close = jax.tree.map(
            lambda a, b: np.allclose(a, b, rtol=1e-3, atol=1e-5),
            moments["batch_stats"],
            found.variables["batch_stats"],
        )
        assert all(jax.tree.leaves(close))


def test_what_no_step_draws_is_named() -> None:
    drawn = us_slimmable.multipliers(replace(US_NET, unseen=(0.5, 0.75)))
    assert drawn == [0.25, 0.375, 0.625, 0.875, 1.0]
    third = replace(US_NET, low=1 / 3, evaluated=(1.0,))
    assert us_slimmable.multipliers(replace(US_NET, grid=2.0)) == [0.25, 1.0]
    assert list(us_slimmable.method(third, classification.task(third)).fixed) == ["1.0", str(1 / 3)]


def test_drawn_widths_are_of_the_grid_together_or_group_by_group() -> None:
    grid = [{"a": np.arange(4) < n, "b": np.arange(6) < 2 * n} for n in (1, 2, 3)]
    pairs = {}
    for nonuniform in (False, True):
        draw = supernet.draws(grid, 2, nonuniform=nonuniform)
        pairs[nonuniform] = {
            (int(keep["a"].sum()), int(keep["b"].sum()))
            for seed in range(40)
            for keep in draw(jax.random.key(seed)).values()
        }
    assert pairs[False] == {(1, 2), (2, 4), (3, 6)}
    assert pairs[True] == {(a, b) for a in (1, 2, 3) for b in (2, 4, 6)}


def test_smooth_labels_give_their_share_to_the_other_classes() -> None:
    logits, labels = jax.random.normal(jax.random.key(0), (5, 4)), jax.numpy.arange(5) % 4
    log = np.asarray(jax.nn.log_softmax(logits), np.float64)
    soft = np.full((5, 4), 0.1 / 3)
    soft[np.arange(5), labels] = 0.9
    np.testing.assert_allclose(
        training.smoothed(0.1)(logits, labels), -(soft * log).sum(-1).mean(), rtol=1e-6
    )
    assert training.smoothed(0.0) is training.cross_entropy


def test_weights_decay_but_for_norms_biases_and_depthwise_kernels() -> None:
    config = replace(S_NET, model="mobilenet_v1_cifar", widths=())
    task = classification.task(config)  # of gray images: the first kernel has one input channel
    ones = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32),
        jax.eval_shape(lambda: networks.initial(task).variables["params"]),
    )
    tx = supernet.optimizer(task, HOW)
    updates, _ = tx.update(jax.tree.map(np.zeros_like, ones), tx.init(ones), ones)
    moved = {path for path, leaf in paths.flatten(updates)[0].items() if np.any(leaf)}
    points = {f"Separable_{n}/Conv_1/kernel" for n in range(13)}
    assert moved == {"Conv_0/kernel", "Dense_0/kernel", *points}
    parts = {"shared": {"params": ones}, "private": {}}
    updates, _ = tx.update(jax.tree.map(np.zeros_like, parts), tx.init(parts), parts)
    moved_parts = {path for path, leaf in paths.flatten(updates)[0].items() if np.any(leaf)}
    assert moved_parts == {f"shared/params/{path}" for path in moved}


def test_kernels_that_read_a_single_channel_decay_too() -> None:
    config = replace(S_NET, model="convnet", widths=(2, 4))
    task = classification.task(config)
    keep = jp.slimmable.prefix(task.graph, {name: 1 for name in task.graph.groups})
    small = networks.fresh(
        jp.linen.resize(task.model, task.graph, keep), task.dataset, jax.random.key(0)
    )["params"]
    tx = supernet.optimizer(task, HOW)
    updates, _ = tx.update(jax.tree.map(np.zeros_like, small), tx.init(small), small)
    moved = {path for path, leaf in paths.flatten(updates)[0].items() if np.any(leaf)}
    assert moved == {path for path in paths.flatten(small)[0] if path.endswith("kernel")}


def test_before_the_calibration_all_widths_have_the_statistics_of_the_widest(
    tmp_path: Path,
) -> None:
    config = replace(US_NET, root=tmp_path, uncalibrated=True)
    run = us_slimmable.main(config)
    task = classification.task(config)
    wide, narrow, ready = (
        checkpoints.load(run, task, name)
        for name in ("uncalibrated-1.0", "uncalibrated-0.25", "us-0.25")
    )
    cut = jp.slice(task.graph, wide.variables, narrow.keep)["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, cut, narrow.variables["batch_stats"])
    jax.tree.map(
        np.testing.assert_array_equal, ready.variables["params"], narrow.variables["params"]
    )
    assert any(np.any(mean) for mean in jax.tree.leaves(wide.variables["batch_stats"]))


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_run_ends_like_one_that_was_not(
    s_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    config = replace(S_NET, root=tmp_path, resume=True)
    monkeypatch.setattr(plots, "spectrum", lambda *_: None)
    with monkeypatch.context() as patch:
        interrupt(patch, jp, "save", at, before=False)
        with pytest.raises(Interrupted):
            slimmable.main(config)
    run = slimmable.main(config)
    check_same(run, s_net, fields=("curves",))


@pytest.mark.parametrize("module", [us_slimmable, autoslim], ids=["us_slimmable", "autoslim"])
def test_what_was_calibrated_and_searched_is_not_done_anew_but_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    config: Any = US_NET if module is us_slimmable else replace(AUTO, searches=("random",))
    whole = module.main(replace(config, root=tmp_path / "whole"))
    config = replace(config, root=tmp_path / "broken", resume=True)
    with monkeypatch.context() as patch:
        interrupt(patch, jp, "save", 3, before=False)
        with pytest.raises(Interrupted):
            module.main(config)
    monkeypatch.setattr(autoslim.searches, "search", lambda *_: 1 / 0)
    check_same(module.main(config), whole, fields=("curves",))


def test_contradictions_are_errors() -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (S_NET, {"multipliers": (0.5, 1.0)}, r"multipliers=\(0.5, 1.0\) must fall, from 1"),
        (US_NET, {"evaluated": (0.1,)}, r"evaluated=\(0.1,\) must lie in \[low=0.25, 1\]"),
        (US_NET, {"number": 2}, "number=2 draws no width"),
        (US_NET, {"unseen": (0.5, 1.0)}, r"unseen=\(0.5, 1.0\) must not name the ends"),
        (US_NET, {"calibration_size": 0}, "calibration_size=0 must be above 0"),
        (S_NET, {"training": replace(HOW, data=0.5)}, "training.data=0.5 is not for slimmable"),
        (AUTO, {"supernet": replace(HOW, part=Part.GATES)}, "supernet.part=gates is not for"),
        (AUTO, {"smoothing": 1.0}, r"smoothing=1.0 must be in \[0, 1\)"),
        (AUTO, {"keep_macs": (0.3, 0.6)}, r"keep_macs=\(0.3, 0.6\) must fall"),
        (AUTO, {"low": 2.0}, "low=2.0 must lie between 0 and widest=1.5"),
    ]
    for config, changes, text in cases:
        with pytest.raises(ValueError, match=text):
            replace(config, **changes)


@cache
def graph_of(model: str, widths: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    network = models.build(model, **({"widths": widths} if widths else {}))
    return training.channel_graph(network, shape, select_inputs=False)


SHAPES = {"digits": (8, 8, 1), "imagenet2012": (224, 224, 3)}


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in (slimmable, us_slimmable, autoslim) for name in module.PRESETS],
    ids=lambda value: value if isinstance(value, str) else value.EXPERIMENT.name,
)
def test_every_preset_fits_its_model(module: Any, name: str) -> None:
    config = presets.config(name, module.PRESETS, module.Config())
    graph = graph_of(config.model, config.widths, SHAPES.get(config.dataset, (32, 32, 3)))
    task: Any = Task(config, None, None, graph)  # pyright: ignore[reportArgumentType]
    if module is slimmable:
        narrow = jp.slimmable.prefix(graph, config.multipliers[-1], **config.rounding())
        assert jp.cost.macs(graph, narrow) < 0.6 * jp.cost.macs(graph)
    elif module is us_slimmable:
        assert set(us_slimmable.method(config, task).fixed) == {"1.0", str(config.low)}
        assert min(config.evaluated) == config.low
    else:
        space, targets = autoslim.searches.aims(config, task)
        widest = {group: counts[0] for group, counts in space.items()}
        assert len(targets) == len(config.keep_macs)
        assert jp.cost.macs(graph, widest) > targets[0]


def test_the_targets_on_imagenet_are_those_of_the_paper() -> None:
    """In millions of multiply-accumulates."""
    found = {}
    for model in ("mobilenet_v1", "mobilenet_v2", "mnasnet", "resnet50"):
        config = presets.config(f"{model}-imagenet", autoslim.PRESETS, autoslim.Config())
        graph = graph_of(config.model, config.widths, (224, 224, 3))
        task: Any = Task(config, None, None, graph)  # pyright: ignore[reportArgumentType]
        found[model] = [target / 1e6 for target in autoslim.searches.aims(config, task)[1]]
    paper = {
        "mobilenet_v1": [572, 325, 150],
        "mobilenet_v2": [505, 305, 207],
        "mnasnet": [532, 315, 217],
        "resnet50": [3000, 2000, 1000, 570],
    }
    for model, targets in paper.items():
        assert found[model] == pytest.approx(targets, rel=5e-3)
