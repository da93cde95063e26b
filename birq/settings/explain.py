"""What pydantic says about params.yaml, in terms of its keys."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

SUCCESSORS = {  # keys that are no more, and what to write now
    "birq.gumbel_noise": "it is birq.noise now: gumbel for true, none for false, or reversed for the sign as printed in eq. 4",
}


def explain(path: Path, error: ValidationError, root: type[BaseModel]) -> str:
    """A line for each error: key, value, reason and way out. `root` knows the legal keys."""
    lines = [f"{path}: {error.error_count()} value(s) cannot be used"]
    for e in error.errors():
        # the discriminator's tag is pydantic's, not the user's
        parts = [str(p) for i, p in enumerate(e["loc"]) if not (i == 2 and e["loc"][0] == "corpora")]
        key, message, value = ".".join(parts), e["msg"].removeprefix("Value error, "), e["input"]
        if e["type"] == "extra_forbidden":
            close = difflib.get_close_matches(parts[-1], _known_keys(root, parts[:-1]), n=1)
            elsewhere = [f"{s}.{parts[-1]}" for s in ("random_projection", "birq") if parts[-1] in _known_keys(root, [s])]
            hint = SUCCESSORS.get(key) or (
                f"it is {elsewhere[0]} now" if elsewhere else f"did you mean {close[0]!r}?" if close else "remove it"
            )
            lines.append(f"  {key}: unknown key; {hint}")
        elif e["type"] == "missing":
            lines.append(f"  {key}: missing; `git show HEAD:params.yaml` shows the tracked one")
        elif isinstance(value, (dict, BaseModel)):
            lines.append(f"  {key + '.' if key else ''}{message}")
        else:
            lines.append(f"  {key}: {value!r} is not legal: {message}")
    return "\n".join(lines)


def _known_keys(root: type[BaseModel], parts: list[str]) -> list[str]:
    model: Any = root
    for part in parts:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {}))
