"""Which backups go, and what goes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.backups import Notes, Silence, Site, blob_files, listing, read_blobs

from zeolith.admin.backup import retention
from zeolith.admin.backup.choosing import choose_newest
from zeolith.admin.backup.restoring import Target, restore
from zeolith.admin.backup.retention import Retention, apply_retention, made_at
from zeolith.admin.backup.verifying import verify


@pytest.fixture
def kept(site: Site) -> Site:
    """Three chains: blobs 1 to 3; blobs 1 and 3 with 4; the same with an incremental one of 5."""
    site.backup()
    site.remove(2)
    site.pack()
    site.commit(4)
    site.backup()
    site.backup(full=True)
    site.commit(5)
    site.backup()
    return site


@pytest.mark.parametrize(
    ("rule", "age", "gone"),
    [
        (Retention(), 100, 0),
        (Retention(chains=1), 0, 2),
        (Retention(chains=2), 0, 1),
        (Retention(chains=3), 0, 0),
        (Retention(chains=9), 0, 0),
        (Retention(days=5), 4, 0),
        (Retention(days=5), 6, 2),
        (Retention(chains=2, days=5), 6, 1),
        (Retention(chains=1, days=5), 4, 0),
        (Retention(days=0), 1000, 2),
    ],
)
def test_what_is_chosen(kept: Site, rule: Retention, age: float, gone: int) -> None:
    chains = kept.repository.read_chains()
    assert [len(chain) for chain in chains] == [1, 1, 2]
    now = made_at(chains[-1][-1]) + age * 86400
    assert rule.choose(chains, now) == chains[:gone]


def test_one_young_backup_keeps_all_that_it_continues(kept: Site) -> None:
    chains = [kept.repository.read_chains()[-1], kept.repository.read_chains()[-1]]
    now = made_at(chains[0][0]) + 86400
    young = made_at(chains[0][1]) + 86400
    assert now < young
    assert Retention(days=1).choose(chains, (now + young) / 2) == []


def test_old_backups_go_with_their_blobs(kept: Site) -> None:
    repository = kept.repository
    assert len(blob_files(repository.path / "blobs")) == 5
    notes = Notes()
    apply_retention(repository, Retention(chains=2), notes)
    assert [len(chain) for chain in repository.read_chains()] == [1, 2]
    assert "removing the full backup" in notes
    assert "removed 1 blobs that no other backup needs" in notes
    assert blob_files(repository.path / "blobs") == kept.blob_files()
    names = {manifest.name for chain in repository.read_chains() for manifest in chain}
    for name in listing(repository.path):
        if name.startswith("20"):
            assert Path(name).stem in names


def test_what_is_kept_can_be_restored(kept: Site, tmp_path: Path) -> None:
    repository = kept.repository
    apply_retention(repository, Retention(chains=1), Silence())
    choice = choose_newest(repository.read_chains())
    assert verify(repository, choice, Silence()) == []
    target = Target(path=tmp_path / "R.fs", blob_dir=tmp_path / "R")
    restore(repository, choice, target, Silence())
    assert read_blobs(tmp_path / "R.fs", tmp_path / "R").keys() == {1, 3, 4, 5}
    kept.commit(6)
    assert kept.backup().kind == "incremental"


def test_a_dry_run_only_says_it(kept: Site) -> None:
    before = listing(kept.repository.path)
    notes = Notes()
    apply_retention(kept.repository, Retention(chains=1), notes, dry_run=True)
    assert len(notes.lines) == 2
    assert "would remove the full backup" in notes
    assert listing(kept.repository.path) == before
    apply_retention(kept.repository, Retention(chains=3), notes, dry_run=True)
    assert "there is nothing to remove" in notes


def test_a_removal_that_is_cut_short_is_completed(
    kept: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unplug(path: Path) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("zeolith.admin.backup.repository.sync_directory", unplug)
        with pytest.raises(SystemExit):
            apply_retention(kept.repository, Retention(chains=2), Silence())
    assert [len(chain) for chain in kept.repository.read_chains()] == [1, 2]
    kept.commit(6)
    kept.backup()
    assert blob_files(kept.repository.path / "blobs") == kept.blob_files()
    assert len(list(kept.repository.path.glob("*.fs"))) == 2


def test_the_module_says_when_a_backup_was_made(kept: Site) -> None:
    manifest = kept.repository.read_chains()[0][0]
    assert retention.made_at(manifest) % 60 == int(manifest.name[-2:])
