"""The wheel with the packages that a trained model needs and no others: what `pip install birq` gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from recognisers import front_end, sweep, untrained

ROOT = Path(__file__).resolve().parent.parent


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


def installed(extras: Sequence[str], folder: Path) -> Path:
    """A folder for Python's path with these packages and what they bring, as links, and no other package."""
    site = folder / "-".join(["site", *extras])
    if site.is_dir():
        return site
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = project["dependencies"] + [need for extra in extras for need in project["optional-dependencies"][extra]]
    site.mkdir()
    for name in closure(needs):
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another platform
            continue
        for top in {f.parts[0] for f in package.files or () if f.parts[0] != ".." and f.parts[0] != "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    return site


def run(wheel: Path, cwd: Path, script: str, extras: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    start = f"import sys\nsys.path[:0] = {[str(wheel), str(installed(extras, wheel.parent))]!r}\n"
    return subprocess.run([sys.executable, "-I", "-S", "-c", start + script], cwd=cwd, capture_output=True, text=True, check=False)


def birq(wheel: Path, cwd: Path, *given: str, extras: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return run(wheel, cwd, f"from birq.__main__ import main\nsys.exit(main({list(given)!r}))", extras)


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


@pytest.mark.parametrize(("rate", "channels", "name"), [(8000, 1, "a.wav"), (44100, 2, "a.flac"), (48000, 1, "a.ogg"), (22050, 2, "a.mp3")])
def test_every_rate_is_read_with_these_packages_alone(wheel: Path, tmp_path: Path, rate: int, channels: int, name: str) -> None:
    """Resampling too; the text is that of all packages."""
    model = untrained(tmp_path / "birq-0", front_end())
    soundfile.write(tmp_path / name, np.stack([sweep(1.5, rate)] * channels, axis=1), rate)
    said = birq(wheel, tmp_path, "transcribe", name, "--model", str(model), "--greedy")
    assert said.returncode == 0, said.stderr
    here = subprocess.run(
        [sys.executable, "-m", "birq", "transcribe", name, "--model", str(model), "--greedy"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert said.stdout == here.stdout and said.stdout.strip()


@pytest.mark.parametrize(("extra", "file"), [("onnx", "model.onnx"), ("hf", "huggingface/modeling_birq.py")])
def test_an_export_needs_its_extra_alone(wheel: Path, tmp_path: Path, extra: str, file: str) -> None:
    """Without it, one line says what to install."""
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "hf": ("transformers",)}[extra]:
        pytest.importorskip(package)
    model = untrained(tmp_path / "birq-0", front_end())
    said = birq(wheel, tmp_path, "export", "out", "--model", str(model), f"--{extra}")
    assert said.returncode == 2 and said.stderr.count("\n") == 1 and f"birq[{extra}]" in said.stderr, said.stderr
    said = birq(wheel, tmp_path, "export", "out", "--model", str(model), f"--{extra}", extras=[extra])
    assert said.returncode == 0 and (tmp_path / "out" / file).is_file(), said.stderr


def test_what_is_missing_is_named(wheel: Path, tmp_path: Path) -> None:
    """A verb of the pipeline says what to install, in one line."""
    copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    said = birq(wheel, tmp_path, "compare")
    assert said.returncode == 2 and said.stderr.count("\n") == 1 and "pip install 'birq[pipeline]'" in said.stderr, said.stderr
