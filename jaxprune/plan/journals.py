"""What was measured, in a file: a planner that was killed goes on from there."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune.arguments.checks import check_callable, check_path
from jaxprune.errors import CheckpointError
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.problems import Problem
from jaxprune.select.alone import finite

TOLERANCE = 1e-4
"""By which share a value that is measured again may differ from that in a journal."""
SMALL = 1e-6
"""By how much it may differ at least: what rounding leaves of a divergence that is 0."""


class Journal:
    """Numbers by key, each measured once; in a file of JSON lines if there is a path.

    The first line says of what they are. Numbers are written as Python does, which gives the same
    bits back. A last line that was cut off by a kill is dropped.
    """

    def __init__(self, path: Any, of: Mapping[str, Any]):
        """Reads what is there.

        Raises:
          CheckpointError: it is not a path, not a journal, or one of something else.
        """
        self.known: dict[str, float] = {}
        self.path: Path | None = None
        if path is None:
            return
        check_path(path, CheckpointError)
        self.path = Path(path)
        head = json.loads(json.dumps({"journal": 1, **of}))
        if self.path.exists():
            self._read(head)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(head)

    def value(self, key: Any, measure: Callable[[], Any], where: str) -> float:
        """Returns the number of a JSON key, measured if it is not known.

        Raises:
          JaxpruneError: it is not finite.
        """
        name = json.dumps(key)
        if name not in self.known:
            self.known[name] = finite(measure(), where)
            self._append({"key": key, "value": self.known[name]})
        return self.known[name]

    def check(self, key: Any, measure: Callable[[], Any], where: str) -> None:
        """Measures a number again that is known, so that other weights or data do not go unseen.

        Raises:
          CheckpointError: it is then another.
          JaxpruneError: it is not finite.
        """
        again, before = finite(measure(), where), self[key]
        if not same(again, before):
            raise CheckpointError(
                f"{self.path}: evaluate gives {again} for {where}, and the journal has {before}: "
                "it is of other weights or data.\nFix: the same evaluate, or another journal=."
            )

    def measured(self) -> list[Any]:
        """Returns the keys whose numbers are known, in the order in which they were measured."""
        return list(map(json.loads, self.known))

    def __getitem__(self, key: Any) -> float:
        return self.known[json.dumps(key)]

    def __contains__(self, key: Any) -> bool:
        return json.dumps(key) in self.known

    def _read(self, head: Mapping[str, Any]) -> None:
        assert self.path is not None
        try:
            text = self.path.read_bytes()
        except OSError as cause:
            raise CheckpointError(f"{self.path} cannot be read: {cause}\nFix: a file.") from cause
        whole = text[: text.rfind(b"\n") + 1]
        try:
            first, *lines = map(json.loads, whole.splitlines() or [json.dumps(head)])
            self.known = {json.dumps(line["key"]): float(line["value"]) for line in lines}
            known = first.get("journal") == 1 and all(map(math.isfinite, self.known.values()))
        except (ValueError, TypeError, KeyError, AttributeError):
            known, first = False, {}
        if not known:
            raise CheckpointError(f"{self.path} is not a journal.\nFix: another path.")
        names = sorted(head.keys() | first.keys())
        if other := [name for name in names if head.get(name) != first.get(name)]:
            told = [f"{n} is {first.get(n)!r}, here {head.get(n)!r}" for n in other]
            raise CheckpointError(
                "\n".join([f"{self.path} is the journal of something else:", *told])
                + "\nFix: the same problem and options, or another journal=."
            )
        if whole != text:
            os.truncate(self.path, len(whole))
        if not whole:
            self._append(head)

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def same(a: float, b: float) -> bool:
    """Whether two losses may be of the same network and data."""
    return bool(np.isclose(a, b, rtol=TOLERANCE, atol=SMALL))


class Losses:
    """What evaluators give for the picks of a problem, each measured once.

    A journal of them serves all planners that only evaluate, under whatever limits. Before an
    evaluator is asked for the first time, one value that the journal has of it is measured again:
    the furthest from that of the dense network, since a divergence from that is always 0.
    """

    def __init__(
        self,
        problem: Problem,
        evaluators: Sequence[Evaluate],
        journal: Any,
        *,
        of: str = "losses",
        loss: Callable[[Evaluate, Sequence[int]], Any] | None = None,
    ):
        """`loss`: what an evaluator gives for picks; by default it is called with their keep."""
        for evaluate in evaluators:
            check_callable(evaluate, "evaluate", "evaluate=jp.plan.evaluator(...).")
        self.problem, self.evaluators, self.loss = problem, evaluators, loss
        self.journal = Journal(journal, {"of": of, "choices": digest(problem)})
        self.known: dict[int, list[list[int]]] = {}
        for evaluator, *picks in self.journal.measured():
            self.known.setdefault(evaluator, []).append(picks)

    def at(self, picks: Sequence[int], evaluator: int = 0) -> float:
        """Returns the loss at the picks by one of the evaluators.

        Raises:
          JaxpruneError: it is not finite; the message names the widths.
        """
        if before := self.known.pop(evaluator, None):
            self.journal.check(*self._asked(self._furthest(before, evaluator), evaluator))
        return self.journal.value(*self._asked(picks, evaluator))

    def _furthest(self, known: Sequence[list[int]], evaluator: int) -> list[int]:
        values = {tuple(picks): self.journal[[evaluator, *picks]] for picks in known}
        dense = values.get((0,) * len(known[0]), 0.0)
        return max(known, key=lambda picks: abs(values[tuple(picks)] - dense))

    def _asked(self, picks: Sequence[int], evaluator: int) -> tuple[Any, Callable[[], Any], str]:
        evaluate, loss = self.evaluators[evaluator], self.loss

        def measure() -> Any:
            if loss is None:
                return evaluate(self.problem.keep(picks))
            return loss(evaluate, picks)

        return [evaluator, *map(int, picks)], measure, told(self.problem, picks)


def told(problem: Problem, picks: Sequence[int]) -> str:
    """Returns the widths of the picks that are not whole, in words."""
    pairs = zip(problem.choices, picks, strict=True)
    cut = [f"{choice.name!r} at width {choice.widths[pick]}" for choice, pick in pairs if pick]
    return ", ".join(cut) or "the dense network"


def digest(problem: Problem) -> str:
    """Returns what tells the keeps of a problem from others: choices, ladders, what stays first."""
    hashed = hashlib.sha256()
    for choice in problem.choices:
        hashed.update(repr((choice.name, choice.members, choice.widths, choice.branch)).encode())
    for each in (problem.order.present, problem.order.ranked):
        for name, values in each.items():
            hashed.update(repr((name, values.shape)).encode() + values.astype(np.int64).tobytes())
    return hashed.hexdigest()[:16]
