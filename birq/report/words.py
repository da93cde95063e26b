"""Numbers and lists as text."""

from __future__ import annotations

from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def sentence_start(text: str) -> str:
    return text[0].upper() + text[1:]


def counted(n: int, unit: str) -> str:
    """`1 speaker`, `2,500 utterances`."""
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of two rates, given as a fraction, in signed percentage points; a second decimal where the first would hide the sign."""
    if value is None:
        return "–"
    return f"{100 * value:+.{2 if 0 < abs(100 * value) < 0.05 else 1}f}".replace("-", "−")


def amount(hours: float) -> str:
    """`12 min` or `4.2 h`."""
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"


def duration(seconds: float) -> str:
    """`8.2 s`, `3.1 min`, `5.2 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
