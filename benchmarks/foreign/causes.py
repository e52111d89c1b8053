"""Why a model does not resize wholly, read in its code."""

from collections.abc import Mapping

CAUSES: Mapping[str, str] = {}
