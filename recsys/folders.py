"""Files and folders that are whole or not there, and folders that notice what happened to them.

What is written goes to a draft beside its place, is forced to disk and renamed. Drafts that a crash
leaves behind start with a dot and have ``.partial`` in their name. A folder of a `FolderFormat` has
a manifest with a checksum of every file and a digest of itself.

Stability: internal
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.errors import CheckpointError


def force(path: Path) -> None:
    """Forces a file or folder to disk.

    Args:
        path: Of this machine.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft to write, with the same ending; it takes the file's place if all goes well.

    Args:
        path: Of the file; its folder is made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "new" / "note.txt") as draft:
        ...         _ = draft.write_text("all of it")
        ...     [found.name for found in (Path(folder) / "new").iterdir()]
        ['note.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    try:
        yield draft
        force(draft)
        draft.replace(path)
        force(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 as a whole or not at all.

    Args:
        path: Of the file; its folder is made.
        text: Its content.
    """
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as a whole or not at all.

    Args:
        path: Of the file; its folder is made.
        content: JSON values.
    """
    write_text(path, json.dumps(content, indent=1) + "\n")


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Makes a folder of files completely or not at all; a finished one is reused.

    Its files are not forced to disk: they can be made again.

    Args:
        folder: The finished folder.
        make: Fills a temporary folder.

    Returns:
        ``folder``.
    """
    if folder.is_dir():
        return folder
    with _draft_folder(folder) as draft:
        make(draft)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first; its files are the same
                raise
    return folder


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file.

    Args:
        path: The file.
    """
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """`fingerprint` of every file below a folder, by its name from there.

    Args:
        folder: The folder.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): fingerprint(path) for path in files}


@dataclasses.dataclass(frozen=True, slots=True)
class FolderFormat:
    """A kind of folder with a manifest.

    Args:
        manifest: Name of the manifest.
        name: Of the format, as the manifest says it.
        version: Of the format. Others are refused.
        advice: What to give instead of a folder without a manifest, a sentence.
    """

    manifest: str
    name: str
    version: int
    advice: str

    def write(self, target: Path, fill: Callable[[Path], Mapping[str, Any]]) -> None:
        """Writes a folder, whole or not at all; replaces an older one of this format.

        A folder cannot be replaced in one step. Killed between two renames, this leaves the old one
        under a name that `missing` tells. Files that are mapped into memory stay readable.

        Args:
            target: The folder.
            fill: Writes files into a new, empty folder. Returns the rest of the manifest, JSON
                values with their checksums under ``files``.

        Raises:
            CheckpointError: There is something else.
        """
        if target.exists() and not target.is_dir():
            raise CheckpointError(f"{target} is a file and is not overwritten. Choose a folder.")
        if target.is_dir() and not (target / self.manifest).is_file() and any(target.iterdir()):
            raise CheckpointError(
                f"{target} holds other files and is not overwritten. Choose another folder."
            )
        with _draft_folder(target) as draft:
            content = {"format": self.name, "format_version": self.version, **fill(draft)}
            content["digest"] = _digest(content)
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (draft / self.manifest).write_text(text, encoding="utf-8")
            for path in (*draft.rglob("*"), draft):
                force(path)
            _swap(draft, target)

    def read(self, folder: Path) -> dict[str, Any]:
        """The manifest of a folder, checked against its own digest.

        Args:
            folder: The folder.

        Raises:
            CheckpointError: There is none, or it is damaged, changed, or of another format.
        """
        path = folder / self.manifest
        if not path.is_file():
            raise self.missing(folder)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            name, version = found["format"], found["format_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error!r}). Copy it again.") from None
        if name != self.name:
            raise CheckpointError(
                f"{path}: expected the format {self.name!r}, got {name!r}. {self.advice}"
            )
        if version != self.version:
            writer = found.get("versions", {}).get("recsys", "unknown")
            raise CheckpointError(
                f"{path}: expected format version {self.version}, got {version}. "
                f"Load it with the recsys version that wrote it: {writer}."
            )
        if found.pop("digest", None) != _digest(found):
            raise CheckpointError(
                f"{path} was changed after it was written (its digest differs). Copy it again; to "
                "change what it tells, save it again."
            )
        return found

    def missing(self, folder: Path) -> CheckpointError:
        """What to raise for a folder without a manifest.

        Args:
            folder: The folder, or what was taken for one.
        """
        state = "does not exist, so there is no"
        if folder.exists():
            state = "has no" if folder.is_dir() else "is a file, not a folder, so there is no"
        pattern = f".{glob.escape(folder.name)}.*.old"
        old = None if folder.exists() else next(folder.parent.glob(pattern), None)
        advice = self.advice
        if old is not None:
            advice = f"A save was cut off; {old} is the one before: rename it, or save again."
        return CheckpointError(f"{folder} {state} {self.manifest}. {advice}")

    def check(self, path: Path, wanted: Mapping[str, Any], checksum: bool = True) -> None:
        """Checks that a file is as it was written.

        Args:
            path: The file.
            wanted: ``sha256`` and, where they are known, ``bytes``.
            checksum: Whether to compare the checksum, which reads the file; the size always is.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. Copy the whole folder again.")
        size = path.stat().st_size
        if wanted.get("bytes", size) != size:
            raise CheckpointError(
                f"{path} is damaged: expected {wanted['bytes']:,} bytes, got {size:,}. "
                "Copy it again."
            )
        if checksum and sha256(path) != wanted["sha256"]:
            raise CheckpointError(
                f"{path} is damaged: its checksum is not the one in {self.manifest}. Copy it again."
            )


def _digest(content: Mapping[str, Any]) -> str:
    """Hash of JSON values as a reader will find them: keys that are numbers have become text."""
    content = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")


@contextlib.contextmanager
def _draft_folder(target: Path) -> Iterator[Path]:
    draft = _draft(target)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, target: Path) -> None:
    """Two renames, the first taken back should the second fail."""
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    if target.exists():
        target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    force(target.parent)
    shutil.rmtree(old, ignore_errors=True)
