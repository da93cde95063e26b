"""A real headless Chromium, spoken to over its debugging pipe: pages are opened, used and looked at without another package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
ANSWER_S = 60.0


class Page:
    """One tab. errors: exceptions and errors of its console; requests: addresses that it asked for, but for `data:`."""

    def __init__(self, send: Any, receive: Any) -> None:
        self._send, self._receive, self._number = send, receive, 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer of a method of Chromium's protocol."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._noted(message)

    def _noted(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.errors.append(about["entry"]["text"])
            case "Runtime.consoleAPICalled" if about["type"] == "error":
                self.errors.append(str(about["args"]))
            case "Network.requestWillBeSent" if not about["request"]["url"].startswith("data:"):
                self.requests.append(about["request"]["url"])

    def open(self, address: str) -> None:
        """Load an address and wait until it is loaded."""
        self.call("Page.navigate", url="about:blank")  # an address that differs by its fragment alone would load nothing
        self.wait("document.readyState === 'complete' && location.href === 'about:blank'")
        self.requests.clear()
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 20.0) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, f"not true after {seconds} s: {condition}; errors: {self.errors}"
            time.sleep(0.05)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def press(self, key: str) -> None:
        """One key, such as Tab."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9, "Enter": 13}.get(key, 0))

    def picture(self, path: Path) -> None:
        """A screenshot as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def page() -> Iterator[Page]:
    """A tab of a Chromium that ends with it."""
    assert PROGRAM, "no Chromium here"
    with tempfile.TemporaryDirectory(prefix="birq-chromium-") as profile:
        pipes = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (*os.pipe(), *os.pipe())]
        theirs_in, ours_out, ours_in, theirs_out = pipes
        command = [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--autoplay-policy=no-user-gesture-required", "about:blank"]

        # Chromium reads its pipe from file 3 and writes to file 4
        ends = f"import os, sys; os.dup2({theirs_in}, 3); os.dup2({theirs_out}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        process = subprocess.Popen(
            [sys.executable, "-c", ends, *command], pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in), os.close(theirs_out)
        rest = b""

        def send(message: dict[str, Any]) -> None:
            os.write(ours_out, json.dumps(message).encode() + b"\0")

        def receive() -> dict[str, Any]:
            nonlocal rest
            while b"\0" not in rest:
                assert select.select([ours_in], [], [], ANSWER_S)[0], f"Chromium did not answer within {ANSWER_S} s"
                more = os.read(ours_in, 1 << 20)
                assert more, "Chromium ended"
                rest += more
            first, _, rest = rest.partition(b"\0")
            return json.loads(first)

        try:
            yield Page(send, receive)
        finally:
            process.terminate()
            process.wait(20)
            os.close(ours_out), os.close(ours_in)
