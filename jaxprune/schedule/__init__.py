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
