"""`birq ui`: a page that shows a run while it goes on. It only reads, and answers to this machine unless it is told otherwise."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from birq import report
from birq.errors import BirqError
from birq.live.state import PAGES, state
from birq.settings import params

REST = 10.0  # a look that took a second is made again after ten: a large corpus is not walked all the time
LEAST_SECONDS = 1.5
# nothing from elsewhere, and the page in no frame of another one
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; media-src data:; "
POLICY += "frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

NOTHING: dict[str, Any] = {"project": "birq", "jobs": [], "trainings": [], "pages": [], "at": ""}  # before the first look that succeeds


class Watched:
    """The state of the project, looked at again when somebody asks and the last look is old enough."""

    def __init__(self, path: str):
        self._path, self._lock = path, threading.Lock()
        self._next, self._last = 0.0, json.dumps(NOTHING).encode()

    def json(self) -> bytes:
        with self._lock:
            begun = time.monotonic()
            if begun >= self._next:
                try:
                    now = state(params.load(self._path))
                except BirqError as e:  # params.yaml is being edited, or an artifact was just replaced
                    now = json.loads(self._last) | {"error": str(e)}
                self._last = json.dumps(now, allow_nan=False).encode()
                self._next = time.monotonic() + max(LEAST_SECONDS, REST * (time.monotonic() - begun))
            return self._last


def page() -> str:
    """The page's HTML, whole."""
    here, style = Path(__file__).parent, Path(report.__file__).parent / "templates" / "style.css"
    text = (here / "ui.html").read_text(encoding="utf-8")
    for mark, part in (("/* style */", style), ("/* script */", here / "ui.js")):
        text = text.replace(mark, part.read_text(encoding="utf-8"))
    return text


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        if not self.server.knows(self.headers.get("Host", "")):
            # a page of another site that has its name resolved to this address asks with its own name
            return self._send(403, "text/plain", b"this page is not for that host\n", body)
        answers: dict[str, tuple[str, Callable[[], bytes]]] = {
            "/": ("text/html", lambda: self.server.page),
            "/state.json": ("application/json", self.server.watched.json),
        }
        answers |= {f"/{name}": ("text/html", lambda path=path: path().read_bytes()) for name, path in PAGES.items()}
        kind, made = answers.get(self.path.partition("?")[0], ("", None))
        try:
            text = made() if made else None
        except OSError:  # the report is not made
            text = None
        if text is None:
            return self._send(404, "text/plain", b"not here\n", body)
        self._send(200, kind, text, body)

    def _send(self, status: int, kind: str, text: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(text)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """A line for every look of a page would hide those that matter."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, path: str):
        self.watched, self.page = Watched(path), page().encode()
        try:
            super().__init__((host, port), _Handler)
        except OSError as e:
            raise BirqError(f"{host}:{port} cannot be used ({e.strerror or e}); --port 0 takes any free one") from None
        self.port = self.server_address[1]
        own = {"localhost", "127.0.0.1", "::1"} if loopback(host) else {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names, self._anywhere = {host.lower(), *own}, not loopback(host)

    def knows(self, asked: str) -> bool:
        """Whether a request's Host is one of this server's: its names and, if it is reached from elsewhere, addresses."""
        name, port = urlsplit(f"//{asked}").hostname or "", asked.rpartition(":")[2]
        if port != str(self.port) and not (self.port == 80 and name == asked.lower()):
            return False
        return name in self._names or (self._anywhere and _address(name))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away is no error."""


def _address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(path: str, host: str, port: int, say: Callable[[str], Any]) -> None:
    """Until Ctrl+C. Errors: BirqError for an address that cannot be used, and params.yaml that cannot be read."""
    params.load(path)
    server = Server(host, port, path)
    if not loopback(host):
        say(f"{host}: everyone who reaches this address can read this project's figures, transcripts and sample recordings")
    say(f"http://{'localhost' if loopback(host) else host}:{server.port}/  (Ctrl+C ends it; the run goes on)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("ended; a run goes on")
    finally:
        server.server_close()
