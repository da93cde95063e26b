"""One store, two users: two numbers without names, in processes of their own, on the toy stages. Only root can become them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy import edit, provenance

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a test as two other users")]

ANN, BEN, EVE, GROUP = 61001, 61002, 61003, 61100  # Eve is not in the group
FIRST = ("batch_seconds: 240.0", "batch_seconds: 120.0")  # a change of the params of `first`
# what toy.py needs is imported before: the Python of the tests may lie where only root may go
BECOME = """
import os, sys
uid, groups, umask = int(sys.argv[1]), [int(g) for g in sys.argv[2].split(",") if g], int(sys.argv[3], 8)
sys.argv[:] = ["toy.py", *sys.argv[4:]]
sys.path.insert(0, "")
import toy
from birq.pipeline import dag, environment, references, sharing, stage, store, verify, why
from birq.settings import params
environment.environment(), params.load()  # and the codecs that reading takes
os.setgroups(groups), os.setgid(uid), os.setuid(uid), os.umask(umask)
sys.exit(toy.main())
"""


@dataclass
class User:
    """A user with a clone: a folder with params.yaml and the toy stages."""

    uid: int
    clone: Path
    env: dict[str, str]
    umask: str

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        groups = "" if self.uid == EVE else str(GROUP)
        command = [sys.executable, "-c", BECOME, str(self.uid), groups, self.umask, *args]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.clone, env=self.env | env, **streams)

    def toy(self, *args: str, status: int = 0, **env: str) -> str:
        """Run toy.py; what it says."""
        process = self.start(*args, **env)
        said = "".join(process.communicate(timeout=120))
        assert process.returncode == status and "Traceback" not in said, said
        return said


@dataclass
class Place:
    """A folder that all users may enter."""

    root: Path
    store: Path
    env: dict[str, str]

    def make_store(self, mode: int, owner: int = ANN) -> None:
        self.store.mkdir()
        os.chown(self.store, owner, GROUP)
        os.chmod(self.store, mode)

    def user(self, uid: int, umask: str = "022") -> User:
        clone = self.root / f"clone-{uid}"
        clone.mkdir()
        for source in ("params.yaml", "tests/toy.py"):
            shutil.copy(Path(__file__).parents[1] / source, clone)
        for path in (clone, *clone.iterdir()):
            os.chown(path, uid, uid)
        return User(uid, clone, self.env | {"HOME": str(clone)}, umask)

    def keys(self, stage: str = "first") -> set[str]:
        return {p.name for p in (self.store / stage).iterdir() if p.is_dir() and not p.name.startswith(".")}


@pytest.fixture
def place(environment: dict[str, str]) -> Iterator[Place]:
    root = Path(tempfile.mkdtemp(prefix="birq-store-"))
    os.chmod(root, 0o755)
    made = Place(root, root / "store", environment | {"BIRQ_STORE": str(root / "store")})
    try:
        probe = made.user(1)
        process = probe.start("why", "first")
        said = process.communicate(timeout=120)[1]
        if process.returncode:
            pytest.skip(f"another user cannot run this checkout or enter {root}: {said[-500:]}")
        shutil.rmtree(probe.clone)
        yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


def check_rights(store: Path) -> None:
    """All that was made in the store belongs to its group, which may read it; others may what they may with the store's folder."""
    root = store.stat().st_mode
    for path in store.rglob("*"):
        have = path.stat()
        assert have.st_gid == GROUP, path
        assert not have.st_mode & 0o007 & ~root, path
        if path.is_dir():
            assert have.st_mode & 0o2070 == 0o2070, path
        elif path.suffix == ".lock":
            assert have.st_mode & 0o060 == 0o060, path
        else:
            assert have.st_mode & 0o040 and not have.st_mode & 0o222, path


@pytest.mark.parametrize(("umask", "mode"), [("022", 0o2775), ("002", 0o2770), ("077", 0o2775), ("077", 0o775)])
def test_what_one_user_makes_the_other_uses(place: Place, umask: str, mode: int) -> None:
    """The store's folder gives the rights, not the umask of whoever comes first: each restores and adds to what the other made."""
    place.make_store(mode)
    ann, ben = place.user(ANN, umask), place.user(BEN, umask)
    assert "first: computing" in ann.toy("first")
    assert "first: restored" in ben.toy("first")
    assert "second: computing" in ben.toy("second")
    assert "second: restored" in ann.toy("second")
    edit(ben.clone / "params.yaml", *FIRST)
    assert "first: computing" in ben.toy("first")
    edit(ann.clone / "params.yaml", *FIRST)
    assert "first: restored" in ann.toy("first")
    check_rights(place.store)
    assert "3 artifacts" in ben.toy("store", "ls") and "every hash holds" in ann.toy("store", "verify")
    ann.toy("second"), ben.toy("second")
    assert "every hash and every key holds" in ann.toy("verify") and "every hash and every key holds" in ben.toy("verify")


