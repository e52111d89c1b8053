"""`python -m jaxprune`: versions, devices, and which optional parts are installed.

What comes in is the environment, what goes out is a text. All of it is read from the metadata of
installed packages; none of the optional ones is imported.
"""

import operator
import platform
import re
from collections.abc import Iterator
from importlib import metadata

import jax

import jaxprune

EXTRAS = {
    "export": "jp.export: one file that runs without jaxprune",
    "safetensors": "jp.open_variables, jp.slice_stored: files larger than memory",
    "optuna": "jp.plan.optuna_search: widths by its samplers",
    "cuda12": "JAX on GPUs of NVIDIA, with CUDA 12",
    "cuda13": "JAX on GPUs of NVIDIA, with CUDA 13",
    "tpu": "JAX on TPUs",
}
"""What each extra is for; what it installs stands in `pyproject.toml`."""

EXTRAS_OF_A_CLONE = {
    "experiments": "python -m experiments",
    "prepare": "python -m experiments.data prepare",
    "foreign": "python -m benchmarks.foreign_models",
    "against": "python -m benchmarks.against_torch_pruning",
    "docs": "the site",
    "dev": "tests, lint and types",
}
"""Likewise; they are for programs that a package does not hold."""

_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^\]]*)\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")
_SYSTEM = re.compile(r"platform_system\s*==\s*['\"](\w+)['\"]")
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?")
_HOLDS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def main() -> None:
    """Prints all of it."""
    print("\n".join([*versions(), "", *backends(), "", *extras()]))


def versions() -> Iterator[str]:
    """Yields jaxprune, Python, and what jaxprune requires, with the versions that run."""
    yield (
        f"jaxprune {jaxprune.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    )
    required = [name for name, *_ in _required("jaxprune")] or ["jax", "flax", "optax"]
    names = sorted({*required, "jaxlib", "orbax-checkpoint"})
    yield ", ".join(f"{name} {_version(name) or 'missing'}" for name in names)


def backends() -> Iterator[str]:
    """Yields a line for each kind of device that JAX could run on."""
    try:
        default = jax.default_backend()
    except RuntimeError as error:
        yield f"JAX has no device: {error}"
        return
    for name in ("cpu", "gpu", "tpu"):
        try:
            found = jax.devices(name)
        except RuntimeError:
            yield f"{name}: none"
            continue
        kinds = ", ".join(sorted({device.device_kind for device in found}))
        chosen = ", the default" if name == default else ""
        yield f"{name}: {len(found)} ({kinds}){chosen}"


def extras() -> Iterator[str]:
    """Yields a line for each optional part: what it is for, and what of it is missing."""
    try:
        provided = metadata.metadata("jaxprune").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        yield "jaxprune is not installed, so its optional parts are not known. Fix: pip install it."
        return
    width = max(map(len, provided), default=0)
    yield "optional parts:"
    uses = EXTRAS | {name: f"{use}, in a clone" for name, use in EXTRAS_OF_A_CLONE.items()}
    for name in sorted(provided, key=[*uses, *provided].index):
        yield f"  {name:{width}}  {uses.get(name, '')}"
        lacking = sorted(set(missing("jaxprune", name)))
        state = "installed" if not lacking else f"missing: {', '.join(lacking)}"
        yield f"  {'':{width}}  {state}"
        if lacking:
            what = f'-e ".[{name}]"' if name in EXTRAS_OF_A_CLONE else f'"jaxprune[{name}]"'
            yield f"  {'':{width}}  pip install {what}"


def missing(distribution: str, extra: str) -> Iterator[str]:
    """Yields what an extra asks for and is not installed, or only in another version.

    Requirements under conditions other than a system are passed over, as are bounds other than
    `>=`, `<=`, `==`, `<` and `>`.
    """
    for name, within, bounds in _required(distribution, extra):
        version = _version(name)
        if version is None:
            yield f"{name}{bounds}"
        elif not _fits(version, bounds):
            yield f"{name}{bounds} (here {version})"
        else:
            for inner in within:
                yield from missing(name, inner)


def _required(distribution: str, extra: str | None = None) -> Iterator[tuple[str, list[str], str]]:
    """Yields name, extras and bounds of what a distribution requires, for an extra or without."""
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for match in filter(None, map(_REQUIREMENT.fullmatch, lines)):
        name, within, bounds, condition = (part or "" for part in match.groups())
        asked, system = _EXTRA.search(condition), _SYSTEM.search(condition)
        rest = _SYSTEM.sub("", _EXTRA.sub("", condition))
        if (asked and asked[1]) != extra or re.search(r"\w", re.sub(r"\band\b", "", rest)):
            continue
        if system is None or system[1] == platform.system():
            yield name, re.findall(r"[\w.-]+", within), bounds.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(version: str, bounds: str) -> bool:
    """Whether the numbers of a version lie within all bounds."""
    here = _numbers(version)
    for sign, bound, prefix in _BOUND.findall(bounds):
        asked = _numbers(bound)
        length = len(asked) if prefix else max(len(here), len(asked))
        padded = [(*numbers, *[0] * length)[:length] for numbers in (here, asked)]
        if not _HOLDS[sign](*padded):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


if __name__ == "__main__":
    main()
