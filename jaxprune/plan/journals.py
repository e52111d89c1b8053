"""What was measured, in a file: a planner that was killed goes on from there."""

import hashlib
import json
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
        self.unsure = False
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
        self.unsure = bool(self.known)

    def value(self, key: Any, measure: Callable[[], Any], where: str) -> float:
        """Returns the number of a JSON key, measured if it is not known.

        The first that is asked for is measured again where the journal has it, so that other
        weights or data do not go unseen.

        Raises:
          CheckpointError: it is then another.
          JaxpruneError: it is not finite.
        """
        name = json.dumps(key)
        if name not in self.known:
            self.known[name] = finite(measure(), where)
            self._append({"key": key, "value": self.known[name]})
        elif self.unsure:
            again = finite(measure(), where)
            if not np.isclose(again, self.known[name], rtol=TOLERANCE, atol=TOLERANCE):
                raise CheckpointError(
                    f"{self.path}: evaluate gives {again} for {where}, and the journal has "
                    f"{self.known[name]}: it is of other weights or data.\n"
                    "Fix: the same evaluate, or another journal=."
                )
        self.unsure = False
        return self.known[name]

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
            known = first.get("journal") == 1
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


class Losses:
    """What evaluators give for the picks of a problem, each measured once.

    A journal of them serves all planners that only evaluate, under whatever limits.
    """

    def __init__(self, problem: Problem, evaluators: Sequence[Evaluate], journal: Any):
        for evaluate in evaluators:
            check_callable(evaluate, "evaluate", "evaluate=jp.plan.evaluator(...).")
        self.problem, self.evaluators = problem, evaluators
        self.journal = Journal(journal, {"of": "losses", "choices": digest(problem)})

    def at(self, picks: Sequence[int], evaluator: int = 0) -> float:
        """Returns the loss at the picks by one of the evaluators.

        Raises:
          JaxpruneError: it is not finite; the message names the widths.
        """
        evaluate = self.evaluators[evaluator]
        return self.journal.value(
            [evaluator, *map(int, picks)],
            lambda: evaluate(self.problem.keep(picks)),
            told(self.problem, picks),
        )


def told(problem: Problem, picks: Sequence[int]) -> str:
    """Returns the widths of the picks that are not whole, in words."""
    pairs = zip(problem.choices, picks, strict=True)
    cut = [f"{choice.name!r} at width {choice.widths[pick]}" for choice, pick in pairs if pick]
    return ", ".join(cut) or "the dense network"


def digest(problem: Problem) -> str:
    """Returns what tells the keeps of a problem from others: choices, ladders, what stays first."""
    found = hashlib.sha256()
    for choice in problem.choices:
        found.update(repr((choice.name, choice.members, choice.widths, choice.branch)).encode())
    for each in (problem.order.present, problem.order.ranked):
        for name, values in each.items():
            found.update(repr((name, values.shape)).encode() + values.astype(np.int64).tobytes())
    return found.hexdigest()[:16]