def test_each_replaces_what_the_other_made(place: Place) -> None:
    """A damaged artifact is made again by whoever meets it; what a killed run left beside it is in nobody's way."""
    place.make_store(0o2770)
    ann, ben = place.user(ANN, "077"), place.user(BEN, "077")
    ann.toy("first")
    key = provenance(ann.clone, "first")["key"]
    left = place.store / "first" / f".{key}.0123"
    left.mkdir()
    (left / "half").write_text("x")
    os.chmod(left, 0o700)
    os.chown(left, ANN, ANN)
    damaged = place.store / "first" / key / "deep" / "text"
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(b"?" * len(content))
    said = ben.toy("first")
    assert "the store is damaged" in said and "first: computing" in said
    assert damaged.read_bytes() == content and damaged.stat().st_uid == BEN and left.exists()
    shutil.rmtree(place.store / "first" / key)
    assert "first: up to date" in ann.toy("first"), "hers is taken into the store"
    assert damaged.stat().st_uid == ANN and not left.exists()
    check_rights(place.store)


def test_data_files_are_links_where_allowed_else_copies(place: Place) -> None:
    """Linux refuses a link to another user's read-only file; a copy holds the same bytes, and is found to be in place."""
    place.make_store(0o2775)
    ann, ben = place.user(ANN), place.user(BEN)
    ann.toy("first"), ben.toy("first")
    stored = place.store / "first" / provenance(ann.clone, "first")["key"] / "deep" / "text"
    hers, his = (u.clone / "data" / "first" / "deep" / "text" for u in (ann, ben))
    assert os.path.samefile(stored, hers) and his.read_bytes() == stored.read_bytes()
    protected = Path("/proc/sys/fs/protected_hardlinks")
    assert os.path.samefile(stored, his) != (protected.exists() and protected.read_text().strip() == "1")
    assert "first: up to date" in ben.toy("first")


def test_the_other_user_waits_for_the_lock(place: Place) -> None:
    """Both run at once: one computes, the other waits for the lock that the first has made."""
    place.make_store(0o2775)
    ann, ben = place.user(ANN, "077"), place.user(BEN, "077")
    first = ann.start("first", TOY_SLEEP="1")
    while not list(place.store.glob("first/*.lock")) and first.poll() is None:
        time.sleep(0.02)
    said = ben.toy("first")
    assert "first: computing" in first.communicate(timeout=120)[1]
    assert f"waiting: process {first.pid} on " in said and "first: restored" in said


def test_a_lock_that_may_only_be_read_holds(place: Place) -> None:
    """A store from before it was shared has locks that only their maker may write."""
    place.make_store(0o2775)
    ann, ben = place.user(ANN), place.user(BEN)
    ann.toy("first")
    (lock,) = place.store.glob("first/*.lock")
    os.chmod(lock, 0o644)
    assert "first: restored" in ben.toy("first")


# ---- refusals


def test_a_store_of_another_user_says_whose_it_is(place: Place) -> None:
    """Where only its owner may write, others restore; what it lacks is refused before it is computed, with the true reason."""
    place.make_store(0o755)
    ann, ben = place.user(ANN), place.user(BEN)
    ann.toy("first")
    assert "first: restored" in ben.toy("first")
    said = ben.toy("second", status=2)
    assert "writing refused" in said and f"{place.store} belongs to user {ANN}, group {GROUP}, mode drwxr-xr-x" in said
    assert f"chmod -R g+rX {place.store}" in said and "BIRQ_STORE" in said and "read-only" not in said
    edit(ben.clone / "params.yaml", *FIRST)
    said = ben.toy("first", status=2)
    assert f"{place.store / 'first'} belongs to user {ANN}" in said and "computing" not in said


def test_what_may_not_be_read_is_named_and_left_alone(place: Place) -> None:
    """An artifact that cannot be judged is not damaged: it is neither removed nor computed again."""
    place.make_store(0o2775)
    ann, ben = place.user(ANN), place.user(BEN)
    ann.toy("first")
    folder = place.store / "first" / provenance(ann.clone, "first")["key"]
    for hidden in (folder / "provenance.json", folder / "deep" / "text", folder, place.store / "first"):
        mode = stat.S_IMODE(hidden.stat().st_mode)
        os.chmod(hidden, 0o600 if hidden.is_file() else 0o700)
        said = ben.toy("first", status=2)
        assert "reading refused" in said and f"{hidden} belongs to user {ANN}" in said and "chmod -R g+rX" in said, said
        said = ben.toy("store", "verify", status=2)
        assert "1 of 1 artifacts" in said and "cannot be checked by this user" in said and str(hidden) in said
        os.chmod(hidden, mode)
    assert len(place.keys()) == 1
    assert "first: restored" in ben.toy("first")


