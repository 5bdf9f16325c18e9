"""Where runs are kept: a folder of this machine, or storage that fsspec knows (S3, GCS, HDFS, ...).

The only door to such storage. On it a file is written as a whole or not at all, but folders cannot
be renamed and nothing is locked; code that works on both writes a manifest last.

Stability: caller
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from upath import UPath

from recsys.errors import CheckpointError, ConfigError, RecsysError
from recsys.folders import whole_file

Place: TypeAlias = Path | UPath
"""A folder or file, here or on storage."""
_OWNER = "owner"
_LEFT_OUT = ("checkpoints", "phases", "ray", "tensorboard")  # written there by others, or large


def place_of(url: str | Path) -> Place:
    """The folder that a path or URL names.

    Args:
        url: ``runs/x``, ``/shared/runs/x``, ``s3://bucket/runs/x``, ``file:///...``, ...

    Raises:
        ConfigError: Nobody knows such storage, or the package for it is missing.
    """
    if "://" not in str(url):
        return Path(url).resolve()  # workers elsewhere have another working directory
    try:
        found = UPath(str(url))
        _ = found.fs
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"storage {url}: {error}. Expected a path or a URL that fsspec knows, with its package "
            "installed (s3fs for s3://, gcsfs for gs://)."
        ) from None
    return found


def is_local(place: Place) -> bool:
    """Whether it is a path of this machine.

    Args:
        place: Of either kind.
    """
    return isinstance(place, Path)


def write_text(place: Place, text: str) -> None:
    """Writes a file as a whole or not at all, and forces it to disk where there is one.

    Args:
        place: The file.
        text: Its content.
    """
    if not isinstance(place, Path):
        place.write_text(text)
        return
    with whole_file(place) as draft:
        draft.write_text(text, encoding="utf-8")


def upload(file: Path, target: Place) -> None:
    """Copies a file of this machine.

    Args:
        file: It.
        target: Where to; folders on the way are made.
    """
    if isinstance(target, Path):
        with whole_file(target) as draft:
            shutil.copyfile(file, draft)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.fs.put_file(str(file), target.path)


def remove(place: Place) -> None:
    """Removes a file, or a folder with everything in it, if it is there.

    Args:
        place: It.
    """
    with contextlib.suppress(FileNotFoundError):
        if isinstance(place, Path):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        elif place.exists():
            place.fs.rm(place.path, recursive=True)


def read_range(place: Place, start: int, count: int) -> bytes:
    """Some bytes of a file.

    Args:
        place: The file.
        start: First byte.
        count: How many.
    """
    if not isinstance(place, Path):
        content = place.fs.cat_file(place.path, start=start, end=start + count)
        assert isinstance(content, bytes)
        return content
    with place.open("rb") as file:
        file.seek(start)
        return file.read(count)


class Mirror:
    """Keeps a copy of a run folder on storage, so that a run can go on on another host.

    Checkpoints are no part of it: ranks write those to storage themselves. A job that goes on
    takes the run over: the one before, should it still live, stops at its next `push`.

    Args:
        folder: The run folder, on the first rank's host.
        storage: The copy.
    """

    def __init__(self, folder: Path, storage: Place) -> None:
        self.folder, self.storage = folder, storage
        self._id = uuid.uuid4().hex
        self._sent: dict[str, tuple[int, int]] = {}

    def holds_run(self) -> bool:
        """Whether there is a run on storage.

        Raises:
            CheckpointError: The storage cannot be reached.
        """
        with _reached(self.storage):
            return (self.storage / "config.json").exists()

    def pull(self) -> None:
        """Takes the run over and fetches it: the copy is right where this folder differs.

        Raises:
            CheckpointError: The storage cannot be reached.
        """
        with _reached(self.storage):
            self.storage.mkdir(parents=True, exist_ok=True)
            write_text(self.storage / _OWNER, self._id)
            for name, place in _files(self.storage):
                target = self.folder / name
                if name != _OWNER:
                    with whole_file(target) as draft:
                        draft.write_bytes(place.read_bytes())

    def push(self) -> None:
        """Sends what has changed since the last time.

        Raises:
            CheckpointError: Another job has taken the run over, or the storage cannot be reached.
        """
        with _reached(self.storage):
            owner = (self.storage / _OWNER).read_text()
            if owner != self._id:
                raise CheckpointError(
                    f"{self.storage}: another job has taken this run over. This one stops, so that "
                    "they do not mix. Use another storage folder for a run of its own."
                )
            for name, path in _files(self.folder):
                assert isinstance(path, Path)
                state = path.stat()
                now = state.st_size, state.st_mtime_ns
                if self._sent.get(name) != now:
                    upload(path, self.storage / name)
                    self._sent[name] = now


@contextlib.contextmanager
def _reached(storage: Place) -> Iterator[None]:
    """Errors of storage, of whatever kind, as one of ours."""
    try:
        yield
    except RecsysError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"storage {storage} cannot be used: {type(error).__name__}: {error}. Check that it "
            "exists, the rights on it, and the network; checkpoints that are there are kept."
        ) from error


def _files(folder: Place, name: str = "") -> Iterator[tuple[str, Place]]:
    """Everything that is mirrored, with its name below the folder."""
    for found in sorted(folder.iterdir(), key=lambda place: place.name):
        if found.name.startswith(".") or found.name in _LEFT_OUT:
            continue
        below = f"{name}{found.name}"
        if found.is_dir():
            yield from _files(found, f"{below}/")
        else:
            yield below, found
