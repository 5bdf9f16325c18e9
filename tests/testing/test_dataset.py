import tarfile
import unittest
from typing import ClassVar

import pytest

from recsys.data.dataset import Dataset
from recsys.data.source import GivenSplits, SequentialSplits, Source
from recsys.schema import Categorical, Label, Schema
from recsys.testing import dataset as suite
from recsys.testing.dataset import DatasetConformance, shared_pack, split_sources


def test_a_missing_pack_skips_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_SHARED_DATA", str(tmp_path))
    with pytest.raises(unittest.SkipTest, match=r"no nothing.tar.xz in .*RECSYS_SHARED_DATA"):
        shared_pack("nothing", "no_such_folder")


def test_a_pack_is_unpacked_once(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.txt").write_text("1")
    with tarfile.open(tmp_path / "pack.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "inside", "folder")
    monkeypatch.setenv("RECSYS_SHARED_DATA", str(tmp_path))
    monkeypatch.setattr(suite, "__file__", str(tmp_path / "repo" / "recsys" / "testing" / "x.py"))
    folder = shared_pack("pack", "folder")
    assert folder == tmp_path / "repo" / ".data" / "folder"
    (folder / "a.txt").write_text("2")
    assert (shared_pack("pack", "folder") / "a.txt").read_text() == "2"


def test_split_sources():
    a, b = (Source(files=(name,), format="csv") for name in "ab")
    assert split_sources(GivenSplits(train=a, test=b)) == [a, b]
    assert split_sources(SequentialSplits(source=a)) == [a]


class _Careless(Dataset):
    """Changes its files at every call and says nothing of its origin."""

    class Config(Dataset.Config):
        """Where."""

        path: str

    def schema(self):
        return Schema(features=(Categorical(name="a"),), labels=(Label(name="y"),))

    def splits(self, cache_dir):
        file = cache_dir / f"{len(list(cache_dir.iterdir()))}.csv" if cache_dir.exists() else None
        file = file or cache_dir / "0.csv"
        cache_dir.mkdir(exist_ok=True)
        file.write_text("a,y\nx,1\ny,0\n")
        return GivenSplits(train=Source(files=(str(file),), format="csv"))


class _Suite(DatasetConformance):
    dataset = _Careless
    counts: ClassVar = {"train": 3}

    def config(self, folder):
        return _Careless.Config(path=str(folder))


@pytest.mark.parametrize("check", ["test_splits_are_stable", "test_prepares_with_the_right_counts"])
def test_the_suite_finds_faults(tmp_path, check):
    with pytest.raises(AssertionError):
        getattr(_Suite(), check)(tmp_path)


def test_the_suite_wants_licence_and_traps():
    with pytest.raises(AssertionError):
        _Suite().test_says_where_it_comes_from()
