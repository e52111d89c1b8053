"""S-Net, US-Net and AutoSlim from end to end, at a size of seconds."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments import (
    autoslim,
    evaluate,
    models,
    plots,
    presets,
    procedures,
    resume,
    runs,
    slimmable,
    spectrum,
    supernet,
    training,
    us_slimmable,
)
from experiments.data import Split
from jaxprune.schedule import Training, constant
from same_runs import Interrupted, check_same, interrupt

HOW = Training(epochs=2, rates=constant(0.05), weight_decay=1e-4)
SMALL: dict[str, Any] = {
    "limit": 128,
    "model": "mlp",
    "widths": (12, 10),
    "batch_size": 32,
    "divisor": 2,
    "training": HOW,
}
S_NET = slimmable.Config(**SMALL, multipliers=(1.0, 0.5))
US_NET = us_slimmable.Config(
    **SMALL, grid=0.125, low=0.25, evaluated=(1.0, 0.6, 0.25), number=3, alone=False
)
AUTO = autoslim.Config(
    **SMALL, supernet=HOW, keep_macs=(0.9, 0.6), held_out=32, samples=5, widest=1.5, parts=4
)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "s_net" not in request.fixturenames:
        monkeypatch.setattr(plots, "spectrum", lambda *_: None)


@pytest.fixture(scope="module")
def s_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slimmable.main(replace(S_NET, root=tmp_path_factory.mktemp("s_net")))


def read(run: Path) -> Any:
    return runs.read_json(run / runs.SUMMARY)


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
    assert [(r["phase"], r["epoch"]) for r in runs.read_metrics(s_net)] == [
        (name, epoch) for name in ("supernet", *names[2:]) for epoch in (1, 2)
    ]


def test_a_width_is_evaluated_from_its_checkpoint(s_net: Path) -> None:
    assert evaluate.main(s_net)


def test_runs_are_drawn_in_one_picture(s_net: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "all.png"
    spectrum.main((s_net, s_net), drawn)
    assert drawn.stat().st_size > 1000
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no curves.\nFix: runs of slimmable, us_slimmable"):
        spectrum.main((tmp_path,), drawn)


def test_every_width_of_an_s_net_has_its_own_norm_and_the_kernels_are_shared(s_net: Path) -> None:
    setup = procedures.setup(S_NET)
    wide, narrow = (
        jp.restore(resume.path(s_net, f"slimmable-{width}")).variables for width in (1.0, 0.5)
    )
    keep = jp.slimmable.prefix(setup.graph, 0.5, divisor=2)
    cut = jp.slice(setup.graph, wide, keep)
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
    setup = procedures.setup(config)
    train: Any = setup.dataset.train
    for name in read(run)["accuracy"]:
        found = resume.load(run, setup, name)
        update = training.batch_statistics(found.model, setup.dataset)
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
    assert list(us_slimmable.method(third, procedures.setup(third)).fixed) == ["1.0", str(1 / 3)]


def test_a_search_asks_only_for_widths_that_were_trained() -> None:
    config = replace(AUTO, low=0.4)
    setup = procedures.setup(config)
    space, _ = autoslim.aims(config, setup)
    least = autoslim.uniform(config, setup)(0.4)
    assert all(counts[-1] >= least[group] for group, counts in space.items())
    wider, _ = autoslim.aims(AUTO, setup)
    assert sum(map(len, space.values())) < sum(map(len, wider.values()))


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


@pytest.mark.parametrize("retrain", ["alone", "jointly"])
def test_autoslim_finds_widths_within_every_target(retrain: Any, tmp_path: Path) -> None:
    searches: Any = ("greedy", "uniform", "scores", "random", "evolution")
    searches = searches if retrain == "jointly" else ("greedy", "scores")
    config = replace(AUTO, root=tmp_path, retrain=retrain, searches=searches)
    run = autoslim.main(config)
    summary, setup = read(run), procedures.setup(config)
    base = jp.cost.macs(setup.graph, autoslim.uniform(config, setup)(1.0))
    assert set(summary["curves"]) == set(searches)
    for label, names in summary["curves"].items():
        assert names == [f"{label}-{share}" for share in config.keep_macs]
        for name, share in zip(names, config.keep_macs, strict=True):
            assert 0 < summary["networks"][name]["macs"] <= share * base
    trained = {record["phase"] for record in runs.read_metrics(run)}
    alone = {name for names in summary["curves"].values() for name in names}
    jointly = {f"{label}-jointly" for label in searches}
    assert trained == {"supernet"} | (alone if retrain == "alone" else jointly)


def test_the_supernet_does_not_see_what_the_search_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(
        spectrum.Run,
        "supernet",
        lambda run, *_: seen.update(train=run.setup.dataset.train) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        autoslim.main(replace(AUTO, root=tmp_path))
    whole = procedures.setup(AUTO).dataset
    rest, batch = autoslim.apart(AUTO, whole)
    assert isinstance(rest, Split)
    np.testing.assert_array_equal(seen["train"].images, rest.images)
    assert rest.size + batch.size == whole.train.size == 128
    pictures = [{np.asarray(image).tobytes() for image in part.images} for part in (rest, batch)]
    assert not pictures[0] & pictures[1]


def test_smooth_labels_give_their_share_to_the_other_classes() -> None:
    logits, labels = jax.random.normal(jax.random.key(0), (5, 4)), jax.numpy.arange(5) % 4
    log = np.asarray(jax.nn.log_softmax(logits), np.float64)
    soft = np.full((5, 4), 0.1 / 3)
    soft[np.arange(5), labels] = 0.9
    np.testing.assert_allclose(
        training.smoothed(0.1)(logits, labels), -(soft * log).sum(-1).mean(), rtol=1e-6
    )
    assert training.smoothed(0.0) is training.cross_entropy


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
    metrics = runs.read_metrics(autoslim.main(config))
    assert asked == [0.1]
    assert {r["phase"] for r in metrics if r["train"]["loss"] < 50} == {"supernet"}


def test_weights_decay_but_for_norms_biases_and_depthwise_kernels() -> None:
    config = replace(S_NET, model="mobilenet_v1_cifar", widths=())
    setup = procedures.setup(config)  # of gray images: the first kernel has one input channel
    ones = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32),
        jax.eval_shape(lambda: procedures.initial(setup).variables["params"]),
    )
    tx = supernet.optimizer(setup, HOW)
    updates, _ = tx.update(jax.tree.map(np.zeros_like, ones), tx.init(ones), ones)
    moved = {path for path, leaf in jp.paths.flatten(updates)[0].items() if np.any(leaf)}
    points = {f"Separable_{n}/Conv_1/kernel" for n in range(13)}
    assert moved == {"Conv_0/kernel", "Dense_0/kernel", *points}
    parts = {"shared": {"params": ones}, "private": {}}
    updates, _ = tx.update(jax.tree.map(np.zeros_like, parts), tx.init(parts), parts)
    moved_parts = {path for path, leaf in jp.paths.flatten(updates)[0].items() if np.any(leaf)}
    assert moved_parts == {f"shared/params/{path}" for path in moved}


def test_before_the_calibration_all_widths_have_the_statistics_of_the_widest(
    tmp_path: Path,
) -> None:
    config = replace(US_NET, root=tmp_path, uncalibrated=True)
    run = us_slimmable.main(config)
    setup = procedures.setup(config)
    wide, narrow, ready = (
        resume.load(run, setup, name)
        for name in ("uncalibrated-1.0", "uncalibrated-0.25", "us-0.25")
    )
    cut = jp.slice(setup.graph, wide.variables, narrow.keep)["batch_stats"]
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


@pytest.mark.parametrize("module", [us_slimmable, autoslim], ids=lambda module: module.NAME)
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
    monkeypatch.setattr(autoslim, "search", lambda *_: 1 / 0)
    check_same(module.main(config), whole, fields=("curves",))


def test_a_target_out_of_reach_is_an_error_before_any_training(tmp_path: Path) -> None:
    config = replace(AUTO, root=tmp_path, keep_macs=(0.01,))
    with pytest.raises(jp.errors.BudgetError, match="out of reach"):
        autoslim.main(config)
    assert runs.read_metrics(tmp_path / autoslim.NAME) == []


def test_contradictions_are_errors() -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (S_NET, {"multipliers": (0.5, 1.0)}, r"multipliers=\(0.5, 1.0\) must fall, from 1"),
        (US_NET, {"evaluated": (0.1,)}, r"evaluated=\(0.1,\) must lie in \[low=0.25, 1\]"),
        (US_NET, {"number": 2}, "number=2 draws no width"),
        (US_NET, {"unseen": (0.5, 1.0)}, r"unseen=\(0.5, 1.0\) must not name the ends"),
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
    return training.channel_graph(network, shape)


SHAPES = {"digits": (8, 8, 1), "imagenet2012": (224, 224, 3)}


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in (slimmable, us_slimmable, autoslim) for name in module.PRESETS],
    ids=lambda value: getattr(value, "NAME", value),
)
def test_every_preset_fits_its_model(module: Any, name: str) -> None:
    config = presets.config(name, module.PRESETS, module.Config())
    graph = graph_of(config.model, config.widths, SHAPES.get(config.dataset, (32, 32, 3)))
    setup: Any = procedures.Setup(config, None, None, graph)  # pyright: ignore[reportArgumentType]
    if module is slimmable:
        narrow = jp.slimmable.prefix(graph, config.multipliers[-1], **config.rounding())
        assert jp.cost.macs(graph, narrow) < 0.6 * jp.cost.macs(graph)
    elif module is us_slimmable:
        assert set(us_slimmable.method(config, setup).fixed) == {"1.0", str(config.low)}
        assert min(config.evaluated) == config.low
    else:
        space, targets = autoslim.aims(config, setup)
        widest = {group: counts[0] for group, counts in space.items()}
        assert len(targets) == len(config.keep_macs)
        assert jp.cost.macs(graph, widest) > targets[0]


def test_the_targets_on_imagenet_are_those_of_the_paper() -> None:
    """In millions of multiply-accumulates."""
    found = {}
    for model in ("mobilenet_v1", "mobilenet_v2", "mnasnet", "resnet50"):
        config = presets.config(f"{model}-imagenet", autoslim.PRESETS, autoslim.Config())
        graph = graph_of(config.model, config.widths, (224, 224, 3))
        setup: Any = procedures.Setup(config, None, None, graph)  # pyright: ignore[reportArgumentType]
        found[model] = [target / 1e6 for target in autoslim.aims(config, setup)[1]]
    paper = {
        "mobilenet_v1": [572, 325, 150],
        "mobilenet_v2": [505, 305, 207],
        "mnasnet": [532, 315, 217],
        "resnet50": [3000, 2000, 1000, 570],
    }
    for model, targets in paper.items():
        assert found[model] == pytest.approx(targets, rel=5e-3)
