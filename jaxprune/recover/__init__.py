"""What gives a pruned network its accuracy back without training."""

from jaxprune.recover.batch_norm import recalibrate as recalibrate
