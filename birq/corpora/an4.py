"""CMU AN4 ("census"): names, addresses, numbers and spelled letters of 1991, in its own layout."""

from __future__ import annotations

import re
import shutil
import tarfile
import urllib.request
from pathlib import Path

from birq.corpora.items import Item, Scan, audio_files, need_folder, read_lines
from birq.errors import BirqError
from birq.settings.params import An4Corpus

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
SUFFIXES = (".flac", ".wav", ".sph")
SAMPLE_RATE_HZ = 16000
TIMEOUT_S = 60

_LINE = re.compile(r"^(?P<text>.*)\((?P<id>[^()\s]+)\)\s*$")
_MARK = re.compile(r"</?s>|<sil>|\+\+\w+\+\+|\[\w+\]|\(\d+\)", re.IGNORECASE)


def fetch(url: str, root: Path, key: str) -> None:
    """Download and unpack a tar archive into `root`; BirqError with the way out where that fails, and nothing half-done is left."""
    root.mkdir(parents=True, exist_ok=True)
    archive, unpacked = root / ".download.tar.gz", root / ".unpacking"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, open(archive, "wb") as f:
            shutil.copyfileobj(answer, f)
        shutil.rmtree(unpacked, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        for item in sorted(unpacked.iterdir()):
            item.rename(root / item.name)
    except (OSError, tarfile.TarError, EOFError) as e:
        raise BirqError(
            f"{key}: download of {url} failed ({e}); fetch and unpack it by other means, "
            f"then set {key}.root to that folder and {key}.download to false"
        ) from e
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)


def _place(root: Path) -> Path | None:
    return next((p for p in (root, root / "an4") if (p / "etc" / "an4_train.fileids").is_file()), None)


def words(line: str) -> tuple[str, str]:
    """A line of a transcription file -> (utterance id, text without sentence, silence and noise marks)."""
    match = _LINE.match(line.strip())
    if not match:
        raise ValueError("no `(utterance id)` at its end")
    return match["id"], " ".join(_MARK.sub(" ", match["text"]).split())


def _transcription(path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                id, text = words(line)
            except ValueError as e:
                raise BirqError(f"{path}, line {number}: {e}; correct or remove the line") from None
            found[id] = text
    return found


def _list(root: Path, audio: dict[str, str], which: str, split: str | None) -> list[Item]:
    """Items of one file list and its transcription."""
    texts = _transcription(root / "etc" / f"an4_{which}.transcription")
    items = []
    for file_id in read_lines(root / "etc" / f"an4_{which}.fileids"):
        file_id = file_id.strip()
        if not file_id:
            continue
        id, speaker = file_id.rpartition("/")[2], file_id.split("/")[-2] if "/" in file_id else file_id
        item = Item(id, audio.get(file_id, ""), speaker, texts.pop(id, None), split)
        if item.text is None:
            item = item.bad("no transcript", f"an4_{which}.transcription has no line ({id})")
        items.append(item if item.path else item.bad("no audio", f"wav/{file_id} does not exist as {', '.join(SUFFIXES)}"))
    items += [Item(id, "", "", text).bad("no audio", f"an4_{which}.fileids does not list it") for id, text in sorted(texts.items())]
    return items


def scan(corpus: An4Corpus, key: str) -> Scan:
    """Read the file lists; where there is no test list, the test speakers are drawn later."""
    given = Path(corpus.root)
    if corpus.download and _place(given) is None:
        fetch(URL, given, key)
    need_folder(given, f"{key}.root")
    root = _place(given)
    if root is None:
        raise BirqError(f"{key}.root: {given} holds no etc/an4_train.fileids; set it to the folder that has etc/ and wav/")
    audio = {
        p.relative_to(root / "wav").with_suffix("").as_posix(): p.relative_to(root).as_posix() for p in audio_files(root / "wav", SUFFIXES)
    }
    if not audio:
        raise BirqError(f"{key}.root: {root / 'wav'} holds no {', '.join(SUFFIXES)} file; complete the corpus")
    items = _list(root, audio, "train", None)
    if (root / "etc" / "an4_test.fileids").is_file():
        items += _list(root, audio, "test", "test")
    return Scan(
        root,
        items,
        "any purpose, with CMU's notice (BSD-like)",
        "CMU AN4 (census) database, Carnegie Mellon University, 1991",
        SAMPLE_RATE_HZ,
    )