@pytest.mark.parametrize("hidden", ["data/first", "data/first/provenance.json", "data/first/deep", "data/first/deep/text", "data"])
def test_what_may_not_be_read_in_the_workspace_is_named(place: Place, hidden: str) -> None:
    """Every verb says which file or folder it may not read, and its owner can mend that."""
    place.make_store(0o2775)
    ann = place.user(ANN)
    ann.toy("first"), ann.toy("second")
    path = ann.clone / hidden
    if path.name == "text":  # a link to the store's
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    os.chown(path, ANN, ANN)
    os.chmod(path, 0)
    for command in (["second"], ["verify"], ["why", "second"]):
        said = ann.toy(*command, status=0 if command[0] == "why" else 2)
        assert "reading refused" in said and f"{path} belongs to user {ANN}" in said and "chmod" in said


def test_who_is_not_in_the_group_is_told_so(place: Place) -> None:
    """Rights that the group has and the user has not are his to get, not the owner's to give."""
    place.make_store(0o2775)
    ann, eve = place.user(ANN), place.user(EVE)
    ann.toy("first")
    assert "first: restored" in eve.toy("first")
    said = eve.toy("second", status=2)
    assert "writing refused" in said and f"newgrp {GROUP}" in said
    os.chmod(place.store, 0o2770)
    said = eve.toy("first", status=2)
    assert "reading refused" in said and f"newgrp {GROUP}" in said and f"{place.store} belongs to user {ANN}" in said


# ---- gc


def test_gc_of_another_users_artifact(place: Place) -> None:
    """Whoever cleans up removes what nobody refers to, whoever made it; the sum is that of what is gone."""
    place.make_store(0o2775)
    ann, ben = place.user(ANN), place.user(BEN)
    ann.toy("first"), ben.toy("first")
    old = place.keys()
    edit(ann.clone / "params.yaml", *FIRST), edit(ben.clone / "params.yaml", *FIRST)
    ann.toy("first")
    assert "0 artifacts" in ben.toy("store", "gc") and old < place.keys()
    ben.toy("first")
    assert "1 artifacts" in ben.toy("store", "gc") and not old & place.keys()


def test_gc_says_what_stays_and_whose_it_is(place: Place) -> None:
    """In a folder with the sticky bit only the owner may remove."""
    place.make_store(0o3775)
    ann, ben = place.user(ANN), place.user(BEN)
    os.chown(place.store, 0, GROUP)
    ann.toy("first"), ben.toy("first")
    old = place.keys()
    for user in (ann, ben):
        edit(user.clone / "params.yaml", *FIRST)
        user.toy("first")
    said = ben.toy("store", "gc")
    assert "0 artifacts, 0.0 MiB" in said and f"1 stay, because this user may not remove them (1 of user {ANN})" in said
    assert old < place.keys()
    assert "1 artifacts" in ann.toy("store", "gc") and not old & place.keys()


@pytest.mark.parametrize("hidden", ["data", "data/first", "data/first/provenance.json", "dvc.lock", "."])
def test_gc_refuses_while_it_cannot_see_who_needs_what(place: Place, hidden: str) -> None:
    """A file of another clone that may not be read may refer to anything."""
    place.make_store(0o2775)
    ann, ben = place.user(ANN), place.user(BEN)
    ann.toy("first")
    (ann.clone / "dvc.lock").write_text("stages: {}")
    edit(ben.clone / "params.yaml", *FIRST)
    ben.toy("first")
    path = ann.clone / hidden
    os.chown(path, ANN, ANN)
    os.chmod(path, 0o700)
    said = ben.toy("store", "gc", status=2)
    assert "nothing was removed" in said and "reading refused" in said and f"{path.resolve()} belongs to user {ANN}" in said
    assert "not all can be seen" in ben.toy("store", "ls") and len(place.keys()) == 2


def test_gc_refuses_where_git_does_not_read_the_other_clone(place: Place) -> None:
    """git reads no repository of another user unless told to; its branches may refer to anything."""
    place.make_store(0o2775)
    ann, ben = place.user(ANN), place.user(BEN)
    ann.toy("first"), ben.toy("first")
    subprocess.run(["git", "init", "-q", "."], cwd=ann.clone, check=True)
    for path in (ann.clone / ".git", *(ann.clone / ".git").rglob("*")):
        os.chown(path, ANN, ANN)
    said = ben.toy("store", "gc", status=2)
    assert "nothing was removed" in said and "safe.directory" in said and str(ann.clone) in said
    subprocess.run(["git", "config", "--file", ben.clone / ".gitconfig", "safe.directory", str(ann.clone)], check=True)
    assert "0 artifacts" in ben.toy("store", "gc")
