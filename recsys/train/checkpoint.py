"""Checkpoints that are whole or not there: tensors in safetensors, the rest in JSON, no pickle.

One checkpoint is a folder ``step-00001200/`` with a file for every group of tensors, ``state.json``
and ``manifest.json`` (size and sha256 of every other file). What is spread over ranks lies in
``parts/<group>/``, written by each rank (`recsys.train.shards`), and any number of ranks reads it.
The folder is written beside its place, forced to disk and renamed, so a crash leaves either the
whole folder or a ``.partial`` one, which is swept up by the next save. ``last`` and ``best`` are
small JSON pointers, replaced as a whole.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from recsys.embeddings.parts import TensorPart
from recsys.errors import CheckpointError
from recsys.train.ranks import Ranks
from recsys.train.shards import stored_tensors, write_parts

FORMAT = 1
"""Version of the folder's layout."""
_MANIFEST, _STATE, _PARTS = "manifest.json", "state.json", "parts"


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        path: Its folder.
        tensors: Tensors by group (``model``, ``optimizer``, ...), then by name. Those that ranks
            wrote in parts are a `StoredTensor`, which reads what it is asked for.
        state: JSON values.
        notes: What was found damaged on the way here, one sentence each.
    """

    path: Path
    tensors: dict[str, dict[str, Any]]
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: Made by the first save.
        keep: Latest checkpoints kept; the best one comes on top.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = CheckpointStore(Path(folder) / "checkpoints")
        ...     path = store.save(7, {"model": {"w": torch.ones(2)}}, {"epoch": 1})
        ...     found = store.load("last")
        >>> path.name, found.state, found.tensors["model"]["w"]
        ('step-00000007', {'epoch': 1}, tensor([1., 1.]))
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory, self.keep = Path(directory), keep

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        best: bool = False,
        parts: Mapping[str, Sequence[TensorPart]] | None = None,
        ranks: Ranks | None = None,
    ) -> Path:
        """Writes a checkpoint and points ``last`` (and ``best``) at it.

        With several ranks all of them call it; the first one writes everything but the parts.

        Args:
            step: Names the folder; a checkpoint of the same step is replaced.
            tensors: Groups of tensors; each group is a file.
            state: JSON values.
            best: Whether it is the best so far.
            parts: By group what this rank holds of tensors that are spread over ranks.
            ranks: Of the job.

        Returns:
            The folder.

        Raises:
            CheckpointError: It could not be written; the one before is kept.
        """
        ranks = ranks or Ranks()
        final = self.directory / f"step-{step:08d}"
        partial = self.directory / f"{final.name}.partial"
        ranks.on_first(lambda: self._begin(partial, tensors, state))
        written: list[Path] = []
        for group, mine in (parts or {}).items():
            written += write_parts(mine, partial / _PARTS / group, ranks.group)
        files = {path.relative_to(partial).as_posix(): fingerprint(path) for path in written}
        for path in written:
            _force(path)
        everywhere = ranks.gather_objects(files)
        merged = {name: entry for found in everywhere for name, entry in found.items()}
        ranks.on_first(lambda: self._finish(step, partial, final, merged, best))
        return final

    def _begin(
        self,
        partial: Path,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
    ) -> None:
        """Everything that one rank holds, in a folder beside its place."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            partial.mkdir()
            for group, values in tensors.items():
                write_tensors(partial / f"{group}.safetensors", values)
            (partial / _STATE).write_text(json.dumps(state, indent=1) + "\n")
        except (OSError, SafetensorError) as error:
            raise _unwritten(partial, error) from error

    def _finish(
        self, step: int, partial: Path, final: Path, parts: Mapping[str, Any], best: bool
    ) -> None:
        """Makes a whole checkpoint of the folder."""
        try:
            mine = (path for path in sorted(partial.iterdir()) if path.is_file())
            files = {**{path.name: fingerprint(path) for path in mine}, **parts}
            manifest = {"format": FORMAT, "step": step, "files": files}
            (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            for path in (*partial.iterdir(), *(partial / _PARTS).glob("*/*"), partial):
                _force(path)
            if final.exists():  # moved away first: a crash in between must not leave half of it
                final.rename(self.directory / f"{final.name}.old.partial")
            partial.rename(final)
            _force(self.directory)
            self._point("last", final.name)
            if best:
                self._point("best", final.name)
            self._sweep()
            self._forget()
        except OSError as error:
            raise _unwritten(partial, error) from error

    def exists(self) -> bool:
        """Whether there is anything to resume from."""
        return bool(self._folders())

    def load(self, which: str = "last", ranks: Ranks | None = None) -> Checkpoint:
        """Reads and verifies a checkpoint.

        A damaged ``last`` gives way to the newest whole checkpoint before it, and says so in
        ``notes``. A damaged ``best`` is an error: no other checkpoint is the best.

        Args:
            which: ``last``, ``best`` or the name of a folder.
            ranks: Of the job. All of them call it, and the first one checks.

        Raises:
            CheckpointError: There is none, or none that is whole.
        """
        ranks = ranks or Ranks()
        if ranks.world_size == 1:
            return self._load(which)
        path, notes = ranks.on_first(lambda: self._checked(which))
        return dataclasses.replace(read_checkpoint(path, check=False), notes=notes)

    def _checked(self, which: str) -> tuple[Path, tuple[str, ...]]:
        """Where a whole checkpoint is, and what was damaged."""
        found = self._load(which)
        return found.path, found.notes

    def _load(self, which: str) -> Checkpoint:
        if which != "last":
            return read_checkpoint(self.directory / (self._pointed(which) or which))
        folders = self._folders()
        pointed = self._pointed("last")
        if pointed in folders:
            folders = folders[: folders.index(pointed) + 1]
        if not folders:
            raise CheckpointError(
                f"{self.directory}: there is no checkpoint to resume from. Start the run without "
                "resume."
            )
        notes: list[str] = []
        for name in reversed(folders):
            try:
                found = read_checkpoint(self.directory / name)
            except CheckpointError as error:
                notes.append(str(error))
                continue
            return dataclasses.replace(found, notes=tuple(notes))
        raise CheckpointError(
            f"{self.directory}: all {len(notes)} checkpoints are damaged. Start the run anew. "
            f"First: {notes[0]}"
        )

    def best(self) -> Path | None:
        """Folder of the best checkpoint, None before there is one."""
        name = self._pointed("best")
        return None if name is None else self.directory / name

    # -------------------------------------------------------------------------------- folders

    def _folders(self) -> list[str]:
        if not self.directory.is_dir():
            return []
        found = (p.name for p in self.directory.iterdir() if p.is_dir())
        return sorted(name for name in found if name.startswith("step-") and "." not in name)

    def _pointed(self, which: str) -> str | None:
        path = self.directory / f"{which}.json"
        if not path.is_file():
            return None
        try:
            return str(json.loads(path.read_text())["checkpoint"])
        except (ValueError, KeyError, TypeError):
            return None

    def _point(self, which: str, name: str) -> None:
        partial = self.directory / f"{which}.json.partial"
        partial.write_text(json.dumps({"checkpoint": name}) + "\n")
        _force(partial)
        partial.replace(self.directory / f"{which}.json")
        _force(self.directory)

    def _sweep(self) -> None:
        for path in self.directory.glob("*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _forget(self) -> None:
        best = self._pointed("best")
        for name in self._folders()[: -self.keep]:
            if name != best:
                shutil.rmtree(self.directory / name)


def read_checkpoint(path: Path, check: bool = True) -> Checkpoint:
    """Reads one checkpoint folder.

    Args:
        path: The folder.
        check: Compare every byte with the manifest. Off where another rank has done it.

    Raises:
        CheckpointError: It is missing, damaged or of a later format.
    """
    manifest = _json(path / _MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: expected checkpoint format {FORMAT}, got {manifest.get('format')}. "
            "Read it with the version of recsys that wrote it."
        )
    tensors: dict[str, dict[str, Any]] = {}
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: the file is missing. The checkpoint is damaged.")
        found = fingerprint(file) if check else expected
        if found != expected:
            raise CheckpointError(
                f"{file}: the checkpoint is damaged: expected {expected['bytes']:,} bytes with "
                f"sha256 {expected['sha256'][:12]}, got {found['bytes']:,} bytes with "
                f"{found['sha256'][:12]}."
            )
        if file.suffix == ".safetensors" and file.parent == path:
            tensors[file.stem] = read_tensors(file)
    for folder in sorted((path / _PARTS).glob("*/")):
        tensors.setdefault(folder.name, {}).update(stored_tensors(folder))
    return Checkpoint(path, tensors, _json(path / _STATE))


def _unwritten(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: the checkpoint could not be saved: {error}. Free some space or choose another "
        "folder; the checkpoint before this one is kept."
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one safetensors file.

    Args:
        path: The file.
        tensors: By name; they may be views and may share memory.
    """
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.data_ptr() in seen:
            value = value.clone()
        seen.add(value.data_ptr())
        ready[name] = value
    safetensors.torch.save_file(ready, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads one safetensors file.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is not a whole safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}.") from error


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: there is no such checkpoint, or it was cut off while being written."
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged: {error}.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: the checkpoint is damaged: expected a JSON object.")
    return value


def _force(path: Path) -> None:
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
