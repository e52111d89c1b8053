"""What `--distill` asks for: a recovery that learns from the logits of the dense network."""

from typing import Any, NamedTuple

import jaxprune as jp
from experiments.runner.training import Loss, Taught


class Distill(NamedTuple):
    """How much a network learns from the dense one, and how soft its logits are."""

    mix: float  # share of the loss, in (0, 1]; the rest is that of the labels
    temperature: float

    def of(self, model: Any, loss: Loss) -> Taught:
        """Returns the loss in which the teacher is such a model.

        Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
        """
        labels = loss if self.mix < 1 else None
        taught = jp.recover.distillation(temperature=self.temperature, mix=self.mix, loss=labels)
        return Taught(model, taught)


def asked(mix: float, temperature: float) -> Distill | None:
    """Returns what two flags ask for; None where the share is 0."""
    return Distill(mix, temperature) if mix else None


def unknown(mix: float, temperature: float) -> list[str]:
    """Returns what is wrong with two flags, if anything is."""
    problems = [] if 0 <= mix <= 1 else [f"distill={mix} is not a share"]
    return [*problems, *([] if temperature > 0 else [f"temperature={temperature} must be above 0"])]
