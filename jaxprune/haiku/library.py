"""Haiku, imported when it is used."""

import importlib
from typing import Any

from jaxprune.errors import JaxpruneError


def haiku() -> Any:
    """Returns Haiku.

    Raises:
      JaxpruneError: it is not installed.
    """
    try:
        return importlib.import_module("haiku")
    except ImportError as error:
        raise JaxpruneError(
            "jp.haiku needs Haiku, which is not installed.\nFix: pip install dm-haiku."
        ) from error
