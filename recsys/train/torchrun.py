"""One job on processes that ``torchrun`` started, on one host or many.

``torchrun`` gives every process its rank by environment variables and starts all of them anew when
one dies (``--max-restarts``)::

    torchrun --nproc-per-node 2 -m recsys train --config configs/ctr/dlrm.yaml
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint host0:29500
        -m recsys train --config configs/ctr/dlrm.yaml

Stability: caller
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from recsys.train.ranks import Ranks

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started_by_torchrun() -> bool:
    """Whether this process is a rank that ``torchrun`` started and that has no group yet."""
    return all(name in os.environ for name in _NEEDED) and not distributed.is_initialized()


def local_rank() -> int:
    """Number of this process on its host, 0 without ``torchrun``."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarts() -> int:
    """How often ``torchrun`` has started all ranks anew after one failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_first() -> bool:
    """Whether this process speaks for the job: the only one, or rank 0 of ``torchrun``."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def joined(device: str, timeout_s: float = 600.0) -> Iterator[Ranks]:
    """The process group of all ranks; left together, and torn down where one fails.

    Args:
        device: ``cpu`` or ``cuda``; with ``cuda`` each process takes the GPU of its local number.
        timeout_s: How long ranks wait for each other before they fail.
    """
    if device == "cuda":
        torch.cuda.set_device(local_rank())
    else:
        cores = (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])
        torch.set_num_threads(max(1, cores))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    timeout = datetime.timedelta(seconds=timeout_s)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    # torchrun keeps its store when it starts all anew: without a prefix a rank may find the address
    # of a dead one there ("connectFullMesh failed: connection refused").
    store = PrefixStore(f"recsys/{restarts()}", store)
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=timeout
    )
    try:
        yield Ranks.current()
        distributed.barrier()  # none leaves while another still talks to it
    finally:
        distributed.destroy_process_group()
