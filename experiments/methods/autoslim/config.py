"""What a run of AutoSlim may be told."""

from dataclasses import dataclass
from typing import Literal

from experiments.runner import config as configuration
from experiments.runner.config import Slim
from jaxprune.schedule import Training, stepped


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Slim):
    """Train a supernet, search widths with it, and train what was found from new weights."""

    name: str = "autoslim"
    """Name of the run; a name that is taken gets a number."""
    widest: float = 1.5
    """Multiplier of the model that is the supernet; targets are of the model at 1."""
    low: float = 0.15
    """Multiplier of the narrowest width of a layer."""
    number: int = 4
    """Widths of a step, the narrowest and the widest among them; layers draw theirs apart."""
    parts: int = 12
    """Steps in which the search can narrow a layer."""
    keep_macs: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Targets, falling: shares of the MACs of the model at multiplier 1."""
    searches: tuple[Literal["greedy", "uniform", "scores", "random", "evolution"], ...] = (
        "greedy",
        "uniform",
        "random",
    )
    """How widths are found; uniform is one multiplier for all layers, scores are |gamma|."""
    samples: int = 100
    """Candidates of a random search; an evolution has as many in ten generations."""
    held_out: int = 2000
    """Training images that the supernet does not see, the batch of the search."""
    judge: Literal["top1", "loss"] = "top1"
    """What a search looks at: the share of wrong answers, or cross-entropy, which is finer."""
    retrain: Literal["alone", "jointly"] = "alone"
    """Whether the networks of a search train by themselves, or as one slimmable network."""
    smoothing: float = 0.0
    """Share of a label that goes to the other classes when these networks train."""
    supernet: Training = Training(epochs=50, rates=stepped(0.1), weight_decay=1e-4)  # noqa: RUF009
    """Of the supernet."""
    training: Training = Training(epochs=160, rates=stepped(0.1), weight_decay=1e-4)  # noqa: RUF009
    """Of the networks that were found."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if sorted(set(self.keep_macs), reverse=True) != list(self.keep_macs) or not self.keep_macs:
            problems.append(f"keep_macs={self.keep_macs} must fall")
        if not 0 < self.low < self.widest:
            problems.append(f"low={self.low} must lie between 0 and widest={self.widest}")
        if self.number < 3:
            problems.append(f"number={self.number} draws no width")
        if not 0 <= self.smoothing < 1:
            problems.append(f"smoothing={self.smoothing} must be in [0, 1)")
        configuration.check(self, problems, positive=("parts", "samples", "held_out"))
