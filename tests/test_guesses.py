"""Wrong guesses that are natural lead to what to call, and to the page that explains it."""

import pickle
import re
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.errors import see
from refused.values import GRAPH, KEEP, MODEL, PARAMS, SCORES, TWIN, VARIABLES, A, X, apply, train

LINEN: Any = MODEL
NNX: Any = TWIN
BUDGET: Any = jp.select.budget
GLOBAL: Any = jp.select.global_ratio
TAYLOR: Any = jp.scores.taylor
HALF: Any = 0.5
ROOT = Path(__file__).parents[1]
STATISTICS = {"params": PARAMS}
STATE = SimpleNamespace(params=PARAMS, step=0)  # as a TrainState
GUESSES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a module": (lambda: jp.trace(LINEN, VARIABLES, X), r"jp\.linen\.trace\(module", "howto/linen"),
    "an NNX model": (lambda: jp.trace(NNX, X), r"jp\.nnx\.trace\(model", "howto/nnx"),
    "NNX as Linen": (lambda: jp.linen.trace(NNX, X), r"jp\.nnx\.trace\(model", "howto/nnx"),
    "Linen as NNX": (lambda: jp.nnx.trace(LINEN, X), r"jp\.linen\.trace\(module", "howto/linen"),
    "NNX with its variables": (
        lambda: jp.nnx.trace(NNX, jp.nnx.variables(NNX), X),
        r"which the model holds[\s\S]*jp\.nnx\.trace\(model, \*inputs\)",
        "howto/nnx",
    ),
    "a module to prune": (
        lambda: jp.prune(LINEN, VARIABLES, X, keep_macs=0.5),
        r"jp\.linen\.prune",
        "howto/linen",
    ),
    "apply in place of the module": (
        lambda: jp.linen.trace(LINEN.apply, VARIABLES, X),
        "pass the model object",
        "howto/linen",
    ),
    "the params alone": (
        lambda: jp.linen.trace(LINEN, PARAMS, X),
        "not the params alone",
        "howto/linen",
    ),
    "no statistics": (
        lambda: jp.linen.trace(LINEN, STATISTICS, X),
        r"collection \"batch_stats\"[\s\S]*Fix: all that module.init returned",
        "howto/linen",
    ),
    "a TrainState": (lambda: jp.linen.trace(LINEN, STATE, X), "module.init", "howto/linen"),
    "the input in place of variables": (
        lambda: jp.linen.trace(LINEN, X),
        "module.init",
        "howto/linen",
    ),
    "statistics that may not change": (
        lambda: jp.linen.trace(LINEN, VARIABLES, X, train=True),
        r"mutable=\['batch_stats'\]",
        "howto/linen",
    ),
    "another function than was traced": (
        lambda: jp.resize(train, GRAPH, KEEP),
        "Fix: pass the function that was traced",
        "howto/debugging",
    ),
    "params to slice": (
        lambda: jp.slice(GRAPH, PARAMS, KEEP),
        "not the params alone",
        "howto/errors",
    ),
    "a count": (lambda: jp.slice(GRAPH, VARIABLES, {A: 2}), "per_group", "howto/errors"),
    "indices": (lambda: jp.slice(GRAPH, VARIABLES, {A: [0, 2]}), r"np\.isin", "howto/errors"),
    "a ratio for all": (lambda: jp.slice(GRAPH, VARIABLES, HALF), "group: bool", "howto/errors"),
    "a positional ratio": (
        lambda: GLOBAL(GRAPH, SCORES, 0.5),
        r"global_ratio\(graph, scores, prune_ratio=0.5\)",
        "howto/budgets",
    ),
    "a positional budget": (
        lambda: BUDGET(GRAPH, SCORES, 0.5),
        r"budget\(graph, scores, keep_macs=0.5\)",
        "howto/budgets",
    ),
    "a positional ratio to prune": (
        lambda: jp.linen.prune(LINEN, VARIABLES, X, 0.5),
        "a ratio goes by its name",
        "howto/budgets",
    ),
    "a ratio by another name": (
        lambda: jp.linen.prune(LINEN, VARIABLES, X, sparsity=0.5),
        "no keyword 'sparsity'[\\s\\S]*keep_macs=0.5",
        "howto/budgets",
    ),
    "no inputs": (lambda: jp.trace(apply, VARIABLES), "pass the inputs", "howto/errors"),
    "a shape for an array": (
        lambda: jp.trace(apply, VARIABLES, X.shape),
        "ShapeDtypeStruct",
        "howto/errors",
    ),
    "a score with data": (
        lambda: jp.prune(apply, VARIABLES, X, keep_macs=0.5, scores=TAYLOR),
        r"taylor needs \['gradients'\] too",
        "reference/scores",
    ),
    "a model to recalibrate": (
        lambda: jp.recover.recalibrate(LINEN, VARIABLES, [X]),
        "update must be a function",
        "howto/linen",
    ),
    "load": (lambda: getattr(jp, "load"), r"jp\.restore\(path\)", "howto/linen"),  # noqa: B009
    "prune_model": (
        lambda: getattr(jp, "prune_model"),  # noqa: B009
        r"jp\.linen\.prune",
        "start",
    ),
    "flops": (lambda: getattr(jp, "flops"), r"jp\.cost\.macs", "concepts/costs"),  # noqa: B009
    "haiku.trace": (
        lambda: getattr(jp.haiku, "trace"),  # noqa: B009
        r"jp\.trace\(lambda",
        "howto/haiku",
    ),
}


