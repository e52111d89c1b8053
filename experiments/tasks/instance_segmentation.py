"""Instance segmentation: masks in the boxes of a detector, cut to half of its MACs.

Paper:     the head is that of He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870,
           on the detector of `experiments.tasks.detection`, whose backbone is slimmable with --grid
Command:   python -m experiments.instance_segmentation
           python -m experiments.instance_segmentation --grid 1.0 0.5 --seed 1
           python -m experiments.instance_segmentation --preset coco --data-dir DIR
Device:    CPU, 2 cores
CPU time:  233 s, with compilation
Expected:  average precision of COCO on the test images, in percent, of seed 0:

                                dense      pruned  fine-tuned
           MACs            25,613,312  12,754,256  12,754,256
           parameters         202,840      83,381      83,381
           boxes                52.59       43.36       54.17
           boxes at 0.5         91.09       87.69       89.92
           masks                48.01       23.45       48.95
           masks at 0.5         85.06       62.75       84.55

The fine-tuned network has seen the images 4 times more than the dense one, which saw them 8 times.
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
