"""Folders of a data set on a hub with Hugging Face's tree API: which files there are, their lengths, and SHA-256 of the large ones."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from birq.downloads.request import LaterError, RefusedError, ask
from birq.downloads.rules import Rules

BLOCK_BYTES = 1 << 16


class NoListError(Exception):
    """No address gives the list: a line for each."""

    def __init__(self, failures: list[str], absent: bool) -> None:
        super().__init__("\n".join(failures))
        self.absent = absent  # a server says that there is no such folder


@dataclass(frozen=True)
class Entry:
    """A file or folder."""

    name: str  # without the folders above
    is_folder: bool
    n_bytes: int
    sha256: str  # empty where the hub does not tell: it does for files in its large-file storage


def tree_address(files_address: str) -> str:
    """The address of a folder's list, from that of its files; empty for an address that is not of a hub."""
    found = re.fullmatch(r"(https?://[^/]+)/datasets/(.+)/resolve/(.+?)/?", files_address)
    return f"{found[1]}/api/datasets/{found[2]}/tree/{found[3]}" if found else ""


def entries(folder: str, addresses: list[str], rules: Rules) -> list[Entry]:
    """What is in a folder below one of the addresses of files, asked in turn. Errors: NoListError."""
    failures, absent = [], False
    for address in filter(None, map(tree_address, addresses)):
        url = f"{address}/{folder}".rstrip("/")
        try:
            return [_entry(one) for one in _all_pages(url, rules)]
        except RefusedError as e:
            failures.append(f"  {url}: {e}")
            absent = absent or str(e).startswith("HTTP 404")
        except LaterError as e:
            failures.append(f"  {url}: {e} ({rules.tries} times)")
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            failures.append(f"  {url}: not a list of files ({type(e).__name__}: {e})")
    raise NoListError(failures, absent)


def _entry(one: dict[str, Any]) -> Entry:
    large = one.get("lfs") or {}
    sha256 = str(large.get("oid", "")).removeprefix("sha256:")
    n_bytes = int(large.get("size", one.get("size", 0)))
    name = str(one["path"]).rpartition("/")[2]
    return Entry(name, one["type"] == "directory", n_bytes, sha256 if re.fullmatch(r"[0-9a-f]{64}", sha256) else "")


def _all_pages(url: str, rules: Rules) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while url:
        page, url = _page(url, rules)
        found += page
    return found


def _page(url: str, rules: Rules) -> tuple[list[dict[str, Any]], str]:
    """A page and the address of the next one. Without a declared length it is whole if it can be parsed: a list ends with a bracket."""
    for failed in range(1, rules.tries + 1):
        try:
            with ask(url, 0, None, rules.stall_seconds) as answer:
                body = b"".join(iter(lambda: answer.read(BLOCK_BYTES), b""))
                if answer.version.n_bytes is not None and len(body) < answer.version.n_bytes:
                    raise LaterError(f"the connection ended after {len(body)} of {answer.version.n_bytes} bytes")
                link = re.search(r'<([^>]+)>;\s*rel="?next"?', answer.raw.headers["Link"] or "")
            return json.loads(body), urljoin(url, link[1]) if link else ""
        except LaterError as e:
            wait_seconds = rules.wait_seconds(failed, e.after_seconds)
            if failed == rules.tries or wait_seconds > rules.longest_wait_seconds:
                raise
            time.sleep(wait_seconds)
    raise AssertionError("rules.tries is at least 1")
