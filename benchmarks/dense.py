"""Dense networks that several benchmarks start from: trained once, committed, read by `load`.

Command:   python -m benchmarks.dense RUN --name NAME
           packs the checkpoint `dense` of a finished run of an experiment that classifies
Writes:    benchmarks/results/dense/NAME.npz (float32) and NAME.json: SHA-256 of the file, how the
           network was trained and on what, its loss and accuracy on the test images
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import jax
import numpy as np
import tyro
from flax import traverse_util

from experiments.runner import checkpoints, directory, registry, training
from experiments.runner import config as configuration
from experiments.runner.packed import ROOT
from experiments.runner.packed import load as load
from experiments.runner.packed import task as task

HERE = ("root", "data_dir", "start")
"""Fields of a configuration that are of one machine."""


def pack(
    run: Path,
    name: str,
    *,
    data_dir: Path | None = None,
    made: Mapping[str, str] = MappingProxyType({}),
    root: Path = ROOT,
) -> Path:
    """Writes the dense network of a run, and returns the file.

    Args:
      run: its directory.
      name: of the files.
      data_dir: where its data are, if not where they were.
      made: `command` and `commit` of the training, of a run that is not finished.
      root: where to write.
    """
    value = directory.read_json(run / directory.CONFIG)
    experiment = registry.load(value["experiment"])
    config = configuration.from_json(directory.read_config(run), type(experiment.config))
    work = experiment.task(replace(config, data_dir=data_dir or config.data_dir))
    network = checkpoints.load(run, work, "dense")
    metrics = training.evaluate(network.model, network.variables, work.dataset, work.dataset.test)
    flat = traverse_util.flatten_dict(jax.device_get(network.variables), sep="/")
    file = root / f"{name}.npz"
    root.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{path: np.asarray(leaf, np.float32) for path, leaf in flat.items()})
    summary = run / directory.SUMMARY
    known = directory.read_json(summary) if summary.exists() else directory.provenance() | made
    epochs = [each for each in directory.read_metrics(run) if each["phase"] == "dense"]
    about = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"])),
        "experiment": value["experiment"],
        "dataset": work.dataset.name,
        "classes": work.dataset.classes,
        "test_examples": work.dataset.test.size,
        "loss": metrics.loss,
        "accuracy": metrics.accuracy,
        "epochs": known.get("epochs", len(epochs)),
        "train_s": round(sum(each["seconds"] for each in epochs), 1),
        "start": known.get("start"),
        **{field: known[field] for field in ("command", "commit", "device", "cpu", "versions")},
        "config": {n: v for n, v in configuration.to_json(config).items() if n not in HERE},
    }
    directory.write_json(file.with_suffix(".json"), about)
    return file


def main(
    run: Annotated[Path, tyro.conf.Positional],
    name: str,
    data_dir: Path | None = None,
    command: str = "",
    commit: str = "",
) -> None:
    """Packs the dense network of a run.

    Args:
      run: directory of the run.
      name: of the files.
      data_dir: where its data are, if not where they were.
      command: of the training, where the run is not finished and does not tell.
      commit: likewise.
    """
    given = {"command": command, "commit": commit}
    made = {field: value for field, value in given.items() if value}
    file = pack(run, name, data_dir=data_dir, made=made)
    about = load(name).about
    print(f"{file}: {about['bytes']:,} bytes, SHA-256 {about['sha256']}")
    print(f"test loss {about['loss']:.4f}, accuracy {about['accuracy']:.2%}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.dense")
