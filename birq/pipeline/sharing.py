"""A store that a group of users shares: the rights of what is made in it, and the reason where a file or folder is refused.

The store's own folder decides, as `core.sharedRepository` does in git. If its group may write, all that is made in it gets its group and
its rights, whatever the umask is; the files of artifacts stay read-only. Otherwise the umask rules.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from birq import files
from birq.errors import BirqError
from birq.pipeline import locations

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)
IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)


class RefusedError(BirqError):
    """A file or folder that this user may not read or write. What it holds is not known, so it is neither used nor replaced."""


@dataclass(frozen=True)
class Rights:
    """What the store's folder gives to its group and to others."""

    group: int
    mode: int

    @property
    def folder(self) -> int:
        """With the group for all that is made in it, and the sticky bit where the store has one."""
        return 0o2700 | self.mode & 0o1077

    @property
    def lock(self) -> int:
        return 0o600 | self.mode & 0o066

    @property
    def file(self) -> int:
        return 0o440 | self.mode & 0o004


def rights() -> Rights | None:
    """The rights of all that is made in the store; None where its group may not write, or where it is not there yet."""
    try:
        root = locations.store_root().stat()
    except OSError:
        return None
    shared = root.st_mode & stat.S_IWGRP and root.st_mode & stat.S_IXGRP
    return Rights(root.st_gid, stat.S_IMODE(root.st_mode)) if shared else None


# ---- making


@contextlib.contextmanager
def _no_umask() -> Iterator[None]:
    """What is made has its rights from its first moment on: another user may open it in the next."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _set(path: Path, mode: int, group: int) -> None:
    """Errors: PermissionError for a file of another user, or where this user is not in the group."""
    have = path.stat()
    if have.st_gid != group:
        os.chown(path, -1, group)
    if stat.S_IMODE(have.st_mode) != mode:
        os.chmod(path, mode)


def make_folder(path: Path) -> None:
    """Make a folder of the store, and those above it."""
    locations.store_root().mkdir(parents=True, exist_ok=True)
    given = rights()
    if given is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another user, just now
            with _no_umask():
                folder.mkdir(given.folder & 0o777)
            _set(folder, given.folder, given.group)


def open_lock(path: Path) -> int:
    """Open a lock file, made if it is not there; a descriptor. A lock that may only be read holds as well, but takes no note.

    Errors: OSError where it can be neither opened nor made.
    """
    make_folder(path.parent)
    given = rights()
    try:
        return os.open(path, os.O_RDWR)
    except FileNotFoundError:
        if given is None:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as e:
        if e.errno not in REFUSED:
            raise
        return os.open(path, os.O_RDONLY)
    try:
        with _no_umask():
            made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, given.lock)
    except FileExistsError:  # another user, just now
        return open_lock(path)
    _set(path, given.lock, given.group)
    return made


def settle_file(path: Path) -> None:
    """Make a file of the store read-only, with the store's rights, before it gets its name."""
    given = rights()
    mode, group = (given.file, given.group) if given else (0o444, path.stat().st_gid)
    try:
        _set(path, mode, group)
    except PermissionError:
        if path.stat().st_uid == os.geteuid():
            raise
        own = path.with_name(f".{path.name}.own")  # it was a hard link to a file of another user
        shutil.copyfile(path, own)
        os.replace(own, path)
        _set(path, mode, group)


def settle(folder: Path, names: list[str]) -> None:
    """Make the named files of a finished artifact read-only; in a shared store, all of it gets the store's rights.

    Errors: PermissionError where this user is not in the store's group, and the folder was not made in the store.
    """
    given = rights()
    for path in [folder / name for name in names] if given is None else [p for p in folder.rglob("*") if not p.is_dir()]:
        settle_file(path)
    if given:
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            _set(path, given.folder, given.group)


def write(path: Path, data: bytes) -> Path:
    """Write a small file of the store."""
    make_folder(path.parent)
    return files.write_bytes(path, data, ready=settle_file if rights() else None)


# ---- refusals


def owner(path: Path) -> str:
    """The name of a file's owner, or the number of one without a name."""
    uid = path.lstat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _may(path: Path, right: int) -> bool:
    try:
        return os.access(path, right)
    except OSError:
        return False


