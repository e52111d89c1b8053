"""Keypoints: heat maps in the boxes of a detector, cut to half of its MACs.

Paper:     the head is that of He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870,
           on the detector of `experiments.tasks.detection`, whose backbone is slimmable with --grid
Command:   python -m experiments.keypoints
           python -m experiments.keypoints --grid 1.0 0.5 --seed 1
           python -m experiments.keypoints --preset coco --data-dir DIR
Device:    CPU, 2 cores
CPU time:  238 s, with compilation
Expected:  average precision of COCO on the test images, in percent, of seed 0:

                                dense      pruned  fine-tuned
           MACs            25,763,840  12,847,208  12,847,208
           parameters         202,939      71,014      71,014
           boxes                49.38       41.50       50.13
           boxes at 0.5         90.57       85.68       91.56
           keypoints            38.81       25.55       39.84
           keypoints at 0.5     63.11       47.56       63.68

The fine-tuned network has seen the images 4 times more than the dense one, which saw them 8 times.
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
