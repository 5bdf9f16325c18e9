"""Prepared data on disk: what it holds, and the key under which it is cached.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from recsys.data.encoder import FeatureEncoder
from recsys.errors import DataError
from recsys.schema import Schema

VERSION = 1
"""Of the prepared files. Another version never meets an old cache."""
MANIFEST = "prepared.json"
QUARANTINE = "quarantine.parquet"

_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Prepared splits and the encoder that made them.

    Args:
        directory: Folder with ``<split>.parquet``, ``encoder/`` and ``prepared.json``.
        encoder: The fitted encoder.
        split_rows: Rows by split.
        counts: ``bad_rows`` (quarantined) and ``ignored_rows`` (by ``Label.ignore``).
        fingerprint: Hash of the raw data, the schema and the splits; not of paths or file times.
    """

    directory: Path
    encoder: FeatureEncoder
    split_rows: dict[str, int]
    counts: dict[str, int]
    fingerprint: str

    @property
    def schema(self) -> Schema:
        """The fitted schema."""
        return self.encoder.schema

    @property
    def quarantine(self) -> Path | None:
        """Parquet file with the rows set aside and why; None if there are none."""
        path = self.directory / QUARANTINE
        return path if path.exists() else None

    def path(self, split: str) -> Path:
        """Parquet file of a split.

        Args:
            split: ``train``, ``valid`` or ``test``.

        Raises:
            DataError: There is no such split.
        """
        if split not in self.split_rows:
            raise DataError(
                f"there is no split `{split}`; there are {sorted(self.split_rows)}. "
                "Give it a source or a share in the splits.",
                file=str(self.directory),
            )
        return self.directory / f"{split}.parquet"

    @classmethod
    def load(cls, directory: Path | str) -> Prepared:
        """Opens a prepared folder.

        Args:
            directory: Made by `recsys.data.prepare.prepare`.

        Raises:
            DataError: It is not one, or not of this version.
        """
        folder = Path(directory)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise DataError(
                f"not a prepared folder: {error}. Delete it and prepare the data again.",
                file=str(folder),
            ) from None
        if manifest["version"] != VERSION:
            raise DataError(
                f"expected version {VERSION} of prepared data, got {manifest['version']}. "
                "Prepare the data again with this release.",
                file=str(folder),
            )
        encoder = FeatureEncoder.load(folder / "encoder")
        rows, counts = manifest["split_rows"], manifest["counts"]
        return cls(folder, encoder, rows, counts, manifest["fingerprint"])

    def save_manifest(self) -> None:
        """Writes ``prepared.json``, which makes the folder complete."""
        content = {
            "version": VERSION,
            "split_rows": self.split_rows,
            "counts": self.counts,
            "fingerprint": self.fingerprint,
        }
        (self.directory / MANIFEST).write_text(json.dumps(content, indent=1))


def file_digest(file: str) -> str:
    """Hash of a file's size and of blocks from its head, middle and tail.

    Args:
        file: Path.
    """
    path = Path(file)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for start in (0, max(0, size // 2 - _BLOCK // 2), max(0, size - _BLOCK)):
            stream.seek(start)
            digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def file_state(file: str) -> str:
    """What tells whether a file is still the same one: path, size and time of change.

    Args:
        file: Path.
    """
    state = Path(file).stat()
    return f"{Path(file).resolve()}:{state.st_size}:{state.st_mtime_ns}"


def combined_digest(parts: Iterable[str]) -> str:
    """One hash of several texts.

    Args:
        parts: In order.
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
