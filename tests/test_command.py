"""`python -m jaxprune`: what it prints of versions, devices and optional parts."""

import platform
import tomllib
from pathlib import Path

import jax
import pytest

import jaxprune
from jaxprune import __main__ as command

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A function that installs an empty distribution, in front of all others."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, version: str, *lines: str) -> None:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        head = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}")
        (folder / "METADATA").write_text("\n".join([*head, *lines, ""]))

    return install


def test_every_extra_says_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = [*command.EXTRAS, *command.EXTRAS_OF_A_CLONE]
    assert sorted(known) == sorted(project["optional-dependencies"])


def test_it_prints_versions_devices_and_what_is_missing(installed, capsys) -> None:
    installed("exists", "2.1")
    installed(
        "jaxprune",
        jaxprune.__version__,
        "Requires-Dist: jax>=0.10",
        "Provides-Extra: export",
        "Requires-Dist: exists<3,>=2; extra == 'export'",
        "Provides-Extra: tpu",
        "Requires-Dist: exists>=2.2; extra == 'tpu'",
        "Requires-Dist: surely-absent==1.*; extra == 'tpu'",
        "Provides-Extra: dev",
        "Requires-Dist: surely-absent; extra == 'dev'",
        "Provides-Extra: new",
    )
    command.main()
    printed = capsys.readouterr().out
    head, devices, parts = printed.split("\n\n")
    assert head.startswith(f"jaxprune {jaxprune.__version__}, Python {platform.python_version()}")
    assert f"jax {jax.__version__}" in head
    assert f"jaxlib {jax.lib.__version__}" in head
    assert devices.splitlines()[0] == f"cpu: {jax.device_count('cpu')} (cpu), the default"
    assert parts.splitlines() == [
        "optional parts:",
        f"  export  {command.EXTRAS['export']}",
        "          installed",
        f"  tpu     {command.EXTRAS['tpu']}",
        "          missing: exists>=2.2 (here 2.1), surely-absent==1.*",
        '          pip install "jaxprune[tpu]"',
        f"  dev     {command.EXTRAS_OF_A_CLONE['dev']}, in a clone",
        "          missing: surely-absent",
        '          pip install -e ".[dev]"',
        "  new     ",
        "          installed",
    ]


def test_extras_of_what_an_extra_asks_for_count_too(installed) -> None:
    installed("outer", "1.0", "Requires-Dist: middle[deep]>=1; extra == 'all'")
    installed("middle", "1.5", "Requires-Dist: surely-absent; extra == 'deep'")
    assert list(command.missing("outer", "all")) == ["surely-absent"]
    assert list(command.missing("outer", "none")) == []


@pytest.mark.parametrize(
    ("condition", "counts"),
    [
        (f"(platform_system == '{platform.system()}') and extra == 'all'", True),
        ("(platform_system == 'Elsewhere') and extra == 'all'", False),
        ("python_version < '3' and extra == 'all'", False),
        ("extra == 'other'", False),
    ],
)
def test_what_is_not_asked_for_here_is_not_missing(installed, condition: str, counts: bool) -> None:
    installed("outer", "1.0", f"Requires-Dist: surely-absent; {condition}")
    assert list(command.missing("outer", "all")) == ["surely-absent"] * counts


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("2.10", ">=2.9", True),
        ("2.9", ">=2.10", False),
        ("2.0", ">=2", True),
        ("2", "==2.0.0", True),
        ("2.0.1", "==2.0", False),
        ("0.0.42.1", "==0.0.42.*", True),
        ("0.0.43", "==0.0.42.*", False),
        ("4.57", "<5,>=4.57", True),
        ("5.0", "<5,>=4.57", False),
        ("0.12.0.dev20261128", ">=0.10", True),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(
    installed, version: str, bounds: str, fits: bool
) -> None:
    installed("outer", "1.0", f"Requires-Dist: inner{bounds}; extra == 'all'")
    installed("inner", version)
    assert (list(command.missing("outer", "all")) == []) == fits


def test_a_platform_that_does_not_start_is_said(monkeypatch) -> None:
    def fails() -> str:
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "default_backend", fails)
    assert list(command.backends()) == [
        "JAX has no device: Unable to initialize backend 'cuda'",
    ]


def test_a_copy_that_is_not_installed_says_so(monkeypatch) -> None:
    def absent(name: str) -> None:
        raise command.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(command.metadata.Distribution, "from_name", absent)
    assert "jaxprune is not installed" in next(command.extras())
    assert "jax missing" in list(command.versions())[1]
