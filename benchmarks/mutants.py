"""Mutants of a source file: the same code with one small fault."""

import ast
import copy
import difflib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt,),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "all": "any",
    "any": "all",
    "max": "min",
    "min": "max",
    "maximum": "minimum",
    "union": "intersection",
    "intersection": "union",
    "update": "difference_update",
    "difference_update": "update",
    "issubset": "issuperset",
    "argmax": "argmin",
    "argsort": "sort",
    "floor": "ceil",
    "ceil": "floor",
    "startswith": "endswith",
    "endswith": "startswith",
    "append": "remove",
    "setdefault": "get",
    "reversed": "list",
}
"""Functions and methods whose fault is another one's name."""


class Mutant(NamedTuple):
    """One fault: the source that has it, and the lines that differ."""

    fault: str
    source: str
    diff: str


def replacements(node: Any) -> Iterator[tuple[str, Any]]:
    """Yields (name of the fault, faulty node) for one node."""
    for rule in (_compares, _computes, _chooses, _counts, _calls, _returns, _drops):
        yield from rule(node)


def _with(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _compares(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Compare):
        for other in COMPARISONS[type(node.ops[0])]:
            yield "comparison", _with(node, ops=[other(), *node.ops[1:]])


def _computes(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield "operator", _with(node, op=OPERATORS[type(node.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        yield "operands swapped", _with(node, left=node.right, right=node.left)
    if isinstance(node, ast.BoolOp):
        for i in range(len(node.values)):
            rest = [*node.values[:i], *node.values[i + 1 :]]
            yield "condition dropped", rest[0] if len(rest) == 1 else _with(node, values=rest)


def _chooses(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert | ast.USub):
        yield "sign dropped", node.operand
    tested = isinstance(node, ast.If | ast.IfExp | ast.While)
    if tested and not isinstance(node.test, ast.Compare):  # that is a fault of the comparison
        yield "condition negated", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.comprehension) and node.ifs:
        yield "filter dropped", _with(node, ifs=node.ifs[1:])


def _counts(node: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield "constant", _with(node, value=not node.value)
    elif isinstance(node.value, int | float):
        yield "constant", _with(node, value=node.value + 1)
        if node.value != 0:
            yield "constant", _with(node, value=node.value - 1)


def _calls(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Name) and node.id in NAMES:
        yield "name", _with(node, id=NAMES[node.id])
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield "name", _with(node, attr=NAMES[node.attr])
    plain = isinstance(node, ast.Call) and not any(isinstance(x, ast.Starred) for x in node.args)
    if plain and len(node.args) >= 2:
        yield "arguments swapped", _with(node, args=[node.args[1], node.args[0], *node.args[2:]])


def _returns(node: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, ast.Return) or node.value is None:
        return
    if isinstance(node.value, ast.Tuple) and len(node.value.elts) >= 2:
        first, second, *rest = node.value.elts
        swapped = _with(node.value, elts=[second, first, *rest])
        yield "results swapped", _with(node, value=swapped)
    elif not isinstance(node.value, ast.Constant):
        yield "nothing returned", _with(node, value=ast.Constant(None))


def _drops(node: Any) -> Iterator[tuple[str, Any]]:
    stored = isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple)
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if stored or called or isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break):
        yield "statement dropped", ast.Pass()


def _visited(tree: ast.AST) -> Iterator[tuple[Any, str, int | None, Any]]:
    """Yields (parent, field, place in it, node) of what is code: no types, texts, decorators."""
    for field, value in ast.iter_fields(tree):
        if field in {"annotation", "returns", "decorator_list", "exc", "msg"}:
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for place, child in items:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield tree, field, place, child
                yield from _visited(child)


def mutants(source: str, count: int, seed: int) -> list[Mutant]:
    """Returns `count` mutants of a file in the order of its lines, of every fault as many."""
    tree = ast.parse(source)
    before = ast.unparse(tree)
    sites = [
        (fault, parent, field, place, node, faulty)
        for parent, field, place, node in _visited(tree)
        for fault, faulty in replacements(node)
    ]
    found = []
    for i in _sample([site[0] for site in sites], count, seed):
        fault, parent, field, place, node, faulty = sites[i]
        _put(parent, field, place, faulty)
        after = ast.unparse(tree)
        _put(parent, field, place, node)
        found.append(Mutant(fault, after, _diff(before, after)))
    return found


def _put(parent: Any, field: str, place: int | None, node: Any) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _diff(before: str, after: str) -> str:
    """The lines that differ, with - and +."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if line[:2] not in {"--", "++", "@@"})


def _sample(faults: list[str], count: int, seed: int) -> list[int]:
    """Returns the places of `count` faults, in turn one of each kind."""
    kinds: dict[str, list[int]] = {}
    for i in np.random.default_rng(seed).permutation(len(faults)).tolist():
        kinds.setdefault(faults[i], []).append(i)
    turns = itertools.zip_longest(*kinds.values())
    chosen = [i for turn in turns for i in turn if i is not None]
    return sorted(chosen[:count])
