"""Lists of the best items for many users: scores in blocks, seen items left out.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from tqdm import tqdm

from recsys.cf import CFModel
from recsys.errors import TrainingError
from recsys.graph.interactions import Interactions
from recsys.hashing import hash_ints
from recsys.metrics.top_items import NO_ITEM, flat_positions, top_items

_CPU_BLOCK_BYTES = 8 << 20  # measured: scores that stay in the cache and in recycled memory
_GPU_BLOCK_BYTES = 1 << 30
_LARGEST_BLOCK = 8192


class Rows:
    """Items of every user, ready to be looked up by block.

    Args:
        pairs: Of users and items.
    """

    def __init__(self, pairs: Interactions) -> None:
        self.offsets = torch.from_numpy(pairs.offsets())
        self.items = torch.from_numpy(pairs.item.astype(np.int64))
        self.num_items = pairs.num_items

    def positions(self, users: Tensor) -> Tensor:
        """Where the items of users lie in their flattened matrix of scores.

        Args:
            users: A row each, (B,) int64.
        """
        return flat_positions(users, self.offsets, self.items, self.num_items)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Ranks relevant items among a few others that are drawn at random, the same in every model.

    An item is drawn for a user if the hash of ``(seed, user, item)`` is among the smallest, so
    neither blocks nor ranks change the draw.

    Args:
        count: Others of every user.
        seed: Of the draw.
        relevant: Always kept.
        seen: Never drawn.
    """

    count: int
    seed: int
    relevant: Rows
    seen: Rows

    def hidden(self, users: Tensor) -> Tensor:
        """What is not ranked, (B, I) bool.

        Args:
            users: (B,) int64.
        """
        size = self.seen.num_items
        drawn = hash_ints(users[:, None] * size + torch.arange(size), salt=self.seed)
        never = torch.iinfo(torch.int64).max
        kept = self.relevant.positions(users)
        for positions in (self.seen.positions(users), kept):
            drawn.view(-1)[positions] = never
        values, items = drawn.topk(min(self.count, size), dim=1, largest=False)
        hidden = torch.ones(len(users), size, dtype=torch.bool)
        hidden.scatter_(1, items, values == never)
        hidden.view(-1)[kept] = False
        return hidden


def users_per_block(num_items: int, device: torch.device) -> int:
    """How many users are scored at once.

    Args:
        num_items: I.
        device: Where the scores are.
    """
    size = _CPU_BLOCK_BYTES if device.type == "cpu" else _GPU_BLOCK_BYTES
    return max(1, min(_LARGEST_BLOCK, size // (4 * num_items)))


def ranked_lists(
    model: CFModel,
    users: np.ndarray,
    k: int,
    *,
    seen: Rows | None,
    candidates: np.ndarray | None = None,
    sampled: Sampled | None = None,
    block: int | None = None,
    quiet: bool = False,
    histories: csr_array | None = None,
) -> Tensor:
    """The k best items of users, in evaluation mode; afterwards the model is in its former mode.

    Args:
        model: Gives scores.
        users: Numbers.
        k: Length of the lists.
        seen: Left out, or None.
        candidates: Items that may be recommended, rising, or None for all.
        sampled: Ranks few items only, or None.
        block: Users at once; None takes `users_per_block`.
        quiet: Shows no progress.
        histories: What is known of every user, (U, I), where scores come from that; None where
            users were trained on.

    Returns:
        Item numbers, best first; `NO_ITEM` where there are no more.

    Raises:
        TrainingError: A score is NaN.
        ValueError: The model's scores have another shape.

    Shape:
        - users: (N,) int64
        - output: (N, k) int32
    """
    state = itertools.chain(model.parameters(), model.buffers())
    device = next((tensor.device for tensor in state), torch.device("cpu"))
    block = block or users_per_block(model.graph.num_items, device)
    columns = None if candidates is None else torch.from_numpy(candidates)
    lists = torch.full((len(users), k), NO_ITEM, dtype=torch.int32)
    was_training = model.training
    if was_training:
        model.eval()
    bar = tqdm(
        desc="ranking", total=len(users), unit=" users", unit_scale=True, delay=1, leave=False,
        disable=True if quiet else None,
    )  # fmt: skip
    try:
        with torch.inference_mode(), bar:
            for start in range(0, len(users), block):
                chosen = torch.from_numpy(users[start : start + block])
                hidden = None if sampled is None else sampled.hidden(chosen)
                found = _best(_scores(model, chosen, histories), k, chosen, seen, columns, hidden)
                lists[start : start + len(chosen)] = found
                bar.update(len(chosen))
    finally:
        if was_training:
            model.train()
    return lists


def history_matrix(pairs: Interactions) -> csr_array:
    """Ones where a user has an item, (U, I) float32.

    Args:
        pairs: Of users and items.
    """
    parts = (np.ones(len(pairs), np.float32), pairs.item, pairs.offsets())
    return csr_array(parts, shape=(pairs.num_users, pairs.num_items))


def _scores(model: CFModel, users: Tensor, histories: csr_array | None) -> Tensor:
    known = None if histories is None else histories[users.numpy()]
    scores = model.scores(users) if known is None else model.scores_of(known)
    expected = (len(users), model.graph.num_items)
    if scores.shape != expected:
        raise ValueError(
            f"{type(model).__name__}.scores: expected {expected} for {len(users)} users, got "
            f"{tuple(scores.shape)}."
        )
    return scores.contiguous()


def _best(
    scores: Tensor,
    k: int,
    users: Tensor,
    seen: Rows | None,
    columns: Tensor | None,
    hidden: Tensor | None,
) -> Tensor:
    flat, positions, kept = scores.view(-1), None, None
    if hidden is not None:
        scores = scores.masked_fill(hidden.to(scores.device), -torch.inf)
    elif seen is not None:
        # In place, since a copy takes longer; put back, since the scores may be the model's own.
        positions = seen.positions(users).to(scores.device)
        kept = flat[positions]
        flat[positions] = -torch.inf
    allowed = scores if columns is None else scores[:, columns.to(scores.device)]
    values, items = top_items(allowed, k)
    if kept is not None:
        flat[positions] = kept
    if bool(values.isnan().any()):
        user = int(users[values.isnan().any(1).nonzero()[0, 0].cpu()])
        raise TrainingError(
            f"scores of user number {user} are NaN, so items cannot be ranked. Training diverged: "
            "lower the learning rate, or take an earlier checkpoint."
        )
    items = items.cpu()
    if columns is not None:
        items = torch.where(items >= 0, columns[items.clamp(min=0)], items)
    return items.int()
