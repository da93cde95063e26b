"""One file: from a local copy or from mirrors in turn, taken up where it was left, and compared with its checksum."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from birq import files
from birq.downloads.archive import Archive
from birq.downloads.pace import Meter, Pace, Slow
from birq.downloads.request import Answer, ChangedError, LaterError, RefusedError, Version, ask
from birq.downloads.rules import Rules
from birq.progress import say


class UnavailableError(Exception):
    """No mirror gives the file: one line for each."""

    def __init__(self, failures: list[str], other_checksum: bool) -> None:
        super().__init__("\n".join(failures))
        self.other_checksum = other_checksum  # a mirror gives another file


class _OtherBytesError(Exception):
    """The file is there in full, and has another checksum."""


@dataclass
class _Mirror:
    url: str
    order: int
    ready: float = 0.0  # when it may be asked
    tries: int = 0  # that brought nothing
    failure: str = ""
    other_checksum: bool = False


class Part:
    """A file on its way: the bytes so far, and beside them the version that they are of."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, path.with_name(path.name + ".json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> Version | None:
        """None where it is not known; then the checksum alone decides."""
        try:
            return Version(**json.loads(self.state.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def begin(self, version: Version) -> None:
        """Forget the bytes; those that come now are of this version. A kill in between leaves a part that is empty."""
        self.path.unlink(missing_ok=True)
        self.note(version)

    def note(self, version: Version) -> None:
        files.write_text(self.state, json.dumps(asdict(version)))

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


class Transfer:
    """The way of one file into `part`."""

    def __init__(self, name: str, archive: Archive, part: Part, rules: Rules, pace: Pace, meter: Meter) -> None:
        self.name, self.archive, self.part = name, archive, part
        self.rules, self.pace, self.meter = rules, pace, meter
        self.farthest = part.size()
        self.pure = False  # the part is the answer to one request

    def run(self, root: Path) -> Path:
        """The whole file, checked: the part, or a copy that lies in `root` or in a mirror that is a folder.

        Errors: UnavailableError; OSError of the disk.
        """
        failures = []
        # a run with a network may have ended before unpacking
        whole = [self.part.path] if self.rules.offline and self._may_be_whole() else []
        for copy in (*self.rules.copies(self.name, root), *whole):
            if not (failure := differs(self.archive, copy, self.name)):
                return copy
            failures.append(f"  {copy}: {failure}")
        mirrors = [_Mirror(url, i) for i, url in enumerate(self.rules.addresses(self.name, self.archive.urls))]
        alive = list(mirrors)
        while alive:
            mirror = min(alive, key=lambda m: (m.ready, m.order))
            self.pace.wait(mirror.ready - time.monotonic())
            if self._try(mirror):
                return self.part.path
            if mirror.tries >= self.rules.tries:
                alive.remove(mirror)
        failures += [f"  {m.url}: {m.failure}{f' ({m.tries} times)' if m.tries > 1 and m.ready else ''}" for m in mirrors]
        raise UnavailableError(failures, bool(failures) and any(m.other_checksum for m in mirrors))

    def _try(self, mirror: _Mirror) -> bool:
        """One request and its consequences for the mirror."""
        try:
            self._receive(mirror.url)
            self._check()
            return True
        except RefusedError as e:
            mirror.failure, mirror.tries, mirror.ready = str(e), self.rules.tries, 0.0
        except ChangedError as e:
            mirror.failure = str(e)
            mirror.tries += 1
            say(f"download {self.name}: {e}; it starts anew")
            self.part.drop()
        except _OtherBytesError as e:
            mirror.failure, mirror.other_checksum = str(e), True
            again = not self.pure and mirror.tries < self.rules.tries - 1
            mirror.tries, mirror.ready = (mirror.tries + 1 if again else self.rules.tries), 0.0
            if again:  # its pieces may be of different files
                say(f"download {self.name}: the parts received do not fit together; it starts anew")
        except LaterError as e:
            self._later(mirror, e)
        return False

    def _later(self, mirror: _Mirror, e: LaterError) -> None:
        mirror.failure = str(e)
        gained = self.part.size() - self.farthest
        self.farthest += max(0, gained)
        if gained > self.pace.slowest * self.rules.stall_seconds:  # bytes came: the same mirror goes on at once
            mirror.tries, mirror.ready = 0, 0.0
            return
        mirror.tries += 1
        seconds = self.rules.wait_seconds(mirror.tries, e.after_seconds)
        if seconds > self.rules.longest_wait_seconds:
            mirror.failure += f"; it asks for {seconds:.0f} s of waiting"
            mirror.tries, mirror.ready = self.rules.tries, 0.0
            return
        mirror.ready = time.monotonic() + seconds
        if mirror.tries < self.rules.tries:
            say(f"download {self.name}: {mirror.url}: {e}; it is asked again in {seconds:.3g} s")

    def _receive(self, url: str) -> None:
        """One request, for all that the part lacks."""
        have, want = self.part.size(), self.archive.n_bytes
        if (want is not None and have > want) or (have and not self._goes_on(url)):
            self.part.drop()
            have = 0
        if have and (have == want or (not self.archive.sha256 and self._may_be_whole())):
            self.pure = False
            return
        with ask(url, have, self.part.version(), self.rules.stall_seconds) as answer:
            total = answer.version.n_bytes if answer.version.n_bytes is not None else want
            if want is not None and total != want:
                raise RefusedError(f"the server's file has {total} bytes, expected {want}")
            if answer.begin == 0:
                if have:
                    say(f"download {self.name}: the server cannot go on in the middle, or its file has changed: it starts anew")
                self.part.begin(answer.version)
            elif answer.raw is not None:
                self.part.note(answer.version)
            self.pure = answer.begin == 0
            self._store(answer, total)

    def _store(self, answer: Answer, total: int | None) -> None:
        """The body, onto the part."""
        slow, at = Slow(self.rules.stall_seconds, self.pace.slowest), answer.begin
        with open(self.part.path, "ab") as f:
            while total is None or at < total:
                n = self.pace.block_bytes if total is None else min(self.pace.block_bytes, total - at)
                if not (block := answer.read(n)):
                    break
                f.write(block)
                at += len(block)
                self.meter.at(self.name, at, total)
                if at != total and (stalled := slow.slow(len(block))):
                    raise LaterError(stalled)
                self.pace.take(len(block))
        if total is not None and at < total:
            raise LaterError(f"the connection ended after {at} of {total} bytes")

    def _goes_on(self, url: str) -> bool:
        """Whether a request may go on where the part ends: without a checksum, only a server that names versions may be trusted with it."""
        version = self.part.version()
        return bool(self.archive.sha256) or (version is not None and version.url == url and bool(version.validator()))

    def _may_be_whole(self) -> bool:
        """Whether the part may be complete: a checksum will tell; without one, it has the length that the server has declared."""
        version = self.part.version()
        return self.part.size() > 0 and (bool(self.archive.sha256) or (version is not None and version.n_bytes == self.part.size()))

    def _check(self) -> None:
        """Compare the part on disk with the pinned checksum; another file is deleted."""
        if not self.archive.sha256 and not self._may_be_whole():
            version = self.part.version()
            if version is None or version.n_bytes is None:
                self.part.drop()
                raise RefusedError("the server declares no length, and no checksum is published: whether it is whole cannot be told")
            raise ChangedError("the file on the server has another length than when it was begun")
        failure = differs(self.archive, self.part.path, self.name)
        if failure:
            self.part.drop()
            self.farthest = 0
            raise _OtherBytesError(f"{failure}; it was deleted")


def differs(archive: Archive, path: Path, name: str) -> str:
    """How a file differs from the pinned one; nothing where it does not."""
    n_bytes = path.stat().st_size if path.exists() else 0
    if archive.n_bytes is not None and n_bytes != archive.n_bytes:
        return f"{n_bytes} bytes, expected {archive.n_bytes}"
    if not archive.sha256:
        return _begins_otherwise(archive, path)
    say(f"download {name}: comparing the SHA-256")
    digest = sha256_of(path) if n_bytes else hashlib.sha256().hexdigest()
    if digest == archive.sha256:
        return ""
    return f"SHA-256 {digest} ({n_bytes} bytes), expected {archive.sha256}"


def _begins_otherwise(archive: Archive, path: Path) -> str:
    """All that can be told of a file without a checksum: whether it is of the right kind."""
    with open(path, "rb") as f:
        begin = f.read(max(len(archive.begins), 12))
    return "" if begin.startswith(archive.begins) else f"it begins with {begin!r}, expected {archive.begins!r}"


def sha256_of(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
