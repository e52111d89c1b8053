"""Packages that an extra installs, imported when they are used."""

import importlib
from typing import Any

from jaxprune.errors import JaxpruneError


def extra(name: str, error: type[JaxpruneError] = JaxpruneError) -> Any:
    """Returns the package of the extra of its name.

    Raises:
      JaxpruneError: it is not installed; of the class that is given.
    """
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        raise error(f"{name} is not installed.\nFix: pip install 'jaxprune[{name}]'.") from cause
