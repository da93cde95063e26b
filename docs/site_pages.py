"""What the site has besides the pages of docs/: reference pages made from the code, and the files of the repository that pages link to.

mkdocs calls these functions (mkdocs.yml, `hooks`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")  # a link out of docs/
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"^(\s*)([-*]|\d+\.) ")
PYTHON = {
    "A model in use": ["birq.load", "birq.use.recogniser.Recogniser", "birq.use.recogniser.Transcript", "birq.use.words.Word"],
    "An encoder": ["birq.use.encoder.Encoder", "birq.use.s3prl.UpstreamExpert"],
    "The objective": ["birq.model.objectives", "birq.model.prediction", "birq.model.quantizer", "birq.model.masking"],
    "The encoder's layers": ["birq.model.encoder"],
    "Features": ["birq.speech.shards", "birq.speech.fbank", "birq.speech.frontend"],
    "Measures": ["birq.evaluate.linear", "birq.evaluate.abx", "birq.evaluate.rates"],
}


def _commands() -> str:
    """Every verb with its options, as `--help` says them."""
    sys.path.insert(0, str(ROOT))
    from birq.commandline import parser

    top = parser()
    (verbs,) = (a for a in top._actions if hasattr(a, "choices") and isinstance(a.choices, dict))
    parts = ["# Commands", "", "As `birq --help` and `birq VERB --help` say it.", ""]
    for name, verb in verbs.choices.items():
        parts += [f"## birq {name}", "", "```text", verb.format_help().rstrip(), "```", ""]
    return "\n".join(parts)


def _parameters() -> str:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    return "\n".join(
        [
            "# All parameters",
            "",
            "`params.yaml` as it is shipped. [parameters.md](../parameters.md) explains the ones that matter. "
            "An illegal value is refused with the legal ones.",
            "",
            "```yaml",
            text.rstrip(),
            "```",
        ]
    )


def _python() -> str:
    parts = ["# Python", "", "From the docstrings. Shape suffixes such as `x_BND` name a tensor's dimensions; each module says which.", ""]
    for title, names in PYTHON.items():
        parts += [f"## {title}", "", *(f"::: {name}\n" for name in names)]
    return "\n".join(parts)


def on_files(files: Files, config: Any) -> Files:
    """Add the reference pages, and every file that a page links to outside of docs/."""
    for name, text in (("commands", _commands()), ("parameters", _parameters()), ("python", _python())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    pages = [f for f in files.documentation_pages() if f.abs_src_path]
    linked = {m[1] for f in pages for m in OUTSIDE.finditer(Path(f.abs_src_path).read_text(encoding="utf-8"))}
    for path in sorted(linked - {"README.md"}):
        if (ROOT / path).is_file():  # a link that leads nowhere stays, and the build names it
            files.append(File.generated(config, f"files/{path}.txt", abs_src_path=str(ROOT / path)))
    return files


def _spaced(markdown: str) -> str:
    """A blank line before lists: they may follow a paragraph at once where these pages are read as they are, not in mkdocs."""
    out: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        fenced ^= bool(FENCE.match(line))
        before = out[-1] if out else ""
        if not fenced and ITEM.match(line) and before.strip() and not ITEM.match(before) and not before.startswith((" ", "|")):
            out.append("")
        out.append(line)
    return "\n".join(out)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ lead to the files that came along; the project's own page is the site's first one."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    markdown = OUTSIDE.sub(lambda m: "](README.md)" if m[1] == "README.md" else f"](files/{m[1]}.txt{m[2] or ''})", markdown)
    return _spaced(markdown)
