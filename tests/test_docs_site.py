"""The documentation: it builds into a site without a warning, loads nothing from elsewhere, and every command in it exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_corpora import tree

from birq.__main__ import main
from birq.commandline import parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def built(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(root / "mkdocs.yml"), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is missing: pip install -e '.[dev]'")
    out = tmp_path_factory.mktemp("site")
    done = built(ROOT, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    """Links to other sites are links; scripts, fonts, styles and pictures are the site's own."""
    for page in (p for p in PAGES if p.parent.name == "docs"):
        where = site / ("index.html" if page.stem == "README" else f"{page.stem}/index.html")
        text = where.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)="?([^"\s>]+)', text)
        assert loaded and not [x for x in loaded if x.startswith(("http:", "https:", "//")) and "rel=canonical" not in x], where
    assert (site / "files" / "params.yaml.txt").read_text() == (ROOT / "params.yaml").read_text()


def test_the_reference_has_every_verb_param_and_docstring(site: Path) -> None:
    commands = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    (verbs,) = (a for a in parser()._actions if hasattr(a, "choices") and isinstance(a.choices, dict))
    assert all(f'id="birq-{verb}"' in commands for verb in verbs.choices)
    assert "label_layer" in (site / "reference/parameters/index.html").read_text(encoding="utf-8")
    python = (site / "reference/python/index.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in python for name in ("birq.load", "birq.use.encoder.Encoder.label", "birq.model.quantizer"))


@pytest.mark.parametrize("link", ["nowhere.md", "method.md#no-such-part", "../no/file.py"])
def test_a_broken_link_fails_the_build(site: Path, tmp_path: Path, link: str) -> None:
    root = tmp_path / "copy"
    for name in ("docs", "birq", "presets", "benchmarks/results", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
    for name in ("mkdocs.yml", "params.yaml", "README.md"):
        shutil.copy(ROOT / name, root / name)
    with open(root / "docs" / "use.md", "a", encoding="utf-8") as f:
        f.write(f"\n[a link]({link})\n")
    done = built(root, tmp_path / "site")
    assert done.returncode != 0 and link.removeprefix("../") in done.stderr


def commands(page: Path) -> list[str]:
    """Calls of birq in a page's blocks of code, comments cut off, lines that end with a backslash joined."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if re.match(r"( {4,}|\$ )\S", line)]
    found = []
    for line in lines:
        for part in re.split(r"&&|\|\||;|\s\|\s", line.partition(" #")[0].partition(" > ")[0]):
            called = re.match(r"(?:\w+=\S+ )*(?:\S*python3? -m birq|birq)\s(?=\S)(.*)", part.strip())
            if called and not part.strip().startswith(("birq:", "birq/")):
                found.append(called[1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_command_of_a_page_is_one_of_birqs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verb or an option that was renamed stays in no page."""
    for command in commands(page):
        try:
            parser().parse_args(shlex.split(command.replace("...", "")))
        except SystemExit as e:
            assert e.code == 0, f"{page.name}: birq {command}: {capsys.readouterr().err[-500:]}"


def block(page: str, heading: str, kind: str) -> str:
    """The first block of code of a kind below a heading of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"## {heading}")[2]
    return text.partition(f"```{kind}\n")[2].partition("\n```")[0]


def test_the_tutorials_own_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its section of params.yaml and its commands, on a folder as it describes one."""
    speech = tree(tmp_path / "speech", suffix="flac")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    told = yaml.safe_load(block("tutorial.md", "Your own recordings", "yaml").replace("/speech/mine", str(speech)))
    values["run"] |= told["run"]
    values["corpora"] = told["corpora"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    for command in ("params check", "corpus --corpus mine", "plan"):
        assert f"    birq {command}" in (ROOT / "docs" / "tutorial.md").read_text()
        assert main(command.split()) == 0, capsys.readouterr().err
    assert "mine" in capsys.readouterr().out and (tmp_path / "data/corpus/mine/quarantine.tsv").is_file()


def test_commands_are_found() -> None:
    """The test above looks at something."""
    assert sum(len(commands(page)) for page in PAGES) > 60
