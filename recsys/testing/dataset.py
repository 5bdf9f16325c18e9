"""A suite that every data set passes, and where the shared packs of real data are.

Inherit the suite, say which class and how to configure it::

    class TestMine(DatasetConformance):
        dataset = Mine
        counts = {"train": 8, "valid": 1, "test": 1}

        def config(self, folder):
            write_small_files_in_the_real_format(folder)
            return Mine.Config(path=str(folder))

Stability: caller
"""

from __future__ import annotations

import os
import tarfile
import unittest
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.data.readers import resolve_files
from recsys.data.source import GivenSplits, Source, Splits
from recsys.schema import Schema
from recsys.testing.any_dataset import AnyDatasetConformance


def shared_pack(pack: str, folder: str) -> Path:
    """A pack of shared real data, unpacked into the git-ignored ``.data``.

    Packs are looked for in ``$RECSYS_SHARED_DATA``, else in ``shared/data`` beside the repository
    or any folder above it.

    Args:
        pack: Name of the archive, without ``.tar.xz``.
        folder: The folder it unpacks to.

    Raises:
        unittest.SkipTest: There is no such pack; pytest skips the test with the reason.
    """
    root = Path(__file__).resolve().parents[2]
    unpacked = root / ".data" / folder
    if unpacked.is_dir():
        return unpacked
    places = [parent / "shared" / "data" for parent in root.parents]
    if os.environ.get("RECSYS_SHARED_DATA"):
        places = [Path(os.environ["RECSYS_SHARED_DATA"])]
    for place in places:
        if (place / f"{pack}.tar.xz").is_file():
            with tarfile.open(place / f"{pack}.tar.xz") as archive:
                archive.extractall(unpacked.parent, filter="data")
            if unpacked.is_dir():
                return unpacked
    raise unittest.SkipTest(
        f"no {pack}.tar.xz in {', '.join(map(str, places))}; set RECSYS_SHARED_DATA to its folder"
    )


def split_sources(splits: Splits) -> list[Source]:
    """Every source that the splits name.

    Args:
        splits: Of any kind.
    """
    if isinstance(splits, GivenSplits):
        given = (splits.train, splits.valid, splits.test)
        return [source for source in given if source is not None]
    return [splits.source]


def positives(prepared: Prepared, task: int = 0) -> dict[str, int]:
    """Positive rows of every split.

    Args:
        prepared: Small enough to read one column at once.
        task: Which label.
    """
    name = prepared.schema.labels[task].name
    return {
        split: int(pq.read_table(prepared.path(split), columns=[name])[name].to_numpy().sum())
        for split in prepared.split_rows
    }


class DatasetConformance(AnyDatasetConformance[Dataset]):
    """What every data set must do. Inherit it in a test class; nothing here needs a network."""

    counts: ClassVar[dict[str, int]]
    """Rows by split, counted by hand in the files that `config` writes."""

    def test_schema_survives_json(self, tmp_path: Path) -> None:
        """Schema -> JSON -> Schema is equal, and nothing in it is fitted yet."""
        schema = self.made(tmp_path).schema()
        assert Schema.model_validate_json(schema.model_dump_json()) == schema
        assert all(feature.num_embeddings is None for feature in schema.keyed)

    def test_splits_are_stable(self, tmp_path: Path) -> None:
        """Asking twice gives the same files, which exist, and makes them once."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        first = data.splits(cache)
        files = [Path(f) for source in split_sources(first) for f in resolve_files(source)]
        times = [file.stat().st_mtime_ns for file in files]
        assert data.splits(cache) == first
        assert [file.stat().st_mtime_ns for file in files] == times

    def test_prepares_with_the_right_counts(self, tmp_path: Path) -> None:
        """The whole way to prepared files; no row is lost."""
        data = self.made(tmp_path)
        prepared = prepare(data.schema(), data.splits(tmp_path / "cache"), tmp_path / "prepared")
        assert prepared.split_rows == self.counts
        assert prepared.schema.keys == data.schema().keys
        assert all(rows > 2 for rows in prepared.schema.num_embeddings().values())
