"""A small copy of YODAS2 through the whole DAG, from a hub to a word error rate, its audio streamed, under both tools."""

from __future__ import annotations

from pathlib import Path

import pytest
import yodas_copy
from faulty_server import serving
from tinyproject import Project

from birq.pipeline import artifact
from birq.settings import presets

pytestmark = pytest.mark.pipeline

SAID = ("Abc, def.", "cab bad fed")
PARAMS = """
run:
  pretrain_corpora: [yodas]
  finetune_corpora: [yodas]
corpora:
  yodas:
    kind: yodas
    root: raw/yodas
    download: true
    mirrors: ["{mirror}"]
    subsets: [en000]
    max_disk_gb: 0.01
features:
  min_seconds: 0.1
  max_quarantined_share: 0.5
"""


def test_shards_go_from_a_hub_to_a_word_error_rate(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path / "project")
    with serving() as server:
        yodas_copy.serve(server, [yodas_copy.shard(f"en000/{i:08d}", {f"{v}{i}": 4.0 for v in yodas_copy.VIDEOS}, SAID) for i in range(3)])
        (project.root / "presets" / "streamed.yaml").write_text(PARAMS.format(mirror=server.url(yodas_copy.HUB)))
        presets.apply("streamed", [], project.root / "params.yaml")
        project.snakemake()
        asked = [name for name, _ in server.asked if name.startswith(yodas_copy.HUB)]
    assert sorted(asked) == sorted(name for name in server.files if name.startswith(yodas_copy.HUB)), "each file once"
    assert not [p for p in project.root.rglob("*") if p.name.endswith(".tar.gz") or (p.suffix == ".wav" and p.name.startswith("Y"))]
    project.nothing_to_do()
    assert "computing" not in {said.what for said in project.dvc().said()}
    project.nothing_to_do()
    project.verify()
    record = artifact.read_provenance(project.root / "data" / "features" / "yodas")
    assert record["notes"]["archives"] == 3 and "birq.stages.streamed_features" in record["parts"]["code"]
    (project.root / "raw").rename(tmp_path / "gone")
    (project.root / "raw").mkdir()
    for name in ("yodas.lock.json", "yodas.hours.json"):
        if (tmp_path / "gone" / name).exists():
            (tmp_path / "gone" / name).rename(project.root / "raw" / name)
    (project.root / "data" / "corpus" / "yodas").rename(tmp_path / "corpus")
    assert {said.what for said in project.birq("corpus", "--corpus", "yodas").said()} == {"restored"}, "the lock file tells the key"
