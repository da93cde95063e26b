"""The page's templates: jinja2, everything escaped that is not marked as safe."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from birq.report.words import amount, counted, duration, listed, percent, points, sentence_start


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return percent(value, 0)


def _span(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f}"


def _point_span(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{points(low)} to {points(high)}"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _plain(value: object) -> object:
    return "–" if value is None else value


def environment() -> Environment:
    """Filters turn numbers into text: None is a dash, rates are fractions."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (amount, counted, duration, listed, percent, points, sentence_start)
    env.filters |= {f.__name__: f for f in functions}
    env.filters |= {"number": _number, "share": _share, "p": _p}
    env.globals |= {"span": _span, "point_span": _point_span}
    return env
