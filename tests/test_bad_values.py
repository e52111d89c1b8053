"""Bad input is refused in words: a table of every public function and values it must not take."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from refused import ROWS
from refused.rows import ABSENT, Row
from refused.values import GRAPH, KEEP, SPELLINGS

DATA = (
    *(
        jp.Share,
        jp.Absolute,
        jp.Restored,
        jp.Pruned,
        jp.Branch,
        jp.ChannelGraph,
        jp.Group,
        jp.Slot,
        jp.Kind,
        jp.Rule,
        jp.Verification,
    ),
    *(jp.plan.Allocation, jp.plan.Choice, jp.plan.Decision, jp.plan.Limit, jp.plan.Problem),
    *(jp.plan.Curves, jp.plan.Evaluator, jp.plan.Expansion),
    *(jp.cost.ClosedForm, jp.cost.Fidelity, jp.cost.Latency, jp.cost.LatencyTable),
    jp.cost.Uncounted,
    *(jp.gates.Decorated, jp.gates.Law, jp.gates.Learned, jp.gates.Lagrangian),
    *(jp.linen.Resizing, jp.linen.Resized),
    *(jp.recover.Absorbed, jp.recover.Outcome, jp.sparsify.GlobalGates),
    *(jp.sparsify.PenaltyState, jp.sparsify.Masking, jp.sparsify.SoftPruningState),
    *(jp.sparsify.AcceleratedState, jp.sparsify.CompressionState, jp.sparsify.GrowingState),
    *(jp.recover.Fit, jp.recover.Form, jp.recover.Order, jp.recover.Recovered),
    *(jp.recover.Removal, jp.recover.Shrunk, jp.recover.Discriminating, jp.recover.Head),
    *(jp.schedule.Part, jp.schedule.Quota, jp.schedule.Progress, jp.schedule.Tally),
    *(jp.slimmable.Found, jp.slimmable.Device, jp.slimmable.Spectrum, jp.slimmable.Switch),
    *(jp.slimmable.Split, jp.slimmable.Gradients, jp.select.Constraints),
    *(jp.stats.At, jp.stats.By, jp.stats.Aggregate, jp.stats.Collector, jp.stats.State),
    *(jp.stats.Rows, jp.stats.Reading, jp.stats.Problem),
    jp.stats.ExpertUse,
    *(jp.stats.Moments, jp.stats.Histogram, jp.stats.Gram, jp.stats.Covariance),
)
"""What the library makes and hands out. The methods of `Progress`, `Tally`, `Switch`,
`ClosedForm`, `Evaluator`, `LatencyTable` and `Problem` have rows."""
CASES = [(name, arg) for name, row in ROWS.items() for arg in row.args]


def public() -> Iterator[tuple[str, Any]]:
    """Yields every public function and class, in `jaxprune` and its packages."""
    for name in jp.__all__:
        item = getattr(jp, name)
        if not inspect.ismodule(item):
            yield name, item
        elif name not in ("spaces", "errors"):  # spaces, for authors of rules; exceptions
            yield from ((f"{name}.{inner}", getattr(item, inner)) for inner in item.__all__)


def fingerprint(value: Any) -> Any:
    """What a function could have changed in an argument."""
    leaves, structure = jax.tree.flatten(value)
    return str(structure), [x.tobytes() if isinstance(x, np.ndarray) else id(x) for x in leaves]


def called(row: Row, **changed: Any) -> Any:
    if row is ROWS["export"]:
        pytest.importorskip("flatbuffers")
    given = {name: arg.good for name, arg in row.args.items() if arg.good is not ABSENT}
    return row.call(**given | changed)


def complaint(row: Row, arg: str, value: Any) -> str | None:
    """What is wrong with the answer to a bad value."""
    try:
        called(row, **{arg: value})
    except jp.errors.JaxpruneError as error:
        text, says = str(error), row.args[arg].says
        if "Fix:" not in text:
            return f"no way out in {text!r}"
        return None if re.search(says, text) else f"nothing of {says!r} in {text!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    return "taken"


def test_every_public_function_has_a_row() -> None:
    functions = {
        name: item
        for name, item in public()
        if (inspect.isfunction(item) or inspect.isclass(item)) and item not in DATA
    }
    covered = {id(functions[name]) for name in ROWS if name in functions}
    assert [name for name, item in functions.items() if id(item) not in covered] == []
    unused = {name for name in ROWS if name not in functions and "(" not in name}
    assert {name for name in unused if name.count(".") < 2} == set()


@pytest.mark.parametrize("name", ROWS)
def test_every_argument_is_tried(name: str) -> None:
    """A parameter that has no bad values in the table can hide a raw error."""
    functions = dict(public())
    if name in functions:
        given = set(ROWS[name].args)
        assert {p for p in inspect.signature(functions[name]).parameters} - given <= FREE


FREE = {"options", "constraints", "rounding", "arguments", "call", "columns", "args", "keywords"}
"""Keywords, which have rows of their own."""


@pytest.mark.parametrize("name", ROWS)
def test_good_values_are_taken(name: str) -> None:
    called(ROWS[name])


@pytest.mark.parametrize(("name", "arg"), CASES, ids=map("-".join, CASES))
def test_bad_values_are_refused(name: str, arg: str) -> None:
    row = ROWS[name]
    good = {n: item.good for n, item in row.args.items() if item.good is not ABSENT}
    before, groups = {n: fingerprint(value) for n, value in good.items()}, dict(GRAPH.groups)
    answers = {what: complaint(row, arg, value) for what, value in row.args[arg].bad.items()}
    failures = [f"{what}: {why}" for what, why in answers.items() if why]
    assert not failures, "\n".join(["", *failures])
    assert before == {n: fingerprint(value) for n, value in good.items()}, "arguments have changed"
    assert dict(GRAPH.groups) == groups


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("name", "arg"), [(n, a) for n, a in CASES if ROWS[n].args[a].good is KEEP], ids=str
)
def test_a_keep_may_be_spelled(name: str, arg: str, spelling: str) -> None:
    """Masks of JAX and lists of bools are masks everywhere, with the same result."""
    found, expected = (called(ROWS[name], **{arg: v}) for v in (SPELLINGS[spelling], KEEP))
    if isinstance(expected, int | dict):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert type(found) is type(expected)


def test_a_traced_keep_is_refused_where_it_decides_shapes() -> None:
    """Or counts: only `mask` and what trains by mask take one."""

    def traced(name: str, arg: str) -> str:
        def call(mask: Any) -> int:
            called(ROWS[name], **{arg: {"a/kernel": mask}})
            return 0

        try:
            jax.eval_shape(call, KEEP["a/kernel"])
        except jp.errors.KeepError as error:
            return str(error)
        return "taken"

    keeps = [(name, arg) for name, arg in CASES if ROWS[name].args[arg].good is KEEP]
    found = {name: traced(name, arg) for name, arg in keeps}
    assert {name for name, text in found.items() if text == "taken"} == {
        "mask",
        "masked",
        "schedule.masked_updates",
        "sparsify.soft_mask",
    }
    assert all(re.search("is traced[\\s\\S]*Fix:|taken", text) for text in found.values()), found
