"""Breaks every rule in every way and runs its oracles: a broken rule must not pass.

Command: python -m benchmarks.mutate_rules  (or with names of primitives)
Writes:  benchmarks/results/mutations_of_rules.md
Time:    about 5 minutes on two CPU cores.

Each cell of the table names the oracles that refuse the mutant: `spec` (axes and inexact groups as
stated), and those that know nothing of the stated result: `trace` and `run` (it does not run),
`dependence`, `zeros`, `values`. A dash: the mutant is the rule itself, as in "same parameters" of
a rule that changes none. EXCUSED lists what no oracle can tell apart, and why.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import jax  # noqa: E402

import conftest  # noqa: E402, F401  eight CPU devices, before JAX starts
import jaxprune as jp  # noqa: E402
import oracles  # noqa: E402
import rule_networks  # noqa: E402
from jaxprune.program import spaces as ax  # noqa: E402
from jaxprune.program.reasons import Why  # noqa: E402
from jaxprune.program.rules import base  # noqa: E402
from rule_cases import CASES  # noqa: E402

Rule = jp.Rule


def fresh_axes(rule: Rule) -> Rule:
    """The results have axes of their own."""

    def axes(op: Any) -> list[base.Axes]:
        rule.axes(op)
        return [[ax.fresh(size) for size in shape] for shape in op.out_shapes]

    return rule._replace(axes=axes)


def frozen_axes(rule: Rule) -> Rule:
    """The results are frozen."""

    def axes(op: Any) -> list[base.Axes]:
        outs = rule.axes(op)
        for out in outs:
            base.freeze(out, Why("mutant"), op)
        return outs

    return rule._replace(axes=axes)


def untied_operands(rule: Rule) -> Rule:
    """The rule sees copies of all operands but the first."""

    def axes(op: Any) -> list[base.Axes]:
        ins = op.ins
        op.ins = [*ins[:1], *([ax.fresh(space.size) for space in item] for item in ins[1:])]
        outs = rule.axes(op)
        op.ins = ins
        return outs

    return rule._replace(axes=axes)


def swapped_axes(rule: Rule) -> Rule:
    """Two axes of one size change places in every result that has them."""

    def axes(op: Any) -> list[base.Axes]:
        return [swap(out) for out in rule.axes(op)]

    return rule._replace(axes=axes)


def swap(axes: base.Axes) -> base.Axes:
    """Returns the axes with the first two of one size exchanged."""
    for i, a in enumerate(axes):
        for j in range(i + 1, len(axes)):
            if a.size == axes[j].size and a is not axes[j]:
                return [*axes[:i], axes[j], *axes[i + 1 : j], a, *axes[j + 1 :]]
    return axes


def all_zero(rule: Rule) -> Rule:
    """Every group of the results is said to be zero where it is pruned."""

    def zeros(op: Any, known: list[Any], exact: Any) -> list[Any]:
        rule.zeros(op, known, exact)
        return [base.Known(tuple(exact.groups(space) for space in out)) for out in op.outs]

    return rule._replace(zeros=zeros)


def no_zero(rule: Rule) -> Rule:
    """No zero survives."""

    def zeros(op: Any, known: list[Any], exact: Any) -> list[Any]:
        rule.zeros(op, known, exact)
        return [base.unknown(shape) for shape in op.out_shapes]

    return rule._replace(zeros=zeros)


class Silent:
    """The pass that decides exactness, deaf to reports."""

    def __init__(self, exact: Any):
        self.exact = exact
        self.run = exact.peek
        self.heard = False

    def __getattr__(self, name: str) -> Any:
        """All else is as in the pass."""
        return getattr(self.exact, name)

    def inexact(self, groups: Any, *_: Any) -> None:
        """Hears, and does nothing."""
        self.heard |= bool(groups)

    undefined = steep = inexact


def no_report(rule: Rule) -> Rule:
    """Nothing is called inexact."""
    return rule._replace(zeros=lambda op, known, exact: rule.zeros(op, known, Silent(exact)))


def same_parameters(rule: Rule) -> Rule:
    """The parameters stay those of the full size."""
    return rule._replace(params=base.same)


def same_operands(rule: Rule) -> Rule:
    """Windows start where they start at the full size."""
    return rule._replace(operands=base.all_operands)


MUTANTS: Mapping[str, Callable[[Rule], Rule]] = {
    "fresh axes": fresh_axes,
    "frozen axes": frozen_axes,
    "untied operands": untied_operands,
    "swapped axes": swapped_axes,
    "all zero": all_zero,
    "no zero": no_zero,
    "no report": no_report,
    "same parameters": same_parameters,
    "same operands": same_operands,
}


EXCUSED = {
    ("empty", "fresh axes"): "is the rule",
    ("empty", "all zero"): "the CPU fills it with zeros",
    ("pbroadcast", "all zero"): "has no CPU program",
    ("pbroadcast", "no zero"): "has no CPU program",
}
"""Mutants that no oracle can tell from the rule here, with the reason."""


def differences(name: str) -> set[str]:
    """Returns the mutants that differ from the rule in any of its cases."""
    rule = jp.RULES[name]
    found = set() if rule.params is base.same else {"same parameters"}
    found |= set() if rule.operands is base.all_operands else {"same operands"}

    def zeros(op: Any, known: list[Any], exact: Any) -> list[Any]:
        heard = Silent(exact)
        rule.zeros(op, known, heard)
        results = rule.zeros(op, known, exact)
        present = [[exact.groups(space) for space in out] for out in op.outs]
        swapped = [[exact.groups(space) for space in swap(out)] for out in op.outs]
        claimed = [list(item.zeros) for item in results]
        shaped = [item for item in op.ins if any(space.size > 1 for space in item)]
        facts = {
            "fresh axes": any(space.size > 1 for out in op.outs for space in out),
            "frozen axes": any(map(any, present)),
            "untied operands": len(shaped) > 1,
            "swapped axes": swapped != present,
            "all zero": claimed != present,
            "no zero": any(map(any, claimed)),
            "no report": heard.heard,
        }
        found.update(label for label, differs in facts.items() if differs)
        return results

    table = {**jp.RULES, name: rule._replace(zeros=zeros)}
    for case in CASES[name]:
        rule_networks.observe(name, case, table)
    return found


def judge(name: str, mutant: Callable[[Rule], Rule]) -> list[str]:
    """Returns the oracles that refuse the mutant of a rule, at the first case where one does."""
    table = {**jp.RULES, name: mutant(jp.RULES[name])}
    for case in CASES[name]:
        verdicts = oracles.verdicts(name, case, table)
        refused = [oracle for oracle, error in verdicts.items() if error is not None]
        if refused:
            return refused
    return []


def rows(names: list[str]) -> Iterator[tuple[str, dict[str, list[str] | None]]]:
    """Yields (primitive, {mutant: the oracles that refuse it, None where it is not a mutant})."""
    for name in names:
        differ = differences(name)
        yield (
            name,
            {
                label: judge(name, mutant) if label in differ else None
                for label, mutant in MUTANTS.items()
            },
        )


def main(names: list[str]) -> int:
    """Prints the table as it grows, writes it, and returns the number of survivors."""
    lines = [
        "# Mutants of the rules\n",
        f"`python -m benchmarks.mutate_rules`, JAX {jax.__version__}.\n",
        f"| primitive | {' | '.join(MUTANTS)} |",
        f"|---|{'---|' * len(MUTANTS)}",
    ]
    verdicts = {}
    for name, found in rows(names or sorted(CASES)):
        lines.append(f"| {name} | {' | '.join(cell(name, *item) for item in found.items())} |")
        print(lines[-1], flush=True)
        verdicts |= {
            (name, label): found[label]
            for label in found
            if found[label] is not None and (found[label] or (name, label) not in EXCUSED)
        }
    lines.append(f"\n{summary(verdicts)}")
    print(lines[-1])
    if not names:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "mutations_of_rules.md").write_text("\n".join(lines) + "\n")
    return sum(not found for found in verdicts.values())


def cell(name: str, label: str, found: list[str] | None) -> str:
    """Returns what the table shows of one mutant."""
    if found is None:
        return "-"
    return ", ".join(found) or EXCUSED.get((name, label), "**SURVIVES**")


def summary(verdicts: Mapping[tuple[str, str], list[str]]) -> str:
    """Returns the counts in a sentence."""
    refused = [found for found in verdicts.values() if found]
    blind = sum(found != ["spec"] for found in refused)
    left = [f"{label} of {name}" for (name, label), f in verdicts.items() if not f]
    return (
        f"{len(verdicts)} mutants, {len(refused)} refused, {blind} of them by an oracle other than "
        f"`spec`; not told apart: {', '.join(left) or 'none'}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
