"""Whether two Linen modules are built alike, and if not, how they differ."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import FrozenDict


def difference(ours: Any, theirs: Any, name: str = "") -> str | None:
    """Returns what first differs between two modules, in words; None if they are built alike."""
    return _difference(ours, theirs, name, {})


def _difference(ours: Any, theirs: Any, name: str, seen: dict[Any, Any]) -> str | None:
    key = (id(ours), id(theirs))
    if ours is theirs or key in seen:
        return None
    seen[key] = ours, theirs  # held, so that no other pair has these ids
    same = _frozen(_plain(type(ours))) is _frozen(_plain(type(theirs)))
    if same and (parts := _parts(ours)) is not None:
        others = _parts(theirs) or {}
        if parts.keys() == others.keys():
            below = (
                _difference(part, others[place], f"{name}.{place}" if name else str(place), seen)
                for place, part in parts.items()
            )
            deeper = next(filter(None, below), None)
            if deeper is None or not callable(ours) or isinstance(ours, nn.Module):
                return deeper
    elif same and _equal(ours, theirs):
        return None
    what = f"its {name} is" if name else "it is"
    return f"{what} {_brief(theirs)}, that of the traced module is {_brief(ours)}"


def is_transformed(module: nn.Module) -> bool:
    """True for a module of a class that `nn.remat`, `nn.jit` and the like made."""
    return _plain(type(module)) is not type(module)


def _plain(kind: type) -> type:
    """The class of which Flax's transforms made a class: these wrap some of its methods."""
    if not issubclass(kind, nn.Module) or kind is nn.Module:
        return kind
    base = kind.__mro__[1]
    methods = {name: method for name, method in vars(kind).items() if callable(method)}
    wrapping = [
        getattr(method, "__wrapped__", None) is getattr(base, name, kind)
        for name, method in methods.items()
        if name == "__call__" or not name.startswith("_")
    ]
    return _plain(base) if wrapping and all(wrapping) else kind


def _frozen(kind: type) -> type:
    """What a bound module holds in the place of a list or a dict."""
    return {list: tuple, dict: FrozenDict}.get(kind, kind)


def _parts(value: Any) -> dict[str, Any] | None:
    """What a value is made of, {name: part}; None for a value without parts."""
    match value:
        case nn.Module():
            names = value.__dataclass_fields__.keys() - {"parent", "name"}
            return {name: getattr(value, name, None) for name in sorted(names)}
        case functools.partial():
            return {"func": value.func, "args": value.args, "keywords": value.keywords}
        case types.FunctionType():
            cells = [*map(_content, value.__closure__ or ())]
            same = (value.__defaults__, value.__kwdefaults__, value.__globals__.get("__name__"))
            return {"code": value.__code__, "closure": cells, "defaults": same}
        case list() | tuple():
            return {str(i): item for i, item in enumerate(value)}
        case Mapping():
            return {str(key): item for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field for field in dataclasses.fields(value) if field.compare)
        return {field.name: getattr(value, field.name) for field in fields}
    return None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | jax.Array):
        return a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b))
    try:
        return bool(a == b)
    except Exception:  # a value that cannot be compared is another one
        return False


def _brief(value: Any) -> str:
    if isinstance(value, nn.Module | types.FunctionType | type):
        return getattr(value, "__qualname__", None) or f"a {type(value).__qualname__}"
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]}..."
