"""A new method and a new task, whole: what one file must say to be an experiment."""

from dataclasses import dataclass

import flax.linen as nn
import numpy as np

import jaxprune as jp
from experiments.data import Dataset, Split
from experiments.data.augment import Augment
from experiments.procedures import kept_rounds
from experiments.procedures.rounds import Method, Score
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment
from experiments.runner.task import Task
from experiments.runner.training import channel_graph
from jaxprune.schedule import Training, constant

ONCE = Training(epochs=2, rates=constant(0.05))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train, drop half of the hidden units by their outgoing weights, train again."""

    keep_macs: float = 0.6
    batch_size: int = 8


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        del train
        return nn.Dense(3)(nn.relu(nn.Dense(12)(x.reshape(len(x), -1))))


def task(config: Config) -> Task[Config]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 64).astype(np.int32)
    images = (rng.integers(0, 80, (64, 2, 2, 1)) + 80 * labels[:, None, None, None]).astype("u1")
    train, validation, test = (Split(images[i::3], labels[i::3]) for i in range(3))
    parts = {"train": train, "validation": validation, "test": test}
    data = Dataset(name="toy", classes=3, mean=(120.0,), std=(60.0,), augment=Augment(), **parts)
    return Task(config, data, Mlp(), channel_graph(Mlp(), data.image_shape))


def method(config: Config) -> Method:
    plan = jp.schedule.iterative(
        keep_macs=config.keep_macs, prune_ratio=0.2, training=ONCE, finetune=(ONCE,)
    )
    score = Score(lambda graph, variables, *_: jp.scores.channel_energy(graph, variables))
    return Method(plan=plan, dense=ONCE, score=score)


EXPERIMENT = Experiment(
    name="toy", config=Config(), presets={"digits": {}}, task=task,
    method=kept_rounds.procedure(method), report=kept_rounds.report,
)  # fmt: skip
