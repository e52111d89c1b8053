"""What was pruned comes in; what to train, prune or cut next goes out; there is no loop inside.

A plan says what comes next, the progress how far it has come, and the training is yours:

  plan, phase = jp.schedule.tick_tock(keep_macs=0.4, share=0.02), None
  progress = jp.schedule.begin(graph, keep_macs=0.4, min_keep_ratio=0.1)
  while phase := plan(phase, progress.left()):
      if phase.training:  # says how; the step masks by progress.keep
          variables, tally = train(variables, progress, phase.training)
      if phase.prune:
          progress = progress.prune(phase.prune, tally.scores())
      if phase.commit:
          variables = jp.slice(progress.graph, variables, progress.keep)
          model = jp.linen.resize(original, progress.original, progress.total)
          progress = progress.commit(jp.trace(model.apply, variables, x))

A run that was killed begins with the last finished phase and its progress: `from_json`, `restored`.
"""

from jaxprune.schedule.hold import held as held
from jaxprune.schedule.hold import trained as trained
from jaxprune.schedule.phase import Part as Part
from jaxprune.schedule.phase import Phase as Phase
from jaxprune.schedule.phase import Prune as Prune
from jaxprune.schedule.phase import Quota as Quota
from jaxprune.schedule.phase import Training as Training
from jaxprune.schedule.phase import constant as constant
from jaxprune.schedule.phase import from_json as from_json
from jaxprune.schedule.phase import stepped as stepped
from jaxprune.schedule.phase import to_json as to_json
from jaxprune.schedule.phase import triangular as triangular
from jaxprune.schedule.plans import FINETUNE as FINETUNE
from jaxprune.schedule.plans import SCORE as SCORE
from jaxprune.schedule.plans import TICK as TICK
from jaxprune.schedule.plans import TOCK as TOCK
from jaxprune.schedule.plans import Plan as Plan
from jaxprune.schedule.plans import agp as agp
from jaxprune.schedule.plans import iterative as iterative
from jaxprune.schedule.plans import one_shot as one_shot
from jaxprune.schedule.plans import phases as phases
from jaxprune.schedule.plans import tick_only as tick_only
from jaxprune.schedule.plans import tick_tock as tick_tock
from jaxprune.schedule.progress import Progress as Progress
from jaxprune.schedule.progress import begin as begin
from jaxprune.schedule.score_tally import Tally as Tally
from jaxprune.schedule.score_tally import tally as tally
