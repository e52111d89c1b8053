"""Evaluates the pruned network of a run from its directory alone.

Command:   python -m experiments.evaluate runs/network_slimming
Expected:  the accuracy of the run, to the last digit; exit status 1 otherwise
"""

import sys
from pathlib import Path
from typing import Annotated

import tyro

import jaxprune as jp
from experiments import data, models, runs, training


def main(run: Annotated[Path, tyro.conf.Positional]) -> bool:
    """Rebuild the pruned network of a run and compare its accuracy with what the run wrote.

    Args:
      run: directory of a finished run.

    Returns:
      True if both are the same.
    """
    config, summary = runs.read_json(run / runs.CONFIG), runs.read_json(run / runs.SUMMARY)
    dataset = data.load(config["dataset"])
    model = models.build(config["model"], widths=tuple(config["widths"]), classes=dataset.classes)
    graph = training.channel_graph(model, dataset.image_shape)
    checkpoint = jp.restore(run / "checkpoints" / "pruned")
    pruned = jp.linen.resize(model, graph, jp.keep_from_spec(checkpoint.spec))
    accuracy = training.evaluate(pruned, checkpoint.variables, dataset.test).accuracy
    expected = summary["accuracy"]["finetuned"]
    print(f"accuracy {accuracy!r} on {len(dataset.test.labels)} test images of {dataset.name}")
    print(f"summary  {expected!r}: {'the same' if accuracy == expected else 'DIFFERENT'}")
    return accuracy == expected


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main, prog="python -m experiments.evaluate") else 1)
