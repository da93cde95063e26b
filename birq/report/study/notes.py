"""A study's prose on its page: a Markdown file, section by section. Its links to other files become text, since the page stands alone."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from birq.errors import BirqError
from birq.report.study.page import Notes, Section

TABLES = "<!-- study:begin -->"  # in the section in whose place the page has the study's tables and figures
PREFIX = "notes-"  # of ids, which the page has of its own too


def read(path: Path) -> Notes:
    """Errors: BirqError for a file that is not there, or without a heading of the first level."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise BirqError(f"--notes {path}: not readable as text ({e}); give a Markdown file, such as docs/study.md") from None
    title, lead, blocks = _split(text)
    if not title:
        raise BirqError(f"--notes {path}: begins with no heading of the first level, `# Title`; the page takes its title from it")
    ids = {_slug(name): f"{PREFIX}{_slug(name)}" for name, _ in blocks}
    sections = [
        Section(ids[_slug(name)], _inline(name), "" if TABLES in body else _html(body, ids), TABLES in body) for name, body in blocks
    ]
    return Notes(_inline(title), _html(lead, ids), sections)


def _split(text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, what stands before the first section, and the sections, each with its heading."""
    lines, tokens = text.splitlines(), _parser().parse(text)
    heads = [(t.map[0], t.map[1], t.tag, tokens[i + 1].content) for i, t in enumerate(tokens) if t.type == "heading_open" and t.map]
    heads = [h for h in heads if h[2] in ("h1", "h2")]
    ends = [*(start for start, *_ in heads[1:]), len(lines)]
    bodies = ["\n".join(lines[start:end]) for (_, start, *_), end in zip(heads, ends, strict=True)]
    if not heads or heads[0][2] != "h1":
        return "", "", []
    return heads[0][3], bodies[0], [(name, body) for (*_, name), body in zip(heads[1:], bodies[1:], strict=True)]


def _parser() -> MarkdownIt:
    """HTML in the file is shown as text."""
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _slug(title: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def _inline(text: str) -> str:
    """A heading without its marks."""
    (token,) = _parser().parseInline(text)
    return "".join(t.content for t in token.children or ())


def _html(text: str, ids: dict[str, str]) -> str:
    """ids: by anchor of the file, those that the page has."""
    parser = _parser()
    tokens = parser.parse(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    for token in tokens:
        if token.type == "inline":
            token.children = _alone(token.children or [], ids)
    html = parser.renderer.render(tokens, parser.options, {})
    return html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _alone(tokens: list[Token], ids: dict[str, str]) -> list[Token]:
    """Links to files, and images, become text: the page has no file beside it and loads nothing."""
    kept: list[Token] = []
    dropped = [False]  # by depth of links
    for token in tokens:
        if token.type == "link_open":
            href = str(token.attrGet("href"))
            inside = ids.get(href.removeprefix("#")) if href.startswith("#") else None
            if inside:
                token.attrSet("href", f"#{inside}")
            dropped.append(not inside and not href.startswith(("https://", "http://")))
            if dropped[-1]:
                continue
        if token.type == "link_close" and dropped.pop():
            continue
        if token.type == "image":
            token = Token("text", "", 0, content=token.content)
        kept.append(token)
    return kept
