"""What was pruned comes in; what to train, prune or cut next goes out; there is no loop inside.

A plan says what comes next, the progress how far it has come, and the training is yours:

  plan, phase = jp.schedule.tick_tock(keep_macs=0.4, prune_ratio=0.02), None
  progress = jp.schedule.begin(graph, keep_macs=0.4, min_keep_ratio=0.1)
  while phase := plan(phase, progress.left()):
      if phase.training:  # says how; the step masks by progress.keep
          variables, tally = train(variables, progress, phase.training)
      if phase.prune:
          progress = progress.prune(phase.prune, tally.scores(), phase.groups)
      if phase.commit:
          variables = jp.slice(progress.graph, variables, progress.keep)
          model = jp.linen.resize(original, progress.original, progress.total)
          progress = progress.commit(jp.trace(model.apply, variables, x))

A run that was killed begins with the last finished phase and its progress: `from_json`, `restored`.

Plans, phases and rates are values:

>>> import numpy as np, jaxprune as jp
>>> from jaxprune import schedule
>>> training = schedule.Training(epochs=2, rates=schedule.stepped(0.1))
>>> plan = schedule.iterative(keep_macs=0.5, prune_ratio=0.25, training=training)
>>> v = {"a": np.ones((2, 8)), "b": np.ones((8, 3))}
>>> graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 2)))
>>> progress = schedule.begin(graph, keep_macs=0.5)
>>> for phase in schedule.phases(plan, lambda: progress.left()):
...     if phase.prune:
...         progress = progress.prune(phase.prune, {"a": np.arange(8.0)}, phase.groups)
...         print(phase.name, jp.widths(graph, progress.keep), progress.left())
train-1 {'a': 5} 0.625
train-2 {'a': 4} 0.5
>>> schedule.from_json(schedule.to_json(phase)) == phase
True
>>> schedule.trainable(graph, v, schedule.Part.ALL)
{'a': True, 'b': True}
>>> schedule.constant(0.1), schedule.triangular(0.0, 0.1)
(((0.0, 0.1),), ((0.0, 0.0), (0.5, 0.1), (1.0, 0.0)))
>>> plans = [schedule.one_shot(keep_macs=0.5), schedule.tick_only(keep_macs=0.5)]
>>> [plan(None, 1.0).name for plan in plans]
['score-1', 'tick-1']
"""

from jaxprune.arguments.absent_names import absent as _absent
from jaxprune.schedule.asymptotic_ratio import asymptotic
from jaxprune.schedule.phase import (
    Part,
    Phase,
    Prune,
    Quota,
    Training,
    constant,
    from_json,
    stepped,
    to_json,
    triangular,
)
from jaxprune.schedule.plans import (
    FINETUNE,
    SCORE,
    TICK,
    TOCK,
    Plan,
    agp,
    iterative,
    layerwise,
    one_shot,
    phases,
    tick_only,
    tick_tock,
)
from jaxprune.schedule.progress import Progress, begin
from jaxprune.schedule.score_tally import Tally, tally
from jaxprune.schedule.what_trains import masked_updates, trainable

__all__ = [
    "FINETUNE",
    "SCORE",
    "TICK",
    "TOCK",
    "Part",
    "Phase",
    "Plan",
    "Progress",
    "Prune",
    "Quota",
    "Tally",
    "Training",
    "agp",
    "asymptotic",
    "begin",
    "constant",
    "from_json",
    "iterative",
    "layerwise",
    "masked_updates",
    "one_shot",
    "phases",
    "stepped",
    "tally",
    "tick_only",
    "tick_tock",
    "to_json",
    "trainable",
    "triangular",
]

__getattr__ = _absent(
    "jaxprune.schedule",
    {
        "held": "jp.schedule.masked_updates(tx, graph)",
        "trained": "jp.schedule.trainable(graph, variables, part)",
    },
)
