"""Garbage collection, held off while a function is traced.

Tracing makes many objects and hardly a cycle. Python counts what is made, and walks all objects of
the process again and again: a tenth of a second and more, each time.
"""

import gc
from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock

_LOCK = RLock()
_held = 0
_was_on = False


@contextmanager
def held_off() -> Generator[None]:
    """Collects no garbage inside; afterwards it is as before, also if this is nested or raises.

    Python has one collector for all threads: it is on again when the last of them is done, if it
    was on when the first began. `with` it, or decorate a function.
    """
    global _held, _was_on
    with _LOCK:
        if not _held:
            _was_on = gc.isenabled()
            gc.disable()
        _held += 1
    try:
        yield
    finally:
        with _LOCK:
            _held -= 1
            if not _held and _was_on:
                gc.enable()
