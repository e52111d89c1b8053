"""Keypoints: heat maps in the boxes of a detector, cut to half of its MACs.

Paper:     the head is that of He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870,
           on the detector of `experiments.tasks.detection`, whose backbone is slimmable with --grid
Command:   python -m experiments.keypoints
           python -m experiments.keypoints --grid 1.0 0.5 --seed 1
           python -m experiments.keypoints --preset coco --data-dir DIR
Device:    CPU, 2 cores
"""

from pathlib import Path

from experiments.runner.experiment import execute
from experiments.tasks.instances import points
from experiments.tasks.instances.config import Config
from experiments.tasks.instances.procedure import experiment

NAME = "keypoints"
SIGMA = 0.067
"""Of every keypoint of a shape, in the similarity that the measure is of: the mean of COCO's."""
PERSON = (0, *(i + side for i in range(1, 17, 2) for side in (1, 0)))
"""In the mirror, of COCO's: the nose, then pairs of left and right."""
EXPERIMENT = experiment(
    NAME,
    {"shapes": points.kind((0, 3, 2, 1), (SIGMA,) * 4), "coco": points.kind(PERSON, ())},
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