@pytest.mark.parametrize("name", GUESSES)
def test_a_guess_says_what_to_call_and_names_the_page(name: str) -> None:
    call, says, page = GUESSES[name]
    with pytest.raises(Exception, match=says) as caught:
        call()
    shown = "".join(traceback.format_exception_only(caught.value))
    assert "Fix: " in shown
    assert shown.rstrip().endswith(see(page))


def test_models_of_other_packages_are_known() -> None:
    hk, eqx = pytest.importorskip("haiku"), pytest.importorskip("equinox")
    transformed = hk.transform(lambda x: x)
    with pytest.raises(jp.errors.TraceError, match=r"model\.apply\(v, None, x\)") as caught:
        jp.trace(transformed, {}, X)
    assert caught.value.page == "howto/haiku"
    with pytest.raises(jp.errors.TraceError, match=r"eqx\.partition") as caught:
        jp.trace(eqx.nn.Linear(2, 3, key=jax.random.key(0)), X)
    assert caught.value.page == "howto/equinox"


def test_an_input_with_the_names_of_modules_is_an_input() -> None:
    class Two(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(2, 4, rngs=nnx.Rngs(0))

        def __call__(self, named: Any) -> Any:
            return self.a(named["a"])

    assert list(jp.nnx.trace(Two(), {"a": X}).variables)


def test_every_page_that_the_code_names_is_there() -> None:
    page = re.compile(r'"((?:concepts|howto|methods|reference)/\w+|start|choosing|comparison)"')
    named = {
        found
        for path in (ROOT / "jaxprune").rglob("*.py")
        for found in page.findall(path.read_text("utf-8"))
    }
    assert len(named) > 10
    assert {kind.page for kind in errors()} - {None} <= named
    written = {f"reference/{name}" for name in jp.__all__}  # by the build
    assert [name for name in named - written if not (ROOT / f"docs/{name}.md").exists()] == []


def test_the_site_is_that_of_the_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"{project['urls']['Documentation']}/stable" == jp.errors.SITE


def errors() -> list[type[jp.errors.JaxpruneError]]:
    return [
        kind
        for kind in vars(jp.errors).values()
        if isinstance(kind, type) and issubclass(kind, jp.errors.JaxpruneError)
    ]


def test_the_page_of_errors_has_all_of_them() -> None:
    text = (ROOT / "docs/howto/errors.md").read_text("utf-8")
    kinds = {kind.__name__ for kind in errors()} - {"JaxpruneError"}
    assert [name for name in kinds if f"| `jp.errors.{name}` |" not in text] == []


def test_a_page_survives_pickling_and_is_named_once() -> None:
    error = pickle.loads(pickle.dumps(jp.errors.TraceError("text", page="howto/nnx")))
    assert (str(error), error.page) == ("text", "howto/nnx")
    assert error.__notes__ == [see("howto/nnx")]
    assert not hasattr(jp.errors.JaxpruneError("text"), "__notes__")
