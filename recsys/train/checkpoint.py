"""Checkpoints that are whole or not there: tensors in safetensors, the rest in JSON, no pickle.

One checkpoint is a folder ``step-00001200/`` with a file for every group of tensors, ``state.json``
and ``manifest.json`` (size and sha256 of every other file). What is spread over ranks lies in
``parts/<group>/``, written by each rank (`recsys.train.shards`), and any number of ranks reads it.
The manifest is written last, when everything else is on disk: a crash leaves a folder without one,
which does not count and is swept up by the next save. ``last`` and ``best`` are small JSON
pointers, replaced as a whole. The folder may lie on any storage that fsspec knows; files are then
made in a temporary folder and sent.

Stability: caller
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from recsys.embeddings.parts import TensorPart
from recsys.errors import CheckpointError
from recsys.folders import fingerprint, force
from recsys.train.ranks import Ranks
from recsys.train.shards import stored_tensors, write_parts
from recsys.train.storage import Place, is_local, remove, upload, write_text

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

    path: Place
    tensors: dict[str, dict[str, Any]]
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: Made by the first save; here or on storage.
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

    def __init__(self, directory: Place, keep: int = 2) -> None:
        self.directory, self.keep = directory, keep

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        best: bool = False,
        parts: Mapping[str, Sequence[TensorPart]] | None = None,
        ranks: Ranks | None = None,
    ) -> Place:
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
        ranks.on_first(lambda: self._make_room(final))
        with _workshop(final) as shop:
            ranks.on_first(lambda: _write_own(final, shop, tensors, state))
            written = [path for path in shop.iterdir() if path.is_file()] if ranks.first else []
            for group, mine in (parts or {}).items():
                written += write_parts(mine, shop / _PARTS / group, ranks.group)
            outcomes = ranks.gather_objects(_deliver(final, shop, written))
        failed = [str(outcome) for outcome in outcomes if isinstance(outcome, str)]
        if failed:
            raise _unwritten(final, failed[0])
        files = {name: entry for found in outcomes for name, entry in found.items()}
        ranks.on_first(lambda: self._finish(step, final, files, best))
        return final

    def _make_room(self, final: Place) -> None:
        """Sweeps up what crashes left, and a checkpoint that is to be replaced."""
        with _explained(final):
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in list(self.directory.iterdir()):
                if ".partial" in path.name:
                    remove(path)
            for name in self._folders():
                if not (self.directory / name / _MANIFEST).is_file():
                    remove(self.directory / name)
            remove(final / _MANIFEST)  # first: without it the rest does not count
            remove(final)
            final.mkdir(parents=True)

    def _finish(self, step: int, final: Place, files: Mapping[str, Any], best: bool) -> None:
        """Makes a whole checkpoint of the folder."""
        with _explained(final):
            if isinstance(final, Path):
                for folder in (*(path for path in final.rglob("*") if path.is_dir()), final):
                    force(folder)
            manifest = {"format": FORMAT, "step": step, "files": dict(sorted(files.items()))}
            write_text(final / _MANIFEST, json.dumps(manifest, indent=1) + "\n")
            self._point("last", final.name)
            if best:
                self._point("best", final.name)
            self._forget()

    def exists(self) -> bool:
        """Whether there is anything to resume from."""
        return any((self.directory / name / _MANIFEST).is_file() for name in self._folders())

    def load(self, which: str = "last", ranks: Ranks | None = None) -> Checkpoint:
        """Reads and verifies a checkpoint.

        A damaged ``last`` gives way to the newest whole checkpoint before it, and says so in
        ``notes``. A damaged ``best`` is an error: no other checkpoint is the best.

        Args:
            which: ``last``, ``best`` or the name of a folder.
            ranks: Of the job. All of them call it, and each verifies its share of the files.

        Raises:
            CheckpointError: There is none, or none that is whole.
        """
        ranks = ranks or Ranks()
        if which != "last":
            return read_checkpoint(self.directory / (self._pointed(which) or which), ranks)
        folders = ranks.on_first(self._candidates)
        if not folders:
            raise CheckpointError(
                f"{self.directory}: there is no checkpoint to resume from. Start the run without "
                "resume."
            )
        notes: list[str] = []
        for name in folders:
            try:
                found = read_checkpoint(self.directory / name, ranks)
            except CheckpointError as error:
                notes.append(str(error))
                continue
            return dataclasses.replace(found, notes=tuple(notes))
        raise CheckpointError(
            f"{self.directory}: all {len(notes)} checkpoints are damaged. Start the run anew. "
            f"First: {notes[0]}"
        )

    def _candidates(self) -> list[str]:
        """Folders to resume from, newest first: cut off ones, then from ``last`` backwards."""
        folders, pointed = self._folders(), self._pointed("last")
        if pointed in folders:
            at = folders.index(pointed) + 1
            torn = (n for n in folders[at:] if not (self.directory / n / _MANIFEST).is_file())
            folders = [*folders[:at], *torn]
        return folders[::-1]

    def best(self) -> Place | None:
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
        write_text(self.directory / f"{which}.json", json.dumps({"checkpoint": name}) + "\n")

    def _forget(self) -> None:
        best = self._pointed("best")
        for name in self._folders()[: -self.keep]:
            if name != best:
                remove(self.directory / name)


@contextlib.contextmanager
def _workshop(final: Place) -> Iterator[Path]:
    """Where files of a checkpoint are made: in its folder, or beside it where that is far away."""
    if isinstance(final, Path):
        yield final
        return
    with tempfile.TemporaryDirectory(prefix="recsys-checkpoint-") as folder:
        yield Path(folder)


def _write_own(
    final: Place,
    shop: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
) -> None:
    """Everything that one rank holds."""
    with _explained(final):
        for group, values in tensors.items():
            write_tensors(shop / f"{group}.safetensors", values)
        (shop / _STATE).write_text(json.dumps(state, indent=1) + "\n")


def _deliver(final: Place, shop: Path, written: Sequence[Path]) -> dict[str, Any] | str:
    """Sees files to their place. Returns size and sha256 of each, or what went wrong."""
    files = {}
    try:
        for path in written:
            name = path.relative_to(shop).as_posix()
            files[name] = fingerprint(path)
            if is_local(final):
                force(path)
            else:
                upload(path, final / name)
    except Exception as error:  # noqa: BLE001, storage has errors of its own; all ranks must hear
        return f"{type(error).__name__}: {error}"
    return files


def read_checkpoint(path: Place, ranks: Ranks | None = None) -> Checkpoint:
    """Reads one checkpoint folder and verifies it: sha256 on this machine, sizes on storage.

    Args:
        path: The folder.
        ranks: Of the job. All of them call it, and each verifies its share of the files.

    Raises:
        CheckpointError: It is missing, damaged or of a later format.
    """
    ranks = ranks or Ranks()
    manifest = ranks.on_first(lambda: _json(path / _MANIFEST))
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: expected checkpoint format {FORMAT}, got {manifest.get('format')}. "
            "Read it with the version of recsys that wrote it."
        )
    files = sorted(manifest["files"].items())
    problem = _problem(path, dict(files[ranks.rank :: ranks.world_size]))
    problems = [found for found in ranks.gather_objects(problem) if found]
    if problems:
        raise CheckpointError(problems[0])
    tensors: dict[str, dict[str, Any]] = {}
    for name, _ in files:
        if name.endswith(".safetensors") and "/" not in name:
            tensors[name.removesuffix(".safetensors")] = read_tensors(path / name)
    parts = sorted({tuple(name.split("/")[1:3]) for name, _ in files if name.startswith(_PARTS)})
    for group in dict.fromkeys(group for group, _ in parts):
        tensors.setdefault(group, {}).update(stored_tensors(path / _PARTS / group))
    return Checkpoint(path, tensors, _json(path / _STATE))


def _problem(path: Place, files: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with some files of a checkpoint, nothing for nothing."""
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{file}: the file is missing. The checkpoint is damaged."
        found: Mapping[str, Any] = {**expected, "bytes": file.stat().st_size}
        if isinstance(file, Path):
            found = fingerprint(file)
        if found != expected:
            return (
                f"{file}: the checkpoint is damaged: expected {expected['bytes']:,} bytes with "
                f"sha256 {expected['sha256'][:12]}, got {found['bytes']:,} bytes with "
                f"{found['sha256'][:12]}."
            )
    return ""


@contextlib.contextmanager
def _explained(path: Place) -> Iterator[None]:
    """Errors of writing as errors of a checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Place, error: object) -> CheckpointError:
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


def read_tensors(path: Place) -> dict[str, Tensor]:
    """Reads one safetensors file.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is not a whole safetensors file.
    """
    try:
        if isinstance(path, Path):
            return safetensors.torch.load_file(path)
        return safetensors.torch.load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}.") from error


def _json(path: Place) -> dict[str, Any]:
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
