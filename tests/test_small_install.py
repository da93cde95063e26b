"""The wheel with the packages that a trained model needs and no others: what `pip install birq` gives."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from recognisers import front_end, sweep, untrained

ROOT = Path(__file__).resolve().parent.parent
# refuses every package but those given, as if it were not installed, and runs the command line
ONLY = """
import sys
from importlib import metadata
allowed, owners = set({allowed!r}), metadata.packages_distributions()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        names = {{n.lower().replace("_", "-").replace(".", "-") for n in owners.get(top, [])}}
        if names and not names & allowed and top != "birq":
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {wheel!r})
"""


def closure(names: list[str]) -> set[str]:
    """The packages that those of pyproject.toml bring along here."""
    found: set[str] = set()
    left = [Requirement(n) for n in names]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            left += map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:  # of another platform
            continue
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this code, unpacked."""
    pytest.importorskip("setuptools", reason="setuptools is missing, so no wheel can be built")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copytree(ROOT / "birq", source / "birq", ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("birq-*.whl")
    with zipfile.ZipFile(path) as packed:
        packed.extractall(out / "unpacked")
    return out / "unpacked"


def run(wheel: Path, cwd: Path, script: str) -> subprocess.CompletedProcess[str]:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    start = ONLY.format(allowed=sorted(closure(needs)), wheel=str(wheel))
    return subprocess.run([sys.executable, "-I", "-c", start + script], cwd=cwd, capture_output=True, text=True, check=False)


def birq(wheel: Path, cwd: Path, *given: str) -> subprocess.CompletedProcess[str]:
    return run(wheel, cwd, f"from birq.__main__ import main\nsys.exit(main({list(given)!r}))")


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    here = {p.relative_to(ROOT) for p in (ROOT / "birq").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    there = {p.relative_to(wheel) for p in (wheel / "birq").rglob("*") if p.is_file()}
    assert here == there and {p.suffix for p in there} == {".py", ".html", ".css", ".js"}


def test_a_model_is_used_with_its_packages_alone(wheel: Path, tmp_path: Path) -> None:
    """transcribe, birq.load and export need neither the pipeline's packages nor a clone."""
    model = untrained(tmp_path / "birq-0", front_end())
    soundfile.write(tmp_path / "a.wav", sweep(1.5), 16000)
    said = birq(wheel, tmp_path, "transcribe", "a.wav", "--model", str(model), "-f", "json")
    assert said.returncode == 0, said.stderr
    text = json.loads(said.stdout)["text"]
    assert text
    script = f"""
import birq, soundfile
assert birq.__file__.startswith({str(wheel)!r})
samples, rate = soundfile.read("a.wav", dtype="float32")
model = birq.load({str(model)!r}, False)
print(model.transcribe(samples, rate).text, "|", model.encode(samples, rate).shape)
"""
    said = run(wheel, tmp_path, script)
    assert said.returncode == 0 and said.stdout.startswith(f"{text} | ("), said.stderr
    said = birq(wheel, tmp_path, "export", "out", "--model", str(model))
    assert said.returncode == 0 and (tmp_path / "out" / "model.safetensors").is_file(), said.stderr
    assert birq(wheel, tmp_path, "transcribe", "a.wav", "--model", "out").stdout.strip().endswith(text)


def test_what_is_missing_is_named(wheel: Path, tmp_path: Path) -> None:
    """A verb of the pipeline says what to install, in one line."""
    copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    said = birq(wheel, tmp_path, "compare")
    assert said.returncode == 2 and said.stderr.count("\n") == 1 and "pip install 'birq[pipeline]'" in said.stderr, said.stderr
