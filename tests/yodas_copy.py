"""A small copy of YODAS2 in its own layout: shards of whole videos at 24 kHz, captions, lengths, and the hub that lists and serves them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from faulty_server import Reply, Server, packed, unpacked

RATE = 24000
SAID = "Good, good!"
# ids begin with Y and may hold anything
VIDEOS = ("Yab-cd-00001-5", "Y-x_Q0", "Y a b", "YMlFfyyvUsqI")
HUB = "datasets/espnet/yodas2/resolve/main/data"
TREE = "api/datasets/espnet/yodas2/tree/main/data"


@dataclass(frozen=True)
class Shard:
    """A shard's three files."""

    name: str
    audio: bytes
    text: bytes
    duration: bytes

    def files(self) -> dict[str, bytes]:
        """Name below data/ -> content."""
        subset, number = self.name.split("/")
        kinds = {"audio": (".tar.gz", self.audio), "text": (".json", self.text), "duration": (".txt", self.duration)}
        return {f"{subset}/{kind}/{number}{ending}": content for kind, (ending, content) in kinds.items()}


def wav(seed: str, seconds: float) -> bytes:
    wave = 0.1 * np.random.default_rng(sum(seed.encode())).standard_normal(round(RATE * seconds))
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


def segment_id(video: str, index: int, start_s: float, end_s: float) -> str:
    return f"{video}-{index:05d}-{round(start_s * 100):08d}-{round(end_s * 100):08d}"


def captions(video: str, said: Iterable[str], begin_s: float = 0.5, each_s: float = 1.5) -> dict:
    """A video's entry: one caption behind the other."""
    times = [(i, begin_s + i * each_s, begin_s + (i + 1) * each_s, text) for i, text in enumerate(said)]
    return {"audio_id": video, "text": {segment_id(video, i, start, end): text for i, start, end, text in times}}


def shard(name: str, videos: dict[str, float], said: Iterable[str] = (SAID, "yes it is"), more: Iterable[dict] = ()) -> Shard:
    """Videos (seconds by id), each with the same captions. `more`: further entries of the text file."""
    said = list(said)
    text = json.dumps([*(captions(v, said) for v in videos), *more], ensure_ascii=False).encode()
    duration = "".join(f"{v} {s}\n" for v, s in videos.items()).encode()
    audio = packed({f"./{name.split('/')[1]}/{v}.wav": wav(name + v, s) for v, s in videos.items()}, "w")
    return Shard(name, gzip.compress(audio, mtime=0), text, duration)


def shards(subset: str = "en000", n: int = 3, seconds: float = 4.0) -> list[Shard]:
    return [shard(f"{subset}/{i:08d}", {f"{video}{subset}{i}": seconds + 0.25 * i for video in VIDEOS}) for i in range(n)]


def put(root: Path, every: Iterable[Shard]) -> Path:
    """A copy on disk, as a clone of the data set has it."""
    for one in every:
        for name, content in one.files().items():
            path = root / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def unpack(root: Path) -> None:
    """Every archive beside itself, into a folder of its name, as the cuts name the recordings."""
    for path in root.rglob("*.tar.gz"):
        folder = path.with_name(path.name.removesuffix(".tar.gz"))
        folder.mkdir()
        for name, content in unpacked(path.read_bytes()).items():
            (folder / Path(name).name).write_bytes(content)


def serve(server: Server, every: Iterable[Shard], page: int = 2) -> None:
    """Put the data set on a server: its files, and lists of them in pages."""
    listed: dict[str, list[dict]] = {}
    for one in every:
        for name, content in one.files().items():
            server.files[f"{HUB}/{name}"] = content
            entry = {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": f"data/{name}"}
            if "/audio/" in name:
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 131}
            listed.setdefault(name.rpartition("/")[0], []).append(entry)
    listed[""] = [{"type": "directory", "oid": "0", "size": 0, "path": f"data/{s}"} for s in sorted({f.split("/")[0] for f in listed})]
    for folder, entries in listed.items():
        for begin in range(0, len(entries), page):
            name = f"{TREE}/{folder}".rstrip("/") + (f"?cursor={begin}" if begin else "")
            server.files[name] = json.dumps(entries[begin : begin + page]).encode()
            if begin + page < len(entries):
                address = server.url(name.partition("?")[0] + f"?cursor={begin + page}")
                server.always[name] = Reply(headers={"Link": f'<{address}>; rel="next"'})
