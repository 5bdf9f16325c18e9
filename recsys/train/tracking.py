"""Numbers of a run over time: metrics.jsonl always, TensorBoard when it is installed.

Stability: caller
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any, Self

from recsys.folders import write_text


class Tracker:
    """Appends one JSON object a line.

    Args:
        run_dir: Where ``metrics.jsonl`` and ``tensorboard/`` are; None records nothing (all ranks
            but the first).
        keep_until: Lines of later steps are dropped: a resumed run writes them again. None starts
            a new file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Tracker(Path(folder)) as tracker:
        ...         tracker.log("train", 5, {"loss": 0.25, "auc": math.nan})
        ...     read_metrics(Path(folder))
        [{'kind': 'train', 'step': 5, 'loss': 0.25, 'auc': None}]
    """

    def __init__(self, run_dir: Path | None, keep_until: int | None = None) -> None:
        self._file = self._board = None
        if run_dir is None:
            return
        path = run_dir / "metrics.jsonl"
        kept = [] if keep_until is None else read_metrics(run_dir)
        lines = [json.dumps(entry) for entry in kept if entry["step"] <= (keep_until or 0)]
        write_text(path, "".join(f"{line}\n" for line in lines))
        self._file = path.open("a", buffering=1)
        if importlib.util.find_spec("tensorboard") is not None:
            writers = importlib.import_module("torch.utils.tensorboard")
            self._board = writers.SummaryWriter(
                str(run_dir / "tensorboard"),
                purge_step=None if keep_until is None else keep_until + 1,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Adds a line.

        Args:
            kind: ``train``, ``valid``, ``checkpoint``, ...
            step: Batches trained.
            values: Numbers (nan becomes null) and texts.
        """
        if self._file is None:
            return
        clean = {name: _finite(value) for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, **clean}) + "\n")
        if self._board is not None:
            for name, value in clean.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line that was cut off is left out.

    Args:
        run_dir: Of the run.
    """
    path = run_dir / "metrics.jsonl"
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries
