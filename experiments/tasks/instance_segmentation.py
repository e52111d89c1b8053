"""Instance segmentation: masks in the boxes of a detector, cut to half of its MACs.

Paper:     the head is that of He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870,
           on the detector of `experiments.tasks.detection`, whose backbone is slimmable with --grid
Command:   python -m experiments.instance_segmentation
           python -m experiments.instance_segmentation --grid 1.0 0.5 --seed 1
           python -m experiments.instance_segmentation --preset coco --data-dir DIR
Device:    CPU, 2 cores
"""

from pathlib import Path

from experiments.runner.experiment import execute
from experiments.tasks.instances import masks
from experiments.tasks.instances.config import Config
from experiments.tasks.instances.procedure import experiment

NAME = "instance_segmentation"
EXPERIMENT = experiment(NAME, {"shapes": masks.KIND, "coco": masks.KIND})


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
