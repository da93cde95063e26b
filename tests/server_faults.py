"""What servers and archives do wrong, and what birq makes of it: the tables of docs/downloads.md."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import inputs_page
from faulty_server import BODY, CONTENT, Reply, Server, noise, packed, pin, serving, visible

from birq.downloads import archives, unpack
from birq.downloads.archive import Wanted
from birq.downloads.rules import Rules
from birq.errors import BirqError

NAME = "toy.tar"
QUICK = Rules(stall_seconds=20, first_wait_seconds=0.02)
OTHER = BODY[:50_000] + noise(32_000, "other") + BODY[82_000:]
NOBODY = "http://127.0.0.1:9/toy.tar"


@dataclass(frozen=True)
class Fault:
    """`prepare` makes a server misbehave; it returns the addresses to ask, or None for the usual one."""

    title: str
    prepare: Callable[[Server], object]
    whole: bool  # whether the archive arrives all the same
    sized: bool = True  # whether the archive's length is published
    stall_seconds: float = QUICK.stall_seconds


def _next(*replies: Reply, **more: Reply) -> Callable[[Server], None]:
    def prepare(server: Server) -> None:
        server.replies[NAME] = list(replies)
        if "always" in more:
            server.always[NAME] = more["always"]

    return prepare


def _changes(*, validators: bool, **second: bool) -> Callable[[Server], None]:
    """The file becomes the right one after its first part was sent."""

    def prepare(server: Server) -> None:
        server.validators = validators
        etag = {"ETag": '"old"'} if validators else {}
        server.replies[NAME] = [Reply(body=OTHER, headers=etag, cut=100_000), Reply(**second)]

    return prepare


def _redirect(to: str) -> Callable[[Server], None]:
    return lambda server: server.always.update({NAME: Reply(302, {"Location": to.replace("{server}", server.url("")[:-1])})})


def _two(first: Reply | None) -> Callable[[Server], list[str]]:
    def prepare(server: Server) -> list[str]:
        if first is not None:
            server.files["a"] = BODY
            server.replies["a"] = [Reply(cut=70_000)]
            server.always["a"] = first
        return [server.url("a"), server.url()]

    return prepare


def _elsewhere(server: Server) -> None:
    server.files["elsewhere.tar"] = BODY
    _redirect("/elsewhere.tar")(server)


def _nobody(_: Server) -> list[str]:
    return [NOBODY]


FAULTS = [
    Fault("none", _next(), True),
    Fault("cuts the connection twice", _next(Reply(cut=70_000), Reply(cut=50_000)), True),
    Fault("cuts after 70,000 bytes, then always at once", _next(Reply(cut=70_000), always=Reply(cut=0)), False),
    Fault("cuts, and ignores Range", _next(Reply(cut=70_000), Reply(ranges=False)), True),
    Fault("cuts always at one place, and ignores Range", _next(always=Reply(cut=70_000, ranges=False)), False),
    Fault("stalls after 70,000 bytes, then goes on", _next(Reply(stall=70_000)), True, stall_seconds=0.5),
    Fault("stalls always", _next(always=Reply(stall=0)), False, stall_seconds=0.5),
    Fault("sends 25 bytes a second", _next(always=Reply(trickle_seconds=0.04)), False, stall_seconds=0.5),
    Fault("declares too great a length", _next(always=Reply(length=len(BODY) + 1000)), False),
    Fault("the same, where no length is published", _next(Reply(length=len(BODY) + 1000), always=Reply()), True, sized=False),
    Fault("declares too small a length", _next(always=Reply(length=70_000)), False),
    Fault("the same, where no length is published", _next(always=Reply(length=70_000)), False, sized=False),
    Fault("declares no length", _next(Reply(length=-1)), True),
    Fault("declares no length, and cuts", _next(Reply(length=-1, cut=70_000)), True),
    Fault("sends more than it declared", _next(always=Reply(body=BODY + b"more", length=len(BODY))), True),
    Fault("sends other bytes of the right length", _next(always=Reply(body=OTHER)), False),
    Fault("sends an error page as if it were the file", _next(always=Reply(body=b"<html>Sorry</html>")), False),
    Fault("404", _next(always=Reply(404)), False),
    Fault("403", _next(always=Reply(403)), False),
    Fault("429, Retry-After: 1; then the file", _next(Reply(429, {"Retry-After": "1"})), True),
    Fault("429, Retry-After: 3600", _next(always=Reply(429, {"Retry-After": "3600"})), False),
    Fault("500, then the file", _next(Reply(500)), True),
    Fault("503 always", _next(always=Reply(503)), False),
    Fault("redirects", _elsewhere, True),
    Fault("redirects in a circle", _redirect("/toy.tar"), False),
    Fault("redirects to a file of this machine", _redirect("file:///etc/hostname"), False),
    Fault("changes the file between two requests", _changes(validators=True), True),
    Fault("the same, and ignores If-Range", _changes(validators=True, if_range=False), True),
    Fault("the same, and gives neither ETag nor Last-Modified", _changes(validators=False), True),
    Fault("cuts, then sends another range than was asked for", _next(Reply(cut=70_000), Reply(content_range="bytes 0-9/204800")), True),
    Fault("cuts, then has a shorter file for one request", _next(Reply(cut=70_000), Reply(body=BODY[:1000], if_range=False)), True),
    Fault("404 at the first mirror of two", _two(None), True),
    Fault("the first mirror of two breaks down in the middle", _two(Reply(cut=0)), True),
    Fault("answers something that is not HTTP", _next(always=Reply(raw=b"SSH-2.0-OpenSSH_9.6\r\n")), False),
    Fault("hangs up without an answer", _next(always=Reply(raw=b"")), False),
    Fault("does not listen", _nobody, False),
]


@dataclass(frozen=True)
class Seen:
    whole: bool
    n_requests: int
    kept: int  # bytes of a part
    error: str
    said: list[str]


@functools.cache
def observe(fault: Fault) -> Seen:
    """Download from a server with this fault."""
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        server.files[NAME] = BODY
        urls = fault.prepare(server) or [server.url()]
        root, error, log = Path(folder), "", io.StringIO()
        rules = dataclasses.replace(QUICK, stall_seconds=fault.stall_seconds)
        archive = pin(BODY, *urls, sized=fault.sized)
        with contextlib.redirect_stderr(log):
            try:
                archives.fetch([Wanted(NAME, archive, root / "toy" / "part")], root, "corpora.x", rules)
            except BirqError as e:
                error = str(e)
        part = root / archives.WORK / f"{NAME}.part"
        said = [x for x in log.getvalue().splitlines() if not re.search(r"comparing|unpacking|^download toy.tar  ", x)]
        text = [
            x.replace(server.url("")[:-1], "http://server").replace("127.0.0.1:9", "nobody").replace(folder, "DIR") for x in (error, *said)
        ]
        kept = part.stat().st_size if part.exists() else 0
        return Seen(visible(root) == CONTENT, len(server.asked), kept, text[0], text[1:])


def faults_table() -> str:
    """One row a fault: what becomes of the archive, and what is said."""
    rows = []
    for fault in FAULTS:
        seen = observe(fault)
        times = f"{seen.n_requests} request{'s' * (seen.n_requests != 1)}"
        done = (
            f"fetched, {times}"
            if seen.whole
            else f"error, {times}; {f'{seen.kept:,} bytes' if seen.kept > 999 else 'a few bytes' if seen.kept else 'nothing'} kept"
        )
        lines = [x for x in seen.error.splitlines() if x.startswith("  ")] or [x.removeprefix(f"download {NAME}: ") for x in seen.said]
        texts = [re.sub(r"(?<= )([0-9a-f]{8})[0-9a-f]{56}", r"\1…", x.strip().removeprefix("http://server/toy.tar: ")) for x in lines]
        rows.append((fault.title, done, "<br>".join(map(inputs_page.code, texts))))
    return inputs_page.markdown(("the server", "birq", "message"), rows)


# ---- archives


def _member(name: str, kind: bytes, target: str = "") -> dict[str, bytes | tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return {"toy/part/a.txt": b"a", name: info}


def zipped(members: dict[str, bytes], mode: int = 0o100644, **about: int) -> bytes:
    """A zip archive: name -> content; the last member has this mode and these fields of its own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode if name == list(members)[-1] else 0o100644) << 16
            made.writestr(info, content, zipfile.ZIP_DEFLATED)
        for key, value in about.items():
            setattr(made.infolist()[-1], key, value)
    return out.getvalue()


