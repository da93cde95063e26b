"""docs/inputs.md, downloads.md, corpora.md, decoding.md: tables of what the code makes of inputs and of servers, and of what it holds.

`python tests/inputs_page.py` writes them; tests compare. With names of tables, it writes those alone.
"""

from __future__ import annotations

import importlib
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLES = {  # name in its page -> page, maker
    "audio": ("inputs.md", "odd_files.audio_table"),
    "tables": ("inputs.md", "odd_files.lines_table"),
    "texts": ("inputs.md", "odd_texts.table"),
    "faults": ("downloads.md", "server_faults.faults_table"),
    "archives": ("downloads.md", "server_faults.archives_table"),
    "sizes": ("corpora.md", "corpora_tables.sizes"),
    "rules": ("corpora.md", "corpora_tables.rules"),
    "ngrams": ("decoding.md", "corpora_tables.published"),
}


def visible(text: str) -> str:
    """The text with spaces, controls, accents of their own and other characters that a page does not show as ⟨U+XXXX⟩."""

    def one(char: str) -> str:
        category = unicodedata.category(char)
        hidden = category[0] in "CZ" or 0x0300 <= ord(char) <= 0x036F or 0xFE00 <= ord(char) <= 0xFE0F
        return f"⟨U+{ord(char):04X}⟩" if hidden and char != " " else char

    return "".join(map(one, text))


def code(text: str) -> str:
    """A cell's text as code, whatever signs of Markdown it holds."""
    text = visible(text).replace("|", "\\|")
    if not text:
        return "(nothing)"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of finished cells."""
    lines = [list(header), None, *(list(r) for r in rows)]
    return "\n".join("|---" * len(lines[0]) + "|" if r is None else f"| {' | '.join(r)} |" for r in lines)


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->\n", f"\n<!-- {name}:end -->"


def on_page(name: str) -> str:
    """The table as the page has it."""
    begin, end = _marks(name)
    return (DOCS / TABLES[name][0]).read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]


def made(name: str) -> str:
    """The table as the code makes it now."""
    module, _, function = TABLES[name][1].partition(".")
    return getattr(importlib.import_module(module), function)()


def write(name: str, table: str) -> None:
    """Put a table between its marks."""
    begin, end = _marks(name)
    page = DOCS / TABLES[name][0]
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}{table}{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    for name in sys.argv[1:] or TABLES:
        write(name, made(name))
