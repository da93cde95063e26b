"""One HTTP request for what is lacking of a file, and what the answer means."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from birq import __version__

AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may give the file later
HANDLERS = (  # those of HTTP alone: a redirect must not lead to a file of this machine
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


class RefusedError(Exception):
    """This mirror does not give the file; to ask it again is of no use."""


class LaterError(Exception):
    """This mirror may give the file, or go on with it, if it is asked again."""

    def __init__(self, why: str, after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds  # as the server asks; None: it does not say


class ChangedError(Exception):
    """The bytes that are there are not of the file that the server has now."""


@dataclass(frozen=True)
class Version:
    """A version of a file, as the server that gave it names it."""

    url: str
    etag: str = ""
    modified: str = ""
    n_bytes: int | None = None

    def validator(self) -> str:
        """For If-Range: a weak ETag does not promise equal bytes, so it does not do."""
        return self.modified if self.etag.startswith("W/") or not self.etag else self.etag


class Answer:
    """The server's answer: the bytes of `version` from `begin` on."""

    def __init__(self, raw: Any, version: Version, begin: int, stall_seconds: float) -> None:
        self.raw, self.version, self.begin, self.stall_seconds = raw, version, begin, stall_seconds

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.raw is not None:
            self.raw.close()

    def read(self, n: int) -> bytes:
        """Up to `n` bytes, as soon as there are any; none at the end. Errors: LaterError."""
        if self.raw is None:
            return b""
        try:
            return self.raw.read1(n)
        except TimeoutError:
            raise LaterError(f"the server stalled: no byte for {self.stall_seconds:g} s") from None
        except (OSError, ValueError, http.client.HTTPException) as e:
            raise LaterError(f"the connection broke ({_text(e)})") from e


def ask(url: str, have: int, version: Version | None, stall_seconds: float) -> Answer:
    """Ask for the bytes from `have` on; those that are there are of `version`, where that is known.

    A server that has another version, or knows no ranges, answers with the whole file: then `begin` is 0.
    Errors: RefusedError, LaterError, ChangedError.
    """
    headers = {"User-Agent": f"birq/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version and version.url == url and version.validator():
            headers["If-Range"] = version.validator()
    try:
        raw = _opener().open(urllib.request.Request(url, headers=headers), timeout=stall_seconds)
    except urllib.error.HTTPError as e:
        with contextlib.closing(e):
            return _no(e, url, have, stall_seconds)
    except (OSError, ValueError, http.client.HTTPException) as e:
        raise _unreachable(e, stall_seconds) from e
    try:
        return _meant(raw, url, have, version, stall_seconds)
    except BaseException:
        raw.close()
        raise


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    return opener


def _meant(raw: Any, url: str, have: int, version: Version | None, stall_seconds: float) -> Answer:
    """An answer with a body."""
    length = raw.headers["Content-Length"] or ""
    n_bytes = int(length) if length.isdecimal() else None
    if raw.status == 206:
        said = raw.headers["Content-Range"] or ""
        match = re.fullmatch(rf"bytes {have}-\d+/(\d+|\*)", said)
        if not match:
            raise ChangedError(f"the server answers {said!r} to a request for bytes {have}-")
        n_bytes = None if match[1] == "*" else int(match[1])
    new = Version(url, raw.headers["ETag"] or "", raw.headers["Last-Modified"] or "", n_bytes)
    if raw.status == 206 and version:
        _same(version, new)
    return Answer(raw, new, have if raw.status == 206 else 0, stall_seconds)


def _same(before: Version, now: Version) -> None:
    """Errors: ChangedError if a server that goes on in the middle does so with another version than the one that was begun."""
    lengths = {before.n_bytes, now.n_bytes} - {None}
    tags = {before.etag, now.etag} - {""} if before.url == now.url else set()
    if len(lengths) > 1 or len(tags) > 1:
        raise ChangedError("the file on the server has changed since its first part was received")


def _no(e: urllib.error.HTTPError, url: str, have: int, stall_seconds: float) -> Answer:
    """An answer with a status that is not a success."""
    if e.code == 416 and have:
        n_bytes = (e.headers["Content-Range"] or "").rpartition("/")[2]
        if not n_bytes.isdecimal() or int(n_bytes) == have:  # nothing lies beyond: perhaps it is complete, and the checksum says so
            return Answer(None, Version(url, n_bytes=have), have, stall_seconds)
        raise ChangedError(f"the server's file has {n_bytes} bytes, fewer than were received before")
    text = f"HTTP {e.code} {str(e.reason).splitlines()[0] if e.reason else ''}".rstrip()
    if e.code in AGAIN:
        raise LaterError(text, _retry_after(e.headers["Retry-After"])) from None
    raise RefusedError(text) from None


def _retry_after(value: str | None) -> float | None:
    """Seconds: the header holds them, or a date."""
    value = (value or "").strip()
    if value.isdecimal():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _unreachable(e: Exception, stall_seconds: float) -> Exception:
    """No answer at all: the fault of the address for good, or of the network just now."""
    cause = e.reason if isinstance(e, urllib.error.URLError) else e
    if isinstance(cause, TimeoutError):
        return LaterError(f"no answer for {stall_seconds:g} s")
    if isinstance(cause, (str, ValueError, http.client.InvalidURL)):  # a scheme or address that is none; a certificate that does not fit
        return RefusedError(_text(e))
    if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, ConnectionError):
        return LaterError(f"the answer is not HTTP: {_text(cause)!r}")
    return LaterError(_text(e))


def _text(e: BaseException) -> str:
    return " ".join(str(getattr(e, "reason", "") or e).split()) or type(e).__name__