LIMITS = unpack.Limits(n_files=1000, floor_bytes=1_000_000)
MANY = {f"toy/part/{i}": b"" for i in range(1001)}
ARCHIVES: list[tuple[str, bytes]] = [
    ("`../` in a name", packed({"toy/part/a.txt": b"a", "toy/../../evil.txt": b"evil"})),
    ("an absolute name", packed({"toy/part/a.txt": b"a", "/evil.txt": b"evil"})),
    ("a symbolic link out", packed(_member("toy/part/link", tarfile.SYMTYPE, "/etc"))),
    (
        "a symbolic link, and a file through it",
        packed(_member("toy/part/link", tarfile.SYMTYPE, "../..") | {"toy/part/link/evil.txt": b""}),
    ),
    ("a hard link out", packed(_member("toy/part/link", tarfile.LNKTYPE, "../../../etc/passwd"))),
    ("a device", packed(_member("toy/part/disk", tarfile.BLKTYPE))),
    ("a pipe", packed(_member("toy/part/pipe", tarfile.FIFOTYPE))),
    ("more files than the limit (here 1,000)", packed(MANY)),
    ("more bytes than the limit (here 1,000,000)", packed({"toy/part/zeros": bytes(1_000_001)})),
    ("the same in many files", packed({f"toy/part/{i}": bytes(100_000) for i in range(10)})),
    ("a file where a folder is", packed({"toy/part/a/b.txt": b"b", "toy/part/a": b"a"})),
    ("nothing", packed({})),
    ("not the corpus' folder", packed({"toy/other/a.txt": b"a"})),
    ("half of a compressed archive", packed({"toy/part/b.bin": noise(100_000)})[:50_000]),
    ("half of an archive", packed({"toy/part/b.bin": noise(100_000)}, "w")[:50_000]),
    ("no archive", b"<html>Sorry</html>"),
    ("zip: `../` in a name", zipped({"toy/part/a.txt": b"a", "toy/../../evil.txt": b"evil"})),
    ("zip: `..\\` in a name", zipped({"toy/part/a.txt": b"a", "toy\\..\\..\\evil.txt": b"evil"})),
    ("zip: an absolute name", zipped({"toy/part/a.txt": b"a", "/evil.txt": b"evil"})),
    ("zip: a symbolic link", zipped({"toy/part/a.txt": b"a", "toy/part/link": b"/etc"}, 0o120777)),
    ("zip: a device", zipped({"toy/part/a.txt": b"a", "toy/part/disk": b""}, 0o060660)),
    ("zip: an encrypted file", zipped({"toy/part/a.txt": b"a"}, flag_bits=1)),
    ("zip: a compression that is not known", zipped({"toy/part/a.txt": b"a"}, compress_type=99)),
    ("zip: more files than the limit (here 1,000)", zipped(MANY)),
    ("zip: more bytes than the limit (here 1,000,000)", zipped({"toy/part/zeros": bytes(1_000_001)})),
    ("zip: the same in many files", zipped({f"toy/part/{i}": bytes(100_000) for i in range(11)})),
    ("zip: a declared length that is too small", zipped({"toy/part/zeros": bytes(900_000)}, file_size=10)),
    ("zip: another checksum inside", zipped({"toy/part/a.txt": b"a"}, CRC=1)),
    ("zip: a file where a folder is", zipped({"toy/part/a/b.txt": b"b", "toy/part/a": b"a"})),
    ("zip: nothing", zipped({})),
    ("zip: half of one", zipped({"toy/part/b.bin": noise(100_000)})[:50_000]),
]


def unpacked(body: bytes, folder: Path) -> str:
    """The error of an archive that arrives with the checksum that was asked for."""
    (folder / NAME).write_bytes(body)
    with mock.patch.object(unpack, "LIMITS", LIMITS), contextlib.redirect_stderr(io.StringIO()):
        try:
            archives.fetch([Wanted(NAME, pin(body, "http://server/toy.tar"), folder / "toy" / "part")], folder, "corpora.x", QUICK)
        except BirqError as e:
            return str(e)
    return ""


def archives_table() -> str:
    rows = []
    for title, body in ARCHIVES:
        with tempfile.TemporaryDirectory() as folder:
            message = unpacked(body, Path(folder))
        rows.append((title, inputs_page.code(re.sub(r".*?cannot be unpacked \((.*)\), though.*", r"\1", message))))
    return inputs_page.markdown(("the archive holds", "message"), rows)
