"""A short recovery between the decisions of a planner, and what it costs after a kill."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxprune.arguments.checks import check_callable
from jaxprune.errors import JaxpruneError
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Journal, same, told
from jaxprune.plan.problems import Problem

Recover = Callable[[Any, Any], Any]
"""From variables in the full shapes and a keep to variables in the full shapes."""


class Recovering:
    """Losses after a recovery, in a journal.

    The journal has the losses; the variables are made again where they are needed. Of what the
    journal has, the loss of the dense network is measured again, and the first that is another.
    """

    def __init__(
        self,
        problem: Problem,
        evaluate: Evaluate,
        recover: Recover | None,
        variables: Any,
        journal: Journal,
    ):
        check_callable(evaluate, "evaluate", "evaluate=jp.plan.evaluator(...).")
        fix = "recover=lambda variables, keep: trained(variables, keep)."
        check_callable(recover, "recover", fix, optional=True)
        if recover is not None and variables is None:
            raise JaxpruneError(
                "recover has no variables to begin with.\nFix: variables=those of the graph."
            )
        self.problem, self.evaluate, self.recover = problem, evaluate, recover
        self.variables, self.journal, self.checked = variables, journal, False

    def dense(self) -> float:
        """Returns the loss of the dense network, with the variables of the beginning."""
        keep = self.problem.keep([0] * len(self.problem.choices))
        given = [] if self.recover is None else [self.variables]
        asked = ["dense"], lambda: self.evaluate(keep, *given), "the dense network"
        if asked[0] in self.journal:
            self.journal.check(*asked)
        return self.journal.value(*asked)

    def loss(self, key: Any, picks: Sequence[int], start: Any) -> tuple[float, Callable[[], Any]]:
        """Returns the loss at the picks, recovered from `start`, and what gives the variables.

        Raises:
          JaxpruneError: it is not finite; the message names the widths.
          CheckpointError: the journal has another.
        """
        keep, made = self.problem.keep(picks), list[Any]()

        def variables() -> Any:
            if self.recover is None:
                return start
            if not made:
                made.append(self.recover(start, keep))
            return made[0]

        def measure() -> Any:
            return self.evaluate(keep) if self.recover is None else self.evaluate(keep, variables())

        asked = key, measure, told(self.problem, picks)
        if not self.checked and key in self.journal:
            self.journal.check(*asked)
            self.checked = not same(self.journal[key], self.journal[["dense"]])
        return self.journal.value(*asked), variables
