"""All methods side by side: cells that resume to the bit and merge by copying, and their page."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jax

import jaxprune as jp
from experiments import compare
from experiments.comparing import bench as benches
from experiments.comparing import cells, informed, measuring, page, registry, trained
from experiments.comparing.cells import Cell
from experiments.comparing.config import PRESETS, Config
from experiments.report.bootstrap import RESAMPLES, interval
from experiments.runner import devices, directory, presets
from jaxprune.schedule import Training, constant
from same_runs import Interrupted, interrupt

ONCE, TWICE = (Training(epochs=n, rates=constant(0.05)) for n in (1, 2))
SMALL = Config(
    preset="digits",
    limit=128,
    model="mlp",
    widths=(12, 10),
    batch_size=32,
    budgets=(0.5,),
    seeds=(0,),
    dense=ONCE,
    train=ONCE,
    finetune=TWICE,
)


def entry(right: list[int], **others: Any) -> dict[str, Any]:
    """What a cell says, made by hand."""
    values = np.array(right, float)
    return {
        "macs": 0.49,
        "epochs": {"before": 0.0, "after": 1},
        "cut_accuracy": 0.25,
        "accuracy": float(values.mean()),
        "images": len(right),
        "right": cells.packed(values),
        "widths": {},
        "without": [],
        **others,
    }


def test_the_registry_has_every_row_of_the_taxonomy() -> None:
    rows = {int(method.row) for method in registry.METHODS.values() if method.row}
    assert rows == set(range(1, 29))
    for method in registry.METHODS.values():
        assert json.loads(json.dumps(method.settings)) == method.settings
    needs = [method.needs for method in registry.METHODS.values()]
    assert sorted(needs, key=list(registry.Need).index) == needs
    settings = [json.dumps(method.settings) for method in registry.METHODS.values()]
    assert len(set(settings)) == len(settings)
    assert registry.unknown(("l1",)) == []
    with pytest.raises(ValueError, match=r"methods: \['l0'\] are not among random, l1"):
        compare.main(replace(SMALL, methods=("l0", "l1")))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings(preset: str) -> None:
    config = presets.config(preset, PRESETS, Config())
    assert len(list(cells.planned(config))) == 6 * len(registry.METHODS)


def test_contradictions_are_errors() -> None:
    for changes, text in (
        ({"budgets": (0.5, 1.5)}, "1.5 is not a share below 1"),
        ({"distill": 2.0}, "distill=2.0 is not a share"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"evaluations": 0}, "evaluations=0 must be above 0"),
        ({"resume": True}, "a comparison always goes on"),
    ):
        with pytest.raises(ValueError, match=text):
            replace(SMALL, **changes)


def test_a_cell_is_known_by_what_it_was_asked_for(tmp_path: Path) -> None:
    config, cell = replace(SMALL, out=tmp_path / "a", seeds=(0, 1)), Cell("l1", 0.5, 0)
    cells.write(config, cell, "net", entry([1, 0, 1]))
    found = cells.read(config, cell, "net")
    assert found is not None
    assert cells.unpacked(found["right"], 3).tolist() == [1, 0, 1]
    for free in ({"seeds": (4,)}, {"minutes": 1.0}, {"workers": 3}, {"methods": ("l1",)}):
        assert cells.read(replace(config, **free), cell, "net") == found
    for other in ({"finetune": ONCE}, {"min_keep_ratio": 0.2}, {"limit": 64}, {"distill": 0.5}):
        assert cells.read(replace(config, **other), cell, "net") is None
    assert cells.read(config, cell, "another network") is None
    two = Cell("l1", 0.5, 1), Cell("fpgm", 0.5, 0)
    assert cells.missing(config, "net", [cell, *two]) == ["l1/0.5-1", "fpgm/0.5-0"]
    for machine, each in zip("bc", two, strict=True):
        cells.write(replace(config, out=tmp_path / machine), each, "net", entry([0, 0, 1]))
        shutil.copytree(tmp_path / machine, tmp_path / "a", dirs_exist_ok=True)
    assert cells.missing(config, "net", [cell, *two]) == []


def test_a_cell_does_not_depend_on_the_devices(tmp_path: Path) -> None:
    here = replace(SMALL, out=tmp_path)
    there = replace(here, mesh="data=2", heartbeat=5, workers=3)
    assert cells.asked(there, "l1", "d") == cells.asked(here, "l1", "d")
    assert cells.asked(replace(here, precision="bfloat16"), "l1", "d") != cells.asked(
        here, "l1", "d"
    )


def test_the_committed_cells_answer_what_is_asked_today() -> None:
    config = presets.config("digits", PRESETS, Config())
    bench = benches.opened(config)
    known = [*cells.folder(config).glob("*/*.json")]
    planned = cells.planned(config)
    answered = [c for c in planned if cells.read(bench.task.config, c, bench.digest) is not None]
    assert len(answered) == len(known) > 0


def test_intervals_are_those_of_a_loop() -> None:
    random = np.random.default_rng(3)
    right = (random.random((3, 40)) < 0.8).astype(np.float64)
    images = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=RESAMPLES)
    seeds = np.random.default_rng(1).multinomial(3, np.full(3, 1 / 3), size=RESAMPLES)
    means = [
        np.mean(np.repeat(np.repeat(right, s, axis=0), i, axis=1))
        for s, i in zip(seeds, images, strict=True)
    ]
    expected = [right.mean(), *np.quantile(means, [0.025, 0.975])]
    np.testing.assert_allclose(interval(right), expected, rtol=1e-5)
    alone = [np.mean(np.repeat(right[0], i)) for i in images]
    for values in (right[0], right[:1]):
        low, high = np.quantile(alone, [0.025, 0.975])
        np.testing.assert_allclose(interval(values), [right[0].mean(), low, high], rtol=1e-5)


BENCH = benches.Bench(
    *(lambda task: (task, benches.initial(task).variables))(benches.classification.task(SMALL))
)


def work(share: float, path: Path) -> benches.Work:
    return benches.Work(BENCH, BENCH.task, share, benches.Run(path, BENCH.task))


def test_a_layer_keeps_the_same_share_of_every_group(tmp_path: Path) -> None:
    keep = informed.alike(work(0.5, tmp_path))
    sizes = {name: group.size for name, group in BENCH.graph.groups.items()}
    shares = [kept.sum() / sizes[name] for name, kept in keep.items()]
    assert max(shares) - min(shares) < 2 / min(sizes.values())
    assert BENCH.left(keep) <= 0.5
    for name, kept in keep.items():  # one channel more is above the budget
        if kept.sum() < sizes[name]:
            more = kept.copy()
            more[np.flatnonzero(~kept)[0]] = True
            fuller = BENCH.left({**keep, name: more})
            assert fuller > BENCH.left(keep)
    assert any(
        BENCH.left({**keep, name: np.arange(sizes[name]) <= kept.sum()}) > 0.5
        for name, kept in keep.items()
    )


@pytest.mark.parametrize("name", ["random", "bn_scale", "similarity"])
def test_scores_end_within_the_budget(name: str, tmp_path: Path) -> None:
    pruned = registry.METHODS[name].prune(work(0.4, tmp_path))
    assert BENCH.left(pruned.keep) <= 0.4
    masked = benches.begun(BENCH, pruned)
    small = benches.begun(cut(BENCH), pruned)
    assert small.sliced
    assert not masked.sliced
    outs = [BENCH.evaluate(network)[0] for network in (masked, small)]
    np.testing.assert_allclose(*outs, rtol=1e-4, atol=1e-5)


def test_a_method_that_ends_above_the_budget_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = registry.METHODS["l1"]._replace(prune=lambda work: benches.Pruned({}, work.variables))
    monkeypatch.setattr(measuring, "METHODS", {"l1": whole})
    text = "l1 leaves 1.0000 of the MACs, the budget is 0.5"
    with pytest.raises(jp.errors.BudgetError, match=text):
        measuring.measured(BENCH, Cell("l1", 0.5, 0), tmp_path)


def cut(bench: benches.Bench) -> benches.Bench:
    task = bench.task._replace(config=replace(bench.task.config, cut=True))
    return benches.Bench(task, bench.variables)


def test_a_ramp_ends_at_the_budget() -> None:
    plan, done, targets = trained.ramp(0.4, 3, ONCE, 3.0), None, []
    while phase := plan(done, 1.0):
        targets.append(phase.prune and phase.prune.keep_macs)
        done = phase
    np.testing.assert_allclose(targets, [1 - 0.6 * 19 / 27, 1 - 0.6 * 26 / 27, 0.4])


@pytest.mark.parametrize("at", [2, 4])
def test_killed_anywhere_it_ends_alike(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the epoch with the penalty, and in the middle of the recovery."""
    monkeypatch.setattr(page.plots, "compared", lambda *_, **__: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # no cache of programs
    config = replace(SMALL, methods=("slimming",), root=tmp_path / "runs")
    cell = Cell("slimming", 0.5, 0)
    text = compare.main(replace(config, out=tmp_path / "whole")).read_text()
    assert "| `slimming` | 9 | Network Slimming 2017 | 1 |" in text
    assert "No cell." in text
    broken = replace(config, out=tmp_path / "broken", root=tmp_path / "other")
    with monkeypatch.context() as patch:
        interrupt(patch, directory, "append_metrics", at, before=False)
        with pytest.raises(Interrupted):
            compare.main(broken)
    assert "1 cells: slimming/0.5-0" in compare.main(replace(broken, minutes=0)).read_text()
    compare.main(broken)
    values = [
        directory.read_json(cells.file(c, cell))
        for c in (replace(config, out=tmp_path / "whole"), broken)
    ]
    first, second = (
        {n: v for n, v in value.items() if n not in ("cpu_s", "made")} for value in values
    )
    assert first == second
    assert first["macs"] <= 0.5
    assert first["epochs"] == {"before": 1, "after": 2}


def test_cells_are_measured_as_the_devices_and_the_precision_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def made(*_: Any) -> dict[str, Any]:
        seen.append(devices.current())
        return {"failed": "not tried"}

    def opened(config: Config) -> benches.Bench:
        return benches.Bench(BENCH.task._replace(config=config), BENCH.variables)

    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # no cache of programs
    monkeypatch.setattr(compare, "made", made)
    monkeypatch.setattr(benches, "opened", opened)
    config = replace(SMALL, methods=("l1",), root=tmp_path, out=tmp_path)
    compare.main(replace(config, mesh="data=2", precision="bfloat16"))
    assert [(dict(each.mesh.shape), each.precision) for each in seen if each.mesh] == [
        ({"data": 2, "model": 1}, "bfloat16")
    ]
    assert devices.current() == devices.Devices()


def test_gates_train_on_a_mesh_as_on_one_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.plots, "compared", lambda *_, **__: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # no cache of programs
    made = []
    for mesh in ("", "data=2"):
        path = tmp_path / f"on {mesh}"
        config = replace(SMALL, methods=("sss",), root=path, out=path, mesh=mesh)
        compare.main(replace(config, precision="float64"))
        made.append(directory.read_json(cells.file(config, Cell("sss", 0.5, 0))))
    assert made[0]["widths"] == made[1]["widths"]
    np.testing.assert_allclose(made[0]["loss"], made[1]["loss"], rtol=1e-9)


def test_the_page_compares_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(page.plots, "compared", lambda *_, **given: drawn.append(given["cost"]))
    config = replace(SMALL, out=tmp_path)
    known = {"l1": [1, 1, 0, 0], "fpgm": [1, 1, 1, 0], "apoz": [0, 0, 0, 0]}
    names = [*known, "lasso", "obd"]
    for name, right in known.items():
        cells.write(config, Cell(name, 0.5, 0), BENCH.digest, entry(right))
    cells.write(config, Cell("obd", 0.5, 0), BENCH.digest, {"failed": "no\nscores"})
    planned = [Cell(name, 0.5, 0) for name in names]
    text = page.write(config, BENCH, planned, {"l1/0.5-0": 1.5}).read_text()
    assert text.index("`fpgm`") < text.index("`l1`") < text.index("`apoz`")
    low, high = (100 * value for value in interval(np.array([0.0, 0, 1, 0]))[1:])
    assert f"| +25.00 ({low:+.2f} to {high:+.2f}) |" in text
    assert "1 cells: lasso/0.5-0." in text
    assert "* obd/0.5-0: no scores" in text
    assert "| 1.500 |" in text
    assert drawn == ["share of the dense MACs", "ms for 64 images"]


def test_the_recovery_learns_from_the_dense_network() -> None:
    """The loss of the first step is that of the formula, and no gradient comes to the teacher."""
    config = replace(SMALL, distill=0.75, temperature=2.0)
    bench = benches.Bench(BENCH.task._replace(config=config), BENCH.variables)
    tx, step = bench.program(BENCH.task.model, ONCE, False, True)
    start = jax.tree.map(lambda leaf: np.asarray(leaf) * 0.5, BENCH.variables)
    state = benches.training.State(
        start, tx.init(start["params"]), np.int32(0), teacher=BENCH.variables
    )
    train: Any = BENCH.task.dataset.train
    order: Any = np.arange(128)
    zero: Any = 0
    data = BENCH.task.dataset
    images, labels = benches.training.batch(data, train, order, zero, jax.random.key(0), 32)
    apply = BENCH.task.model.apply
    logits = apply(start, images, train=True, mutable=["batch_stats"])[0]
    told = apply(BENCH.variables, images, train=False)
    loss = jp.recover.distillation(temperature=2.0, mix=0.75, loss=benches.training.cross_entropy)
    expected = loss(logits, told, labels)
    after, metrics = step(jax.tree.map(jax.numpy.array, state), train, order, jax.random.key(0))
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after.teacher, BENCH.variables)
