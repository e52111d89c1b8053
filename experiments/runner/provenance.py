"""How a run was made: commit, command, device, versions, time."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flax
import jax


def provenance() -> dict[str, Any]:
    """Returns what one needs to do it again: commit, command, device, versions, time."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def made(facts: Mapping[str, Any]) -> str:
    """Returns one sentence for a page of results: how and on what they were made.

    >>> versions = {"python": "3.11.7", "jax": "0.10.2"}
    >>> known = {"command": "python -m x", "commit": "abc", "device": "1 x cpu", "cpu": "2 x Xeon"}
    >>> made({**known, "versions": versions})
    'Made by `python -m x` at commit abc; 1 x cpu, on 2 x Xeon; python 3.11.7, jax 0.10.2.'
    """
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"Made by `{facts['command']}` at commit {facts['commit']}; "
        f"{facts['device']}, on {facts['cpu']}; {versions}."
    )


def _cpu() -> str:
    """Returns the name of the processor, on which the last digits of a result depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not on Linux
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    # the names of virtual machines hide the model
    return f"{fields['model name']}, family {fields['cpu family']} model {fields['model']}"


def _git(*arguments: str) -> str | None:
    """Returns what git says about the repository of this file; None where there is none."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