def _place(path: Path, reading: bool | None) -> tuple[Path, str]:
    """The file or folder that refuses, and what: reading or writing. `reading` None: not known which was asked for."""
    path = path.absolute()
    for folder in reversed(path.parents):
        if folder.is_dir() and not _may(folder, os.X_OK):
            return folder, "reading"
    there = path.exists()
    if there and reading is not False and not _may(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return path, "reading"
    if reading:
        return path, "reading"
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if _may(folder, os.W_OK) and there:
        return path, "writing"
    return folder, "writing"


def _way_out(place: Path, what: str) -> str:
    """How to be allowed to."""
    have, root = place.stat(), locations.store_root().absolute()
    in_store = root == place or root in place.parents
    bit = stat.S_IRGRP if what == "reading" else stat.S_IWGRP
    member = have.st_gid in (os.getegid(), *os.getgroups())
    ways = []
    if have.st_mode & bit and not member:
        ways.append(f"`newgrp {_group(have.st_gid)}`, if you are in that group")
    elif in_store:
        ways.append(f"{owner(place)} opens it to its group: `chmod -R g+rX {root}; find {root} -type d -exec chmod g+ws {{}} +`")
    else:
        ways.append(f"{owner(place)} changes its mode (chmod)")
    if in_store:
        ways.append("set BIRQ_STORE to another folder")
    return ", or ".join(ways)


def refusal(path: Path, error: OSError, *, reading: bool | None = None) -> str:
    """Which file or folder was refused, whose it is, its mode, whether reading or writing was refused, and the way out."""
    if error.errno in IN_THE_WAY:
        return f"{path}: {error.strerror}; a file, a folder or a link lies there that does not belong there: move it away"
    if error.errno == errno.EROFS:
        return f"{path} cannot be written: its disk is read-only"
    try:
        place, what = _place(path, reading)
        have = place.stat()
        told = f"{place} belongs to {owner(place)}, group {_group(have.st_gid)}, mode {stat.filemode(have.st_mode)}"
        return f"{what} refused ({error.strerror}): {told}; {_way_out(place, what)}"
    except OSError:  # not even that may be seen
        return f"{path}: {error.strerror}"


def refused(error: OSError, *, reading: bool | None = None) -> RefusedError | None:
    """The error with a way out for an error of the operating system about rights or about what lies in the way; None for others."""
    if error.errno not in (*REFUSED, *IN_THE_WAY) or not isinstance(error.filename, (str, bytes, os.PathLike)):
        return None
    return RefusedError(refusal(Path(os.fsdecode(error.filename)), error, reading=reading))


@contextlib.contextmanager
def explained(*, reading: bool | None = None) -> Iterator[None]:
    """Errors: BirqError in place of an OSError about rights, what lies in the way, or a full disk."""
    try:
        yield
    except OSError as e:
        if e.errno in FULL:
            raise BirqError(f"the disk is full ({e}); free space and run again") from None
        if better := refused(e, reading=reading):
            raise better from None
        raise


def require_writable(stored: Path) -> None:
    """Errors: RefusedError, before anything is computed, if an artifact could not be put here."""
    folder = stored.parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise not_held(OSError(number, os.strerror(number), str(stored)))


def not_held(error: OSError) -> RefusedError:
    """The error where the store lacks an artifact and cannot take it."""
    root = locations.store_root()
    if error.errno == errno.EROFS:
        return RefusedError(
            f"the store {root} is read-only and does not hold this artifact; set BIRQ_STORE to a folder that can be written, or unset it"
        )
    return RefusedError(
        f"the store {root} does not hold this artifact and cannot take it: {refusal(Path(error.filename), error, reading=False)}"
    )


def stays(folder: Path) -> str:
    """The owner of what keeps this user from removing a folder of the store; nothing if it can be removed."""
    above = folder.parent.stat()
    if above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, above.st_uid, folder.lstat().st_uid):
        return owner(folder)
    for place in (folder.parent, folder, *(p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink())):
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            return owner(place)
    return ""
