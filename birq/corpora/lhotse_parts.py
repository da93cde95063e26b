"""Where lhotse's manifests come from: a folder of them, or one of lhotse's recipes; and which part is train, dev or test."""

from __future__ import annotations

import gzip
import importlib.metadata
import inspect
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from birq.corpora.items import need_folder
from birq.errors import BirqError
from birq.progress import say
from birq.settings.corpora import LhotseCorpus
from birq.speech import resampling

Line = tuple[str, dict[str, Any]]  # where it stands, for messages; the manifest's item as a plain dict
SETS = ("recordings", "supervisions", "cuts")
# PREFIX_recordings_PART.jsonl.gz, as recipes and icefall write them; recordings.jsonl, cuts_dev.jsonl.gz, train_cuts.jsonl.gz
NAME = re.compile(r"^(?:(?P<prefix>.+?)[_-])?(?P<set>recordings|supervisions|cuts)(?:[_-](?P<part>.+))?\.jsonl(?:\.gz)?$")
WHOLE = "all"  # the part of manifests that name none
SPLIT_OF = {word: "train" for word in ("train", "training", "tr", "trn")}
SPLIT_OF |= {word: "dev" for word in ("dev", "devel", "development", "val", "valid", "validation")}
SPLIT_OF |= {word: "test" for word in ("test", "tst", "eval", "evaluation")}


@dataclass
class Part:
    """The manifests of one part; each is read when it is iterated."""

    sets: dict[str, Callable[[], Iterator[Line]]] = field(default_factory=dict)

    def lines(self, which: str) -> Iterator[Line]:
        return self.sets[which]() if which in self.sets else iter(())


# ---- a folder


def lines_of(path: Path) -> Iterator[Line]:
    """The items of a JSONL manifest, plain or gzipped. Errors: BirqError names the file and the line."""
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    item = json.loads(line)
                    if not isinstance(item, dict):
                        raise ValueError(f"{line[:60]!r} is no item of a manifest")
                    yield f"{path}, line {number}", item
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise BirqError(f"{path}, after line {number}: cannot be read ({e}); write the manifest anew with lhotse") from None


def manifest_files(corpus: LhotseCorpus) -> list[Path]:
    """The manifests in root that carry the wanted prefix; none where there is no such folder."""
    root = corpus.folder()
    found = sorted(root.iterdir()) if root.is_dir() else []
    named = [(p, NAME.match(p.name)) for p in found if p.is_file()]
    return [p for p, m in named if m and (not corpus.prefix or (m["prefix"] or "") == corpus.prefix)]


def _from_folder(corpus: LhotseCorpus, key: str) -> dict[str, Part]:
    root = corpus.folder()
    parts: dict[str, Part] = {}
    owner: dict[tuple[str, str], Path] = {}
    for path in manifest_files(corpus):
        match = NAME.match(path.name)
        assert match
        name = match["part"] or (match["prefix"] if match["prefix"] and _split(match["prefix"]) else None) or WHOLE
        if other := owner.get((name, match["set"])):
            raise BirqError(
                f"{key}.root: {other.name} and {path.name} in {root} are both {match['set']} of the part {name}; "
                f"name one set by {key}.prefix, which is what stands before _{match['set']}"
            )
        owner[name, match["set"]] = path
        parts.setdefault(name, Part()).sets[match["set"]] = lambda path=path: lines_of(path)
    if not parts:
        there = ", ".join(p.name for p in sorted(root.iterdir())[:5])
        raise BirqError(
            f"{key}.root: {root} holds no manifests of lhotse{f' with prefix {corpus.prefix}' if corpus.prefix else ''} "
            f"(NAME_recordings_PART.jsonl.gz, NAME_supervisions_PART.jsonl.gz or cuts_PART.jsonl.gz), it holds {there}; "
            f"name the folder of manifests, or the corpus' own folder and {key}.recipe"
        )
    return parts


# ---- a recipe


def _recipe(corpus: LhotseCorpus, key: str) -> Callable[..., Any]:
    from lhotse import recipes

    found = getattr(recipes, f"prepare_{corpus.recipe}", None)
    if callable(found):
        return found
    names = sorted(n.removeprefix("prepare_") for n in dir(recipes) if n.startswith("prepare_"))
    near = get_close_matches(corpus.recipe, names, 5, 0.5) or names
    version = importlib.metadata.version("lhotse")
    raise BirqError(f"{key}.recipe: lhotse {version} has no prepare_{corpus.recipe}; it has {', '.join(near)}")


