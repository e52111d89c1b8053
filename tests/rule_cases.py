"""The cases of every rule: {primitive: small functions that end in it}."""

import jax

import rule_cases_contraction
import rule_cases_control
import rule_cases_elementwise
import rule_cases_indexing
import rule_cases_random
import rule_cases_reduction
import rule_cases_shape
import rule_cases_sparse
import rule_cases_transforms
from rule_networks import Case

CASES: dict[str, tuple[Case, ...]] = (
    rule_cases_elementwise.CASES
    | rule_cases_shape.CASES
    | rule_cases_contraction.CASES
    | rule_cases_reduction.CASES
    | rule_cases_indexing.CASES
    | rule_cases_random.CASES
    | rule_cases_control.CASES
    | rule_cases_sparse.CASES
    | rule_cases_transforms.CASES
)

WITHOUT_CASE = {
    "after_all": "orders effects; its operands and its result hold no array",
    "select_inputs": "a keep must fit the stream, which no free keep does; see test_streams.py",
    "owners": "it joins several primitives that count; see test_experts.py",
}
"""Rules that these oracles cannot judge, with the reason."""

if jax.__version_info__ < (0, 12):
    new = "log2 one_minus_square polynomial".split()
    WITHOUT_CASE |= dict.fromkeys(new, "a primitive since JAX 0.12")
