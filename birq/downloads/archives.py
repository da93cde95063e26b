"""Archives of public corpora, several at once: fetched and compared, then unpacked out of sight and put in place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from birq.downloads import firstseen, unpack
from birq.downloads.archive import Wanted, mark
from birq.downloads.pace import Meter, Pace, StoppedError
from birq.downloads.rules import Rules
from birq.downloads.transfer import Part, Transfer, UnavailableError, differs, sha256_of
from birq.downloads.unzip import is_zip, unzip
from birq.errors import BirqError
from birq.progress import say

WORK = ".birq-download"  # beside the mark while a download is under way; a killed one goes on there
LOCK = ".birq-download.lock"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fetch(wanted: Sequence[Wanted], root: Path, key: str, rules: Rules) -> None:
    """Download archives into `root` and put the folder of each at its target, below `root`, unless that is there.

    A target appears whole or not at all. A killed download goes on with the next call. Two processes take turns.
    `key`: the corpus in params.yaml. Errors: BirqError that names each archive that is missing, and each mirror's failure.
    """
    if not lacking(wanted, key):
        return
    root.mkdir(parents=True, exist_ok=True)
    with turn(root):
        todo = lacking(wanted, key)
        work = root / WORK
        work.mkdir(exist_ok=True)
        try:
            _Download(todo, root, key, rules).run()
        finally:
            for folder in (*sorted((p for p in work.rglob("*") if p.is_dir()), reverse=True), work):
                with contextlib.suppress(OSError):  # it still holds the parts that the next call resumes
                    folder.rmdir()


def lacking(wanted: Sequence[Wanted], key: str) -> list[Wanted]:
    """What is not in its place. Errors: BirqError for a file that is there and is another one."""
    out = []
    for one in wanted:
        if one.archive.folder or not one.target.exists():
            out += [] if one.target.is_dir() else [one]
        elif failure := differs(one.archive, one.target, one.name):
            raise BirqError(f"{key}: {one.target} is not {one.name}: {failure}; move it away, or bring the right file")
    return out


@contextlib.contextmanager
def turn(root: Path) -> Iterator[None]:
    """Only one process at a time has the downloads of a root in hand."""
    with open(root / LOCK, "a", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting: another run downloads into {root}")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


class _Download:
    """Archives of one corpus, at most `rules.at_once` of them at a time."""

    def __init__(self, wanted: Sequence[Wanted], root: Path, key: str, rules: Rules) -> None:
        self.wanted, self.root, self.key, self.rules = wanted, root, key, rules
        self.pace = Pace(rules.bytes_per_second)
        self.parts = {w.name: Part(root / WORK / f"{w.name}.part") for w in wanted}
        for part in self.parts.values():
            part.path.parent.mkdir(parents=True, exist_ok=True)  # a name may have folders
        there = {name: part.size() for name, part in self.parts.items()}
        title = f"download {wanted[0].name}" if len(wanted) == 1 else f"download {len(wanted)} archives"
        self.meter = Meter(title, there, {w.name: w.archive.n_bytes for w in wanted})
        self.placing = threading.Lock()

    def run(self) -> None:
        """Errors: BirqError, of all archives together; any other error of one."""
        self._room()
        try:
            failures = side_by_side(self._one, self.wanted, self.rules.at_once)
        finally:
            self.pace.stopped.set()
            self.meter.close()
        for e in failures:
            if not isinstance(e, BirqError):
                raise e
        if failures:
            raise BirqError("\n".join(map(str, failures))) from failures[0]

    def _room(self) -> None:
        """Refuse what cannot fit: speech hardly gets smaller in an archive, and one lies beside its files while it is unpacked."""
        sizes = [(w.archive.n_bytes or 0, self.parts[w.name].size()) for w in self.wanted if not self.rules.copies(w.name, self.root)]
        if self.rules.offline or not sizes:
            return
        need = sum(n - min(have, n) for n, have in sizes) + max(n for n, _ in sizes)
        free = shutil.disk_usage(self.root).free
        if need > free:
            raise BirqError(
                f"{self.key}: {', '.join(w.name for w in self.wanted)} need {size(need)} in {self.root} while they are unpacked, "
                f"{size(free)} are free; free space, or set {self.key}.root to a folder on a larger disk"
            )

    def _one(self, one: Wanted) -> None:
        """One archive, from the first byte to its place."""
        part = self.parts[one.name]
        try:
            got = Transfer(one.name, one.archive, part, self.rules, self.pace, self.meter).run(self.root)
            self._place(one, part, got)
        except UnavailableError as e:
            if len(self.wanted) > 1 and not self.rules.offline:
                say(f"{self.key}: {one.name} could not be downloaded; the others go on")
            raise BirqError(self._not_there(one, part, e)) from None
        except unpack.UnusableError as e:
            part.drop()
            raise BirqError(
                f"{self.key}: {one.name} cannot be unpacked ({e}), though it is the file expected ({one.archive.urls[0]}, "
                f"{one.archive.checksum()}). Fetch and unpack it by other means, "
                f"then set {self.key}.root to that folder and {self.key}.download to false"
            ) from e
        except OSError as e:
            if e.errno not in FULL:
                raise
            raise BirqError(
                f"{self.key}: no space left in {self.root} for {one.name} ({one.archive.urls[0]}); {part.size()} bytes of it are kept. "
                f"Free space and run again to go on, or set {self.key}.root to a folder on a larger disk"
            ) from e

    def _not_there(self, one: Wanted, part: Part, e: UnavailableError) -> str:
        """The error's text: what each mirror gave, and the ways out."""
        key, archive = self.key, one.archive
        about = ", ".join([size(archive.n_bytes)] * bool(archive.n_bytes) + [archive.checksum()])
        lines = [str(e)] if str(e) else []
        if self.rules.offline:
            first = f"{key}: {one.name} is not in {self.root}, and {key}.offline is true."
            return "\n".join(
                [first, *lines, f"Fetch {archive.urls[0]} elsewhere ({about}) and put it there, or set {key}.offline to false."]
            )
        kept = f"{part.size()} bytes are kept: run again to go on. " if part.size() else ""
        remedy = f" {one.remedy}" if one.remedy and e.other_checksum else ""
        return "\n".join(
            [
                f"{key}: {one.name} could not be downloaded.",
                *lines,
                f"{kept}Or put the file ({about}) into {self.root}, or name its address or folder in {key}.mirrors. "
                f"Or {one.own.format(key=key)}.{remedy}",
            ]
        )

    def _place(self, one: Wanted, part: Part, got: Path) -> None:
        """Unpack out of sight, then mark and rename: after a kill at any time the target is there whole, with its mark, or not at all."""
        unpacked = part.path.with_suffix(".unpacked")
        shutil.rmtree(unpacked, ignore_errors=True)
        try:
            if one.archive.folder:
                say(f"download {one.name}: unpacking")
                (unzip if is_zip(got) else unpack.unpack)(got, unpacked, self.pace)
                ready = unpacked / one.archive.folder
                if not ready.is_dir():
                    raise unpack.UnusableError(f"it holds no folder {one.archive.folder}")
            else:
                if got != part.path:
                    shutil.copyfile(got, part.path)
                ready = part.path
            sha256, n_bytes = one.archive.sha256 or sha256_of(got), got.stat().st_size
            with self.placing:
                one.target.parent.mkdir(parents=True, exist_ok=True)
                if one.archive.folder and ready != unpacked:
                    _beside(ready, one.target)
                if not one.archive.sha256:
                    firstseen.note(self.root, one.name, sha256, n_bytes)
                mark(self.root, one.name, sha256)
                ready.rename(one.target)
            part.drop()
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)


def _beside(folder: Path, target: Path) -> None:
    """Lists of speakers and the licence lie beside the corpus' folder."""
    for file in folder.parent.iterdir():
        if file != folder and not (target.parent / file.name).exists():
            file.rename(target.parent / file.name)


def size(n_bytes: int | None) -> str:
    n = n_bytes or 0
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n} bytes"


def side_by_side(do: Callable[[Wanted], None], wanted: Sequence[Wanted], at_once: int) -> list[Exception]:
    """Do it for each, `at_once` at a time; a failure of one does not stop the others. Returns the failures, in the given order."""
    failures: dict[int, Exception] = {}
    todo = iter(list(enumerate(wanted)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                i, one = next(todo, (-1, None))
            if one is None:
                return
            try:
                do(one)
            except StoppedError:
                return
            except Exception as e:
                failures[i] = e

    if min(at_once, len(wanted)) == 1:
        work()
    else:
        # daemons: an interrupt ends the process without waiting for a server
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(wanted)))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    return [failures[i] for i in sorted(failures)]
