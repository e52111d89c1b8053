"""Settings by name: a preset is what differs from the defaults of a configuration."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.runner.config import C

Presets = Mapping[str, Mapping[str, Any]]


def config(name: str, presets: Presets, start: C) -> C:
    """Returns the settings of a preset.

    Args:
      name: of the preset.
      presets: {name: what differs from `start`}.
      start: the configuration without a preset.

    Raises:
      ValueError: there is no such preset.
    """
    if name not in presets:
        raise ValueError(f"no preset {name!r}.\nFix: one of {sorted(presets)}.")
    return replace(start, preset=name, **presets[name])


def chosen(presets: Presets, start: C, arguments: Sequence[str] | None = None) -> C:
    """Returns the preset that the command line names; its other flags are to override it.

    Args:
      presets: as of `config`.
      start: likewise.
      arguments: those of the command line by default.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=start.preset)
    return config(parser.parse_known_args(arguments)[0].preset, presets, start)
