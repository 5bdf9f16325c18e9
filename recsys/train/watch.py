"""Says which rank kept the others waiting, and where it was.

Ranks wait for each other in every step. Where one does not come (it hangs in a read, it was
stopped, its host swaps), the others only see that time ran out. So a thread in every rank tells
all, over the store of the process group, where its main thread is.

Stability: internal
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed import distributed_c10d

from recsys.data.prefetch import THREAD as PREFETCH
from recsys.data.prefetch import prefetch
from recsys.errors import RecsysError, TrainingError
from recsys.train.ranks import Ranks

_EVERY_S = 2.0
_STALE_S = 4 * _EVERY_S
_KEY = "recsys/where/{}"
_PACKAGE = Path(__file__).resolve().parents[1].name
_WAITING = ("torch/distributed/", "torchrec/distributed/", f"{_PACKAGE}/train/ranks.py")
_DEPTH = 4


@contextlib.contextmanager
def watched(ranks: Ranks) -> Iterator[None]:
    """While it is open, time that runs out is explained. With one rank it does nothing.

    Args:
        ranks: Of the job.

    Raises:
        TrainingError: Instead of the error of torch when other ranks did not come in time.
    """
    if ranks.world_size == 1:
        yield
        return
    store = distributed_c10d._get_default_store()
    stop = threading.Event()
    main = threading.get_ident()

    def tell() -> None:
        while not stop.is_set():
            with contextlib.suppress(RuntimeError):  # the store is gone when the job ends
                store.set(_KEY.format(ranks.rank), json.dumps(_where(main)))
            stop.wait(_EVERY_S)

    thread = threading.Thread(target=tell, name="recsys-watch", daemon=True)
    thread.start()
    try:
        yield
    except RecsysError:
        raise
    except RuntimeError as error:
        if not _ran_out(error):
            raise
        raise TrainingError(_explained(store, ranks, error)) from error
    finally:
        stop.set()
        thread.join()


def _ran_out(error: RuntimeError) -> bool:
    """Whether it says that time ran out in a collective."""
    text = str(error).lower()
    return "timed out" in text or "timeout" in text


def _where(thread: int) -> dict[str, Any]:
    """Where a thread of this process is; where it waits for rows, where their reader is."""
    frames = sys._current_frames()
    stack = list(_stack(frames.get(thread)))
    if any(frame.f_code.co_filename == prefetch.__code__.co_filename for frame in stack):
        readers = [t.ident for t in threading.enumerate() if t.name == PREFETCH]
        stack = [frame for ident in readers for frame in _stack(frames.get(ident or 0))] + stack
    paths = [frame.f_code.co_filename.replace("\\", "/") for frame in stack]
    ours = [f"/{_PACKAGE}/" in path for path in paths]
    names = [_name(frame) for n, frame in enumerate(stack) if ours[n] or n == 0]
    waits = any(part in path for path in paths for part in _WAITING)
    return {"time": time.time(), "waits": waits, "frames": names[:_DEPTH]}


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """The innermost frame first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _name(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{frame.f_code.co_qualname} ({'/'.join(path.parts[-3:])}:{frame.f_lineno})"


def _explained(store: distributed_c10d.Store, ranks: Ranks, error: RuntimeError) -> str:
    """Who waited for whom, as far as all have told."""
    waiting, missing = [], []
    for rank in range(ranks.world_size):
        key = _KEY.format(rank)
        told = json.loads(store.get(key)) if store.check([key]) else None
        if told is None:
            missing.append(f"rank {rank} has not begun")
            continue
        silent = time.time() - told["time"]
        place = " <- ".join(told["frames"])
        if silent > _STALE_S:
            missing.append(f"rank {rank}, silent for {silent:.0f} s, last in {place}")
        elif told["waits"] or rank == ranks.rank:
            waiting.append(f"rank {rank} in {place}")
        else:
            missing.append(f"rank {rank}, which was in {place}")
    found = "; ".join(missing) or "nobody that can be named (the network, or unequal batches)"
    return (
        f"time ran out on rank {ranks.rank} of {ranks.world_size}. Missing: {found}. "
        f"Waiting: {'; '.join(waiting)}. Raise the timeout if the work takes that long; if not, "
        f"look at the missing rank's host, disk and data. torch says: {str(error).splitlines()[0]}"
    )
