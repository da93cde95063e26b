"""A real HTTP server on this machine that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from birq.downloads.archive import Archive


@dataclass(frozen=True)
class Reply:
    """How one request is answered; as it stands, faultlessly."""

    status: int = 0  # 0: 200 or 206
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # None: the server's file
    length: int | None = None  # the declared one, where it is not the true one; -1: none is declared
    cut: int | None = None  # bytes after which the connection ends
    stall: int | None = None  # bytes after which nothing comes, and the connection stays
    trickle_seconds: float = 0.0  # between single bytes
    ranges: bool = True  # False: Range is ignored
    if_range: bool = True  # False: If-Range is ignored
    content_range: str = ""  # where it is not the true one
    raw: bytes | None = None  # instead of HTTP


class Server(ThreadingHTTPServer):
    """Serves `files`; the next requests for a name are answered by `replies`, then all faultlessly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.replies: dict[str, list[Reply]] = {}
        self.always: dict[str, Reply] = {}
        self.validators = True  # ETag and Last-Modified
        self.release = threading.Event()  # ends all stalls
        self.asked: list[tuple[str, str | None]] = []  # name, Range
        self.most_at_once = 0
        self.at_once = 0

    def url(self, name: str = "toy.tar") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def etag(self, name: str) -> str:
        return f'"{hashlib.md5(self.files[name]).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.at_once += 1
        self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            with contextlib.suppress(ConnectionError):
                self.answer(self.path[1:])
        finally:
            self.server.at_once -= 1

    def answer(self, name: str) -> None:
        server = self.server
        server.asked.append((name, self.headers.get("Range")))
        queue = server.replies.get(name, [])
        reply = queue.pop(0) if queue else server.always.get(name, Reply())
        if reply.raw is not None:
            self.wfile.write(reply.raw)
            return
        if name not in server.files and not reply.status:
            reply = Reply(404)
        if reply.status:
            self.begin(reply.status, {"Content-Length": "0"} | reply.headers)
            return
        self.send_file(name, reply)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def send_file(self, name: str, reply: Reply) -> None:
        body = self.server.files[name] if reply.body is None else reply.body
        valid = {"ETag": self.server.etag(name), "Last-Modified": "Sat, 01 Nov 2025 00:00:00 GMT"} if self.server.validators else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = not reply.if_range or self.headers.get("If-Range") in (None, *valid.values())
        begin = int(wanted[1]) if wanted and reply.ranges and same else 0
        if begin and begin >= len(body):
            return self.begin(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(body)}"})
        headers = valid | ({"Content-Range": reply.content_range or f"bytes {begin}-{len(body) - 1}/{len(body)}"} if begin else {})
        if reply.length != -1:
            headers["Content-Length"] = str(len(body) - begin if reply.length is None else reply.length)
        self.begin(206 if begin else 200, headers | reply.headers)
        sent = body[begin:]
        if reply.trickle_seconds:
            for i in range(len(sent)):
                self.wfile.write(sent[i : i + 1])
                if self.server.release.wait(reply.trickle_seconds):
                    return None
        elif reply.stall is not None:
            self.wfile.write(sent[: reply.stall])
            self.server.release.wait(60)
        else:
            self.wfile.write(sent if reply.cut is None else sent[: reply.cut])
        return None


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield made
    finally:
        made.release.set()
        made.shutdown()
        made.server_close()


# ---- what it serves


def packed(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    """A tar archive: name -> content, or a member of any kind."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                tar.addfile(info)
    return out.getvalue()


def unpacked(archive: bytes) -> dict[str, bytes]:
    """The files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


def packed_folder(folder: Path, name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, name)
    return out.getvalue()


def noise(n: int, seed: str = "") -> bytes:
    return b"".join(hashlib.sha256(f"{seed}{i}".encode()).digest() for i in range(n // 32))


CONTENT = {"toy/part/a.txt": b"a", "toy/part/b.bin": noise(200_000), "toy/SPEAKERS.TXT": b"speakers"}
BODY = packed(CONTENT, "w")  # not compressed: releases of zlib differ in their bytes, and docs/downloads.md shows lengths


def pin(body: bytes, *urls: str, folder: str = "toy/part", sized: bool = True) -> Archive:
    return Archive(urls, hashlib.sha256(body).hexdigest(), folder, len(body) if sized else None)


def visible(root: Path) -> dict[str, bytes]:
    """Files below a folder, those of the download itself left out."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and ".birq-" not in str(p)}


def wait_until(true: object, seconds: float = 20.0) -> None:
    """Poll a condition."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
