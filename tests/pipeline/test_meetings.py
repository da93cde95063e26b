"""A small copy of AMI through the whole DAG, from a server to rates of headsets and of the distant microphone, under both tools."""

from __future__ import annotations

from pathlib import Path

import ami_copy
import pytest
from faulty_server import serving
from tinyproject import Project

from birq.pipeline import artifact
from birq.settings import presets

pytestmark = pytest.mark.pipeline

SPEAKERS = {m: ami_copy.SPEAKERS[m] for m in ("ES2002a", "ES2011a", "ES2004a")}
SAID = "Abc , def . <laugh> Fed ? Cab bad ."
PARAMS = """
run:
  pretrain_corpora: [ami]
  finetune_corpora: [ami]
corpora:
  ami:
    kind: ami
    root: raw/ami
    download: true
    mirrors: ["{mirror}"]
    microphones: [ihm, sdm]
    meetings: [ES2002a, ES2004a, ES2011a]
features:
  min_seconds: 0.1
  max_quarantined_share: 0.5
"""


def test_meetings_go_from_a_server_to_rates_of_each_microphone(fresh: Project, tmp_path: Path) -> None:
    """The first run downloads before the key is told, so what follows finds nothing to do."""
    project = fresh.copy(tmp_path / "project")
    with serving() as server:
        server.files = {Path(name).name: content for name, content in ami_copy.recordings(SPEAKERS).items()}
        server.files["ami_public_manual_1.6.2.zip"] = ami_copy.zipped(ami_copy.annotations(tmp_path / "packed", SPEAKERS, SAID))
        (project.root / "presets" / "meetings.yaml").write_text(PARAMS.format(mirror=server.url("").rstrip("/")))
        presets.apply("meetings", [], project.root / "params.yaml")
        project.snakemake()
        asked = len(server.asked)
    assert asked == 1 + 3 * 5, "each file once, and then the key is known"
    project.nothing_to_do()
    assert "computing" not in {said.what for said in project.dvc().said()}
    project.nothing_to_do()
    project.verify()
    head = next(line for line in project.birq("table", "--parts").text.splitlines() if line.startswith("method"))
    assert head.split()[-2:] == ["ihm", "sdm"]
    sources = artifact.read_provenance(project.root / "data" / "corpus" / "ami")["parts"]["sources"]
    (project.root / "raw" / "ami").rename(tmp_path / "gone")
    (project.root / "data" / "corpus" / "ami").rename(tmp_path / "corpus")
    assert {said.what for said in project.birq("corpus", "--corpus", "ami").said()} == {"restored"}, "the lock file tells the key"
    assert artifact.read_provenance(project.root / "data" / "corpus" / "ami")["parts"]["sources"] == sources