def _arguments(prepare: Callable[..., Any], corpus: LhotseCorpus, key: str, scratch: Path) -> dict[str, Any]:
    """The recipe's arguments: root as its first one; where it must write manifests, a folder of the job's."""
    known = inspect.signature(prepare).parameters
    first = next(iter(known))
    wrong = sorted(set(corpus.recipe_params) - set(known) | ({first, "output_dir"} & set(corpus.recipe_params)))
    if wrong:
        legal = ", ".join(n for n in known if n not in (first, "output_dir"))
        raise BirqError(f"{key}.recipe_params: prepare_{corpus.recipe} takes no {', '.join(wrong)} here; it takes {legal or 'none'}")
    given = {first: corpus.folder().resolve(), **corpus.recipe_params}
    if "output_dir" in known and known["output_dir"].default is inspect.Parameter.empty:
        given["output_dir"] = scratch / "manifests"
    if missing := [
        n for n, p in known.items() if n not in given and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]:
        raise BirqError(f"{key}.recipe_params: prepare_{corpus.recipe} needs {', '.join(missing)}")
    return given


def _from_recipe(corpus: LhotseCorpus, key: str, scratch: Path) -> dict[str, Part]:
    prepare = _recipe(corpus, key)
    given = _arguments(prepare, corpus, key, scratch)
    resampling.torchaudio()  # where its extension cannot be loaded, lhotse would fail to ask it for a file's length
    try:
        made = prepare(**given)
    except Exception as e:  # a recipe meets a corpus that is not as it expects with errors of all kinds
        raise BirqError(
            f"{key}: lhotse's prepare_{corpus.recipe} cannot read {corpus.folder()} ({type(e).__name__}: {e}); "
            f"complete the corpus or correct {key}.root and {key}.recipe_params"
        ) from e
    parts: dict[str, Part] = {}
    _gather(made, (), parts)
    if not parts:
        raise BirqError(f"{key}: lhotse's prepare_{corpus.recipe} gave a {type(made).__name__}, no recordings, supervisions or cuts")
    return parts


def _gather(made: Any, names: tuple[str, ...], parts: dict[str, Part]) -> None:
    """Parts of what a recipe gave: dicts in dicts, by language, microphone or split, down to the sets of manifests."""
    if not isinstance(made, dict):
        return
    for name, value in made.items():
        if isinstance(value, dict):
            _gather(value, (*names, str(name)), parts)
        elif name in SETS and value is not None:
            part = "/".join(names) or WHOLE
            parts.setdefault(part, Part()).sets[name] = lambda value=value, where=f"{part}, {name}": _dicts(value, where)


def _dicts(items: Iterable[Any], where: str) -> Iterator[Line]:
    return ((f"{where}, {item.id}", item.to_dict()) for item in items)


# ---- parts and splits


def _split(part: str) -> str | None:
    """The split that a part's name speaks of: that of train-clean-100 is train; None where it names none or two."""
    words = re.findall(r"[a-z]+", part.lower())
    found = {SPLIT_OF[w] for w in words if w in SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def splits_of(corpus: LhotseCorpus, names: list[str], key: str) -> dict[str, str]:
    """Part -> train, dev or test. By params, or else by the parts' names; a part that stands alone is for training."""
    given = {"train": corpus.train_parts, "dev": corpus.dev_parts, "test": corpus.test_parts}
    there = ", ".join(names)
    if any(given.values()):
        out: dict[str, str] = {}
        for split, parts in given.items():
            for part in parts:
                if part not in names:
                    raise BirqError(f"{key}.{split}_parts: no part {part!r}, there are {there}")
                if part in out:
                    raise BirqError(f"{key}: the part {part!r} is named twice; name it once")
                out[part] = split
        if not corpus.train_parts:
            raise BirqError(f"{key}.train_parts: empty; name at least one of {there}")
        return out
    out = {n: "train" for n in names} if len(names) == 1 else {n: split for n in names if (split := _split(n))}
    if "train" not in out.values():
        raise BirqError(
            f"{key}: no part is for training by its name, there are {there}; name them in {key}.train_parts, dev_parts, test_parts"
        )
    if left := [n for n in names if n not in out]:
        say(f"{key}: parts left out, whose names say no split: {', '.join(left)}; to use them, name all in {key}.train_parts and so on")
    return out


def read(corpus: LhotseCorpus, key: str, scratch: Path) -> dict[str, Part]:
    """The parts by name, sorted. Errors: BirqError with the way out."""
    need_folder(corpus.folder(), f"{key}.root")
    if corpus.recipe_params and not corpus.recipe:
        raise BirqError(f"{key}.recipe_params: of no use without {key}.recipe")
    parts = _from_recipe(corpus, key, scratch) if corpus.recipe else _from_folder(corpus, key)
    return dict(sorted(parts.items()))
