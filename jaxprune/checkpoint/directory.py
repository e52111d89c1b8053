"""The directory of a checkpoint under several savers, each of which may die at any moment.

A save draws a random token and makes a ticket, `jaxprune-save-<token>.tmp`, before any data. The
manifest is written into the ticket, and one atomic rename of the ticket commits it. So a save whose
ticket is gone has committed or never will, and this is the only proof of death that is used:

* Data whose ticket is gone, and which the manifest, read after that, does not name, is superseded
  for good. Nothing else is deleted.
* Who finishes removes the tickets that were there when it began: those of killed saves, or of a
  save that is slower, which then finds its ticket gone and raises.

Locks are not needed: of a commit and the removal of its ticket one fails. Every process may thus
die at any moment, and the manifest names data that is whole.
"""

import errno
import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import jaxprune.checkpoint.manifest as manifest
from jaxprune.errors import CheckpointError

_TOKEN = r"([0-9a-f]{16}|\d+)"  # numbers come from earlier versions
DATA = re.compile(rf"jaxprune-data-{_TOKEN}(\.orbax.*)?")  # Orbax adds a suffix while it writes
_TICKET = re.compile(rf"jaxprune-save-{_TOKEN}\.tmp|jaxprune\.json\.tmp")
_UNKNOWN = "the manifest cannot be read"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EACCES}


class Claim(NamedTuple):
    """A save that has begun."""

    directory: Path
    token: str
    older: tuple[str, ...] = ()
    """The tickets that were there before."""

    @property
    def data(self) -> Path:
        """Where the arrays go."""
        return self.directory / f"jaxprune-data-{self.token}"

    @property
    def ticket(self) -> Path:
        """The file that is there as long as the save may still commit."""
        return self.directory / f"jaxprune-save-{self.token}.tmp"


def claim(path: Path, *, overwrite: bool) -> Claim:
    """Begins a save: checks the directory, makes it if need be, and draws a token.

    Raises:
      CheckpointError: the path is taken.
      OSError: the file system refuses.
    """
    names = _checked(path, overwrite)
    path.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    older = tuple(name for name in names if _TICKET.fullmatch(name))
    begun = Claim(path, secrets.token_hex(8), older)
    os.close(os.open(begun.ticket, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return begun


def commit(begun: Claim, content: dict[str, object], *, overwrite: bool) -> None:
    """Makes the data of a save, which is on the disk, the checkpoint in one step.

    The content has the SHA-256 of the files of the data.

    Raises:
      CheckpointError: another save has finished since this one began.
      OSError: the file system refuses.
    """
    text = manifest.dumps({"data": begun.data.name, **content})
    with open(os.open(begun.ticket, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    target = begun.directory / manifest.NAME
    if overwrite:
        os.replace(begun.ticket, target)
    else:
        _put_first(begun.ticket, target)
    manifest.sync(begun.directory)  # the old data must not go before the new name is on the disk
    for name in begun.older:
        with suppress(OSError):
            os.unlink(begun.directory / name)
    _sweep(begun.directory)


def abandon(begun: Claim) -> None:
    """Removes what a save has left that failed; what it has committed stays."""
    with suppress(OSError):
        os.unlink(begun.ticket)
    with suppress(OSError):
        _sweep(begun.directory, begun.token)


def is_overtaken(begun: Claim) -> bool:
    """True if the save has not committed, and no longer can."""
    return _is_over(begun) and _live(begun.directory) not in (begun.data.name, _UNKNOWN)


def overtaken(begun: Claim) -> CheckpointError:
    """Returns the error of a save that another one has overtaken."""
    return CheckpointError(
        f"cannot save {str(begun.directory)!r}: another save to it has finished meanwhile, or its "
        "files were removed.\nFix: one save at a time to a path; save to a path of its own."
    )


def _put_first(ticket: Path, target: Path) -> None:
    """Renames the ticket to the manifest unless there is one."""
    try:
        os.link(ticket, target)
        os.unlink(ticket)
    except FileExistsError as error:
        raise _there(target.parent) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise _there(target.parent) from error
        os.replace(ticket, target)


def _sweep(path: Path, only: str | None = None) -> None:
    """Deletes data that is superseded for good; what cannot be deleted now is so another time."""
    entries = [(name, match[1]) for name in os.listdir(path) if (match := DATA.fullmatch(name))]
    over = [
        name for name, token in entries if only in (None, token) and _is_over(Claim(path, token))
    ]
    live = _live(path)  # read after the tickets: a ticket that is gone stays so
    for name in over:
        if live not in (name, _UNKNOWN):
            shutil.rmtree(path / name, ignore_errors=True)


def _is_over(begun: Claim) -> bool:
    """True if a save has committed, or never will."""
    return not os.path.lexists(begun.ticket)


def _live(path: Path) -> str | None:
    """Returns the name of the data that the manifest names; None without a manifest."""
    try:
        return manifest.read(path)["data"]
    except FileNotFoundError:
        return None
    except CheckpointError:
        return _UNKNOWN


def _checked(path: Path, overwrite: bool) -> list[str]:
    """Returns the names in the directory, once nothing there is in the way."""
    what = f"cannot save {str(path)!r}"
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{what}: it is a dangling symlink.\nFix: pass another path.")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{what}: there is a file.\nFix: pass another path.")
    names = sorted(os.listdir(path)) if path.exists() else []
    foreign = [name for name in names if not _ours(path / name)]
    if foreign:
        raise CheckpointError(
            f"{what}: it holds other files: {foreign[:5]}.\nFix: pass another path."
        )
    if manifest.NAME in names and not overwrite:
        raise _there(path)
    return names


def _there(path: Path) -> CheckpointError:
    return CheckpointError(
        f"cannot save {str(path)!r}: there is a checkpoint.\n"
        "Fix: pass another path, or overwrite=True."
    )


def _ours(path: Path) -> bool:
    """True for what a save makes: data in real directories, all else in regular files."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # another save has just removed it
        return True
    if DATA.fullmatch(path.name):
        return stat.S_ISDIR(mode)
    known = path.name == manifest.NAME or _TICKET.fullmatch(path.name)
    return bool(known) and stat.S_ISREG(mode)
