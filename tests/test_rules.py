"""Every rule against its oracles; see oracles.py for what they are."""

from typing import Any

import pytest

import jaxprune as jp
import oracles
from jaxprune.program import spaces as ax
from jaxprune.program.rules import Known, Rule
from rule_cases import CASES, WITHOUT_CASE

EACH = [(name, index) for name, cases in CASES.items() for index in range(len(cases))]


def test_every_rule_has_an_oracle() -> None:
    assert set(CASES) | set(WITHOUT_CASE) == set(jp.RULES)
    assert not set(CASES) & set(WITHOUT_CASE)


@pytest.mark.parametrize(("name", "index"), EACH, ids=[f"{n}-{i}" for n, i in EACH])
def test_rule(name: str, index: int) -> None:
    oracles.check(name, CASES[name][index])


def fresh(op: Any) -> list[list[ax.Space]]:
    return [[ax.fresh(size) for size in shape] for shape in op.out_shapes]


def silent(_op: Any, known: list[Known], _exact: Any) -> list[Known]:
    return [Known(known[0].zeros[:1])]


BROKEN = {
    "spec": ("transpose", Rule(lambda op: [list(op.ins[0])], jp.RULES["transpose"].zeros)),
    "dependence": ("sin", Rule(fresh)),
    "zeros": ("cos", Rule(jp.RULES["cos"].axes, jp.RULES["sin"].zeros)),
    "run": ("reshape", jp.RULES["reshape"]._replace(params=lambda *_: {})),
    "values": ("reduce_sum", jp.RULES["reduce_sum"]._replace(zeros=silent)),
}
"""Oracle: a rule that it must refuse."""


@pytest.mark.parametrize("oracle", BROKEN)
def test_each_oracle_alone_refuses_a_broken_rule(oracle: str) -> None:
    name, rule = BROKEN[oracle]
    verdicts = oracles.verdicts(name, CASES[name][0], {**jp.RULES, name: rule})
    assert verdicts[oracle] is not None
