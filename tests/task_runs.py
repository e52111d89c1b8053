"""Small runs of every task and of every kind of procedure, and what they found."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import compare, search
from experiments.comparing.config import Config as Comparison
from experiments.data import pictures, scenes
from experiments.methods import (
    agp,
    autoslim,
    layerwise,
    network_slimming,
    oicsr,
    sensitivity,
    sparse_training,
    us_slimmable,
)
from experiments.methods import dense as dense_method
from experiments.report import plots
from experiments.runner import directory
from experiments.runner.experiment import Experiment, execute
from experiments.tasks import (
    detection,
    instance_segmentation,
    keypoints,
    segmentation,
    super_resolution,
)
from experiments.tasks.detection import parts
from experiments.tasks.instances.config import Config as Instances
from jaxprune.schedule import Part, Training, constant
from slimmable_runs import AUTO, US_NET

ONCE = Training(epochs=1, rates=constant(0.05))
SMALL: dict[str, Any] = {
    "limit": 128, "model": "mlp", "widths": (8, 6), "batch_size": 32
}  # fmt: skip
ROUNDS: dict[str, Any] = {**SMALL, "dense": ONCE, "finetune": (ONCE,)}
PIXELS = segmentation.Config(
    image_size=16, model="vgg11", widths=(4, 6), hidden=(), stride=2, batch_size=8,
    framework="one-shot", keep_macs=(0.6,), dense=ONCE, finetune=(ONCE,),
    tick=Training(epochs=1, rates=constant(1e-3), part=Part.GATES),
)  # fmt: skip
BOXES = detection.Config(
    image_size=16, widths=(4, 4), neck=4, divisor=2, grid=(1.0, 0.5), batch_size=8, epochs=1,
    pretrain_epochs=1,
)  # fmt: skip
INSTANCES = Instances(
    image_size=16, widths=(4, 4, 4), neck=4, divisor=2, batch_size=8, epochs=1, pretrain_epochs=1,
    finetune_epochs=1,
)  # fmt: skip
HALVES = super_resolution.Config(
    image_size=16, patch=6, widths=(4, 4), divisor=1, blocks=1, batch_size=8, grid=(1.0, 0.5),
    others=(0.75,), epochs=2,
)  # fmt: skip
MADE = (
    *("started", "wall_time_s", "train_s", "commit", "uncommitted_changes", "command", "device"),
    *("cpu", "versions", "latency_ms", "latency_spread_ms", "images_per_s", "seconds", "cpu_s"),
)
"""Fields of what a run writes that say when, where and how fast it was."""


@contextmanager
def few() -> Iterator[None]:
    """Makes few small images, of which those to segment have void pixels, and no figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SHAPES", {"train": 24, "validation": 6, "test": 11})
        patch.setattr(segmentation, "BACKBONES", {"vgg11": (1, 1)})
        patch.setattr(parts, "PARTS", {"single": 24, "train": 24, "test": 11})
        patch.setattr(parts, "SINGLE", 16)
        patch.setattr(pictures, "PARTS", {"train": 24, "validation": 6, "test": 11})
        patch.setattr(plots, "_save", lambda *_: None)
        patch.setattr(compare.jax.config, "update", lambda *_: None)  # no cache of programs
        yield


def voided(config: Any) -> Any:
    """The task of segmentation, in which each image has void rows, one more than that before."""
    task = segmentation.task(config)

    def some(split: Any) -> Any:
        labels = split.labels.astype(np.int8)
        for number, each in enumerate(labels):
            each[: number % len(each)] = -1
        return split._replace(labels=labels)

    three = {name: some(getattr(task.dataset, name)) for name in ("train", "validation", "test")}
    return task._replace(dataset=replace(task.dataset, **three))


def executed(experiment: Experiment[Any], config: Any, root: str, **changes: Any) -> Any:
    """Returns what a run of an experiment wrote."""
    run = execute(experiment, replace(config, root=Path(root), **changes))
    return [directory.read_json(run / directory.SUMMARY), *directory.read_metrics(run)]


def searched(root: str, **changes: Any) -> Any:
    """Returns what a search of lambda and ratio found."""
    config = network_slimming.Config(
        **SMALL, epochs=1, finetune_epochs=1, recalibration_batches=1, root=Path(root), **changes
    )
    run = search.main(search.Search(slimming=config, strengths=(1e-3,), ratios=(0.5,)))
    return directory.read_json(run / search.SEARCH)


def compared(root: str, **changes: Any) -> Any:
    """Returns the cells of a comparison."""
    config = Comparison(
        **SMALL, root=Path(root) / "runs", out=Path(root) / "out", dense=ONCE, train=ONCE,
        finetune=ONCE, seeds=(0,), methods=("l1", "fisher", "sfp", "gdp", "sensitivity"),
        **{"budgets": (0.5,), **changes},
    )  # fmt: skip
    compare.main(config)
    return [directory.read_json(file) for file in sorted(Path(root).glob("out/compare/*/*/*.json"))]


def _of(module: Any, config: Any) -> Callable[..., Any]:
    return partial(executed, module.EXPERIMENT, config)


RUNS: Mapping[str, Callable[..., Any]] = {
    "segmentation": partial(executed, segmentation.EXPERIMENT._replace(task=voided), PIXELS),
    "detection": _of(detection, BOXES),
    "instance_segmentation": _of(instance_segmentation, INSTANCES),
    "keypoints": _of(keypoints, INSTANCES),
    "super_resolution": _of(super_resolution, HALVES),
    "us_slimmable": _of(us_slimmable, US_NET),
    "us_slimmable sliced": _of(us_slimmable, replace(US_NET, execution="slice")),
    "autoslim": _of(autoslim, AUTO),
    "oicsr": _of(
        oicsr,
        oicsr.Config(**ROUNDS, share=0.2, keep_macs=(0.7,), train=replace(ONCE, strength=1e-2)),
    ),
    "agp": _of(
        agp, agp.Config(**ROUNDS, rounds=2, train=ONCE, score="fisher", recover="least_squares")
    ),
    "agp planned": _of(
        agp, agp.Config(**ROUNDS, rounds=1, train=ONCE, planner="milp", distill=0.5)
    ),
    "sparse_training": _of(sparse_training, sparse_training.Config(**ROUNDS, train=ONCE)),
    "layerwise": _of(layerwise, layerwise.Config(**ROUNDS, train=replace(ONCE, part=Part.READERS))),
    "dense": _of(dense_method, dense_method.Config(**SMALL, dense=ONCE, optimizer="adam")),
    "sensitivity": _of(
        sensitivity, sensitivity.Config(**SMALL, dense=ONCE, prune_ratios=(0.25, 0.5))
    ),
    "search": searched,
    "compare": compared,
}  # fmt: skip
TWICE = ("segmentation", "detection", "compare")
"""What runs in two processes as well: each has its own way to train or to measure."""


def found(name: str, root: str, **changes: Any) -> Any:
    """Returns the JSON value of all that a run found, without what differs from run to run."""
    with few():
        return _told(RUNS[name](root, precision="float64", **changes))


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {n: _told(each) for n, each in value.items() if n not in (*MADE, "asked", "made")}
        return {name: each for name, each in kept.items() if name != "hash"}
    return [_told(each) for each in value] if isinstance(value, list) else value


def check(found: Any, expected: Any) -> None:
    """Checks that two runs in float64 found the same, numbers to 1e-9."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)

    def same(path: Any, one: Any, other: Any) -> None:
        where = jax.tree_util.keystr(path)
        if isinstance(one, float):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=where)
        else:
            assert one == other, where

    jax.tree.map_with_path(same, found, expected)
