"""The allocation of the least loss among all that a search looks at."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.problems import Problem


class LeastLoss:
    """The best picks so far, none at first, and how their loss fell."""

    def __init__(self) -> None:
        self.picks: list[int] = []
        self.loss: float = np.inf
        self.trace: list[Decision] = []

    def offer(self, what: str, picks: Sequence[int], loss: float) -> None:
        """Takes picks whose loss is less than that of all before them; says what found them."""
        if loss < self.loss:
            self.picks, self.loss = list(picks), loss
            self.trace.append(Decision(what, -loss))

    def allocation(self, problem: Problem, *, variables: Any = None) -> Allocation:
        """Returns the allocation of the best picks."""
        return allocation(
            problem, self.picks, value=-self.loss, trace=self.trace, variables=variables
        )
