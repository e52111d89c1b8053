"""Something happens before the n-th change of the file system below a directory."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGES = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.symlink"}
DELETES = {"os.remove", "os.rmdir"}

_watchers: list[Callable[[str, tuple[Any, ...]], None]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    for watcher in tuple(_watchers):
        watcher(event, args)


sys.addaudithook(_audit)  # for good: Python cannot remove one


class Killed(BaseException):
    """The process is dead: whatever it still tries to change raises this."""


def is_write(event: str, args: tuple[Any, ...]) -> bool:
    """Not where Orbax makes directories: threads of its would wait for them for ten minutes."""
    if event != "open":
        return event in CHANGES and not (event == "os.mkdir" and ".orbax" in str(args[0]))
    _, mode, flags = args
    return bool(set(mode) & set("wax+")) if mode else bool(flags & 3)


def is_read(event: str, args: tuple[Any, ...]) -> bool:
    return event in {"open", "os.scandir"} and not is_write(event, args)


@contextmanager
def watched(
    path: Path, step: int, action: Callable[[str], None], *, once: bool = True, what: Any = is_write
) -> Iterator[list[int]]:
    """Calls `action(event)` before the step-th change below `path`, and unless `once` all later.

    What the action itself changes does not count. Yields the number of changes so far, in a list.
    """
    count = [0]

    def watcher(event: str, args: tuple[Any, ...]) -> None:
        if args and what(event, args) and str(path) in str(args[0]):
            count[0] += 1
            if count[0] - 1 == step or (not once and count[0] - 1 > step):
                action(event)

    _watchers.append(watcher)
    try:
        yield count
    finally:
        _watchers.remove(watcher)


def elsewhere(action: Callable[[], Any]) -> Callable[[str], None]:
    """Runs `action` in a thread, unwatched, while the thread that is watched waits."""

    def act(event: str) -> None:
        del event
        held = _watchers[:]
        _watchers.clear()
        try:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(action).result()
        finally:
            _watchers[:] = held

    return act


def die(event: str) -> None:
    raise Killed(event)
