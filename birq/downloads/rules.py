"""How to download: where to ask, how often, how fast. None of it can change a byte, because checksums are pinned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from birq.settings.paths import expanded
from birq.settings.section import Downloads


@dataclass(frozen=True)
class Rules:
    """Limits and switches of a download."""

    mirrors: tuple[str, ...] = ()  # addresses and folders that hold the archives; asked before the archives' own addresses
    offline: bool = False  # only folders are asked
    at_once: int = 3  # archives
    bytes_per_second: float = 0.0  # of all archives together; 0: no limit
    stall_seconds: float = 60.0  # without a byte, or nearly so
    tries: int = 4  # requests to one mirror that bring nothing
    first_wait_seconds: float = 1.0  # before the second try; twice as long before each other one
    longest_wait_seconds: float = 300.0  # a server that asks for more is left

    @classmethod
    def of(cls, section: Downloads) -> Rules:
        """The rules in a section of params.yaml."""
        return cls(
            mirrors=tuple(section.mirrors),
            offline=section.offline,
            at_once=getattr(section, "archives_at_once", cls.at_once),
            bytes_per_second=section.megabytes_per_second * 1e6,
            stall_seconds=section.stall_seconds,
            tries=section.tries,
        )

    def wait_seconds(self, failed: int, asked_seconds: float | None) -> float:
        """Before another try after so many failed ones; what the server asks for comes first."""
        return self.first_wait_seconds * 2 ** (failed - 1) if asked_seconds is None else asked_seconds

    def addresses(self, name: str, urls: tuple[str, ...]) -> list[str]:
        """Where the network is asked for a file, in this order."""
        own = [f"{m.rstrip('/')}/{name}" for m in self.mirrors if _remote(m)]
        return [] if self.offline else list(dict.fromkeys((*own, *urls)))

    def copies(self, name: str, root: Path) -> list[Path]:
        """Files of that name in `root` and in the mirrors that are folders."""
        folders = [root, *(expanded(m) for m in self.mirrors if not _remote(m))]
        return [folder / name for folder in folders if (folder / name).is_file()]


def _remote(mirror: str) -> bool:
    return mirror.startswith(("http://", "https://"))
