"""How much one request may ask, and how many may wait.

Stability: caller
"""

from __future__ import annotations

from pydantic import Field

from recsys.schema import Frozen


class ServingLimits(Frozen):
    """What a `recsys.serving.service.Service` takes; more is refused with a 4xx or 503."""

    max_body_bytes: int = Field(default=4 << 20, ge=1)
    """Of a request."""
    max_rows: int = Field(default=2000, ge=1)
    """Rows, users, histories, items or queries of a request."""
    max_k: int = Field(default=1000, ge=1)
    """Length of a list."""
    max_candidates: int = Field(default=2000, ge=1)
    """Items that are ranked for one query."""
    max_ids: int = Field(default=10_000, ge=1)
    """Ids in ``only``, in ``exclude`` and in the histories of a request."""
    max_batch_rows: int = Field(default=4096, ge=1)
    """Rows, lists or candidates of several requests that are computed at once."""
    max_waiting: int = Field(default=256, ge=1)
    """Requests of one kind that wait; the next one is turned away."""
    timeout_s: float = Field(default=30.0, gt=0)
    """How long a request may wait for its answer, and its body take to arrive."""
