"""Vectors of items that a model has never seen, from what is known of the items themselves.

Stability: experimental
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from recsys.errors import DataError
from recsys.folders import whole_file
from recsys.losses.alignment import below_threshold, content_to_id, f1_threshold, sequence_to_item
from recsys.retrieval.checks import VersionedVectors, as_vectors

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_MINED = 1024  # items that hard negatives are looked for among, and places counted
_HARDEST = 5
_BLOCK = 1 << 16
_HISTORY = 10
_DROPOUT = 0.2
_FORMAT = "recsys content vectors"
_WEIGHTS = ("mean", "linear", "shift", "first", "first_bias", "second", "second_bias")


class ContentFit(NamedTuple):
    """How well the vectors of items were guessed that had been left out."""

    held_out: int
    """How many."""
    linear: float
    """Share of other held-out items whose own vector is further from the guess (cosine) than the
    item's own, by the linear map alone; .5 is chance, 1 is perfect."""
    trained: float
    """The same after training."""
    epochs: int
    """After which that was best; 0 where the linear map was."""
    ridge: float
    """Of the linear map, as a share of the mean square of contents."""


class ContentVectors:
    """Learns where a trained model puts an item from its content, and puts new items there.

    The vector of an item is ``x W + b + M(x)``: a ridge regression from content x to the vectors
    that interactions gave, and with ``epochs`` a network of one hidden layer, which starts at 0.
    Both then learn by contrast, see `recsys.losses.alignment.content_to_id`; half of a batch are
    items whose own vectors are near to those of the other half, but not as near as what counts as
    the same (``hard_negatives``). A tenth of the items is left out to choose the ridge and the
    number of epochs, then all are learned from.

    A guess is shorter than a vector that was trained, so new items come behind known ones in a
    list of both, as they should while less is known of them; ``length_weight`` works against that.

    Try the regression alone first: on `kg_music` nothing that is trained was better.

    Args:
        epochs: Of training after the regression, at most.
        hidden: Width of the network.
        batch_size: Items of a step.
        learning_rate: Of AdamW.
        temperature: Of the contrast.
        length_weight: Of the difference of lengths.
        sequence_weight: Of what a user has, by content, against another item of the same user; it
            needs pairs, see `fit`.
        hard_negatives: Whether batches are filled with near items.
        seed: Of what is left out, of the start and of the order.

    Raises:
        DataError: A number is out of range.

    Source:
        SAIL-Embedding technical report, arXiv 2510.12709, read second hand: ID-to-item and
        sequence-to-item distillation with negatives below the threshold of the best F1. There a
        language model is trained; here the content stays as it is given.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> content = torch.randn(200, 8, generator=random)
        >>> trained = content @ torch.randn(8, 4, generator=random)
        >>> guess = ContentVectors()
        >>> guess.fit(content[:150], trained[:150]).linear
        1.0
        >>> bool((guess.vectors(content[150:]) - trained[150:].numpy()).std() < 0.01)
        True
    """

    def __init__(
        self,
        *,
        epochs: int = 0,
        hidden: int = 256,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        temperature: float = 0.1,
        length_weight: float = 0.1,
        sequence_weight: float = 0.0,
        hard_negatives: bool = True,
        seed: int = 0,
    ) -> None:
        for name, count, least in (("epochs", epochs, 0), ("hidden", hidden, 1),
                                   ("batch_size", batch_size, 4)):  # fmt: skip
            if count < least:
                raise DataError(f"`{name}`: expected at least {least}, got {count}.")
        for name, number in (("learning_rate", learning_rate), ("temperature", temperature)):
            if not number > 0:
                raise DataError(f"`{name}`: expected more than 0, got {number}.")
        for name, number in (("length_weight", length_weight),
                             ("sequence_weight", sequence_weight)):  # fmt: skip
            if not number >= 0:
                raise DataError(f"`{name}`: expected at least 0, got {number}.")
        self.epochs, self.hidden, self.batch_size = epochs, hidden, batch_size
        self.learning_rate, self.temperature = learning_rate, temperature
        self.length_weight, self.sequence_weight = length_weight, sequence_weight
        self.hard_negatives, self.seed = hard_negatives, seed
        self.version: str | None = None
        self._weights: dict[str, Tensor] = {}

    def fit(
        self,
        content: Any,
        vectors: Any,
        pairs: tuple[Any, Any] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> ContentFit:
        """Learns from items that a model knows.

        Args:
            content: What is known of each, say vectors of their texts.
            vectors: Of the same items by the model; where they tell their version, so does this.
            pairs: Users and rows of ``content``: who has what, for ``sequence_weight``.
            say: Takes a line of progress now and then.

        Returns:
            How well it does on items left out.

        Raises:
            DataError: Values are not finite, numbers of rows differ, or there are fewer than 20.

        Shape:
            - content: (N, C)
            - vectors: (N, D)
            - pairs: (P,) and (P,)
        """
        versioned = isinstance(vectors, VersionedVectors)
        given = as_vectors(content, "content")
        wanted = as_vectors(vectors.values if versioned else vectors, "vectors")
        if len(given) != len(wanted) or len(given) < 20:
            raise DataError(
                "expected content and vectors of the same items, at least 20, got "
                f"{len(given):,} and {len(wanted):,} rows."
            )
        seen = None
        if self.sequence_weight and self.epochs:
            if pairs is None:
                raise DataError("`sequence_weight`: expected `pairs` with it, got none.")
            seen = _Seen(*pairs, len(given))
        random = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(given), generator=random)
        out, kept = order[: len(given) // 10], order[len(given) // 10 :]
        system, tried = _Ridge(given[kept], wanted[kept]), []
        for ridge in _RIDGES:
            self._start(system, ridge)
            tried.append((self._place(given[out], wanted[out]), -ridge))
        linear, ridge = max(tried)[0], -max(tried)[1]
        epochs, trained = 0, linear
        if self.epochs:
            self._start(system, ridge)
            epochs, trained = self._best_epochs(given, wanted, kept, out, seen, say)
        self._start(_Ridge(given, wanted), ridge)
        for _ in self._train(given, wanted, epochs, seen) if epochs else ():
            pass
        self.version = vectors.version if versioned else None
        return ContentFit(len(out), linear, trained, epochs, ridge)

    def vectors(self, content: Any) -> np.ndarray:
        """Vectors of items, to be scored like those of the model.

        Args:
            content: As in `fit`, in the same columns.

        Raises:
            DataError: Values are not finite, the width is another, or nothing was learned yet.

        Shape:
            - content: (n, C)
            - output: (n, D) float32
        """
        if not self._weights:
            raise DataError("nothing is learned yet: call `fit`.")
        given = as_vectors(content, "content")
        if given.shape[1] != self.width:
            raise DataError(f"`content`: expected {self.width} columns, got {given.shape[1]}.")
        with torch.inference_mode():
            return self._guess(given).numpy()

    @property
    def width(self) -> int:
        """Of a content."""
        return len(self._weights["mean"])

    def save(self, path: Path | str) -> Path:
        """Writes what was learned, the whole file or nothing.

        Args:
            path: Of a ``.safetensors`` file; its folder is made.

        Returns:
            The path.

        Raises:
            DataError: Nothing was learned yet.
        """
        if not self._weights:
            raise DataError("nothing is learned yet: call `fit`.")
        about = {"format": _FORMAT, "version": json.dumps(self.version)}
        with whole_file(Path(path)) as draft:
            save_file({name: one.contiguous() for name, one in self._weights.items()}, draft, about)
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> ContentVectors:
        """Reads what `save` wrote.

        Args:
            path: Of the file.

        Raises:
            DataError: It is missing, damaged or another kind of file.
        """
        made = cls()
        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT:
                    raise KeyError("format")
                made._weights = {name: file.get_tensor(name) for name in _WEIGHTS}
                made.version = json.loads(about["version"])
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise DataError(
                f"expected what `ContentVectors.save` writes, got: {error}", file=str(path)
            ) from None
        return made

    # ------------------------------------------------------------------------------- private

    def _guess(self, content: Tensor, dropout: float = 0.0) -> Tensor:
        found, x = self._weights, content - self._weights["mean"]
        hidden = functional.gelu(x @ found["first"] + found["first_bias"])
        hidden = functional.dropout(hidden, dropout, training=dropout > 0)
        return (
            x @ found["linear"] + found["shift"] + hidden @ found["second"] + found["second_bias"]
        )

    def _start(self, system: _Ridge, ridge: float) -> None:
        """The linear map, and a network that adds nothing yet; without epochs it has no width."""
        random = torch.Generator().manual_seed(self.seed)
        linear, hidden = system.solved(ridge), self.hidden if self.epochs else 0
        first = torch.randn(len(linear), hidden, generator=random)
        self._weights = {
            "mean": system.mean,
            "linear": linear,
            "shift": system.shift,
            "first": first / (system.unit * len(linear)) ** 0.5,
            "first_bias": torch.zeros(hidden),
            "second": torch.zeros(hidden, linear.shape[1]),
            "second_bias": torch.zeros(linear.shape[1]),
        }

    def _best_epochs(
        self,
        content: Tensor,
        vectors: Tensor,
        kept: Tensor,
        out: Tensor,
        seen: _Seen | None,
        say: Callable[[str], None],
    ) -> tuple[int, float]:
        best = (self._place(content[out], vectors[out]), 0)
        some = None if seen is None else seen.among(kept, len(content))
        for epoch in self._train(content[kept], vectors[kept], self.epochs, some):
            place = self._place(content[out], vectors[out])
            best = max(best, (place, -epoch))
            if epoch == 1 or not epoch % 10:
                say(f"epoch {epoch}/{self.epochs}  {len(out):,} held-out items at {place:.4f}")
        return -best[1], best[0]

    def _train(
        self, content: Tensor, vectors: Tensor, epochs: int, seen: _Seen | None
    ) -> Iterator[int]:
        """Goes on from the start; yields after every epoch."""
        random = torch.Generator().manual_seed(self.seed)
        trained = [self._weights[name].requires_grad_() for name in _WEIGHTS[1:]]
        optimizer = torch.optim.AdamW(trained, self.learning_rate)
        for epoch in range(epochs):
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(self.seed * 100_003 + epoch)  # of dropout
                for rows in self._batches(content, vectors, random):
                    loss = content_to_id(
                        self._guess(content[rows], _DROPOUT), vectors[rows], ids=rows,
                        temperature=self.temperature, length_weight=self.length_weight,
                    )  # fmt: skip
                    if seen is not None:
                        loss = loss + self.sequence_weight * self._sequences(content, seen, random)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            yield epoch + 1
        self._weights = {name: one.detach() for name, one in self._weights.items()}

    def _batches(
        self, content: Tensor, vectors: Tensor, random: torch.Generator
    ) -> Iterator[Tensor]:
        """Rows; where negatives are mined every second is a hard one of the row before it."""
        order = torch.randperm(len(content), generator=random)
        for part in order.split(_MINED):
            mined = part
            if self.hard_negatives and len(part) > 2:
                mined = self._with_near(content[part], vectors[part], part, random)
            for rows in mined.split(self.batch_size):
                if len(rows) > 1:
                    yield rows

    def _with_near(
        self, content: Tensor, vectors: Tensor, rows: Tensor, random: torch.Generator
    ) -> Tensor:
        with torch.no_grad():
            near = _cosines(self._guess(content), vectors)
        own = torch.eye(len(rows), dtype=torch.bool)
        threshold = f1_threshold(near.flatten(), own.flatten()).value
        count = min(_HARDEST, len(rows) - 1)
        hardest = below_threshold(near.masked_fill(own, -torch.inf), threshold, count)
        drawn = torch.randint(count, (len(rows), 1), generator=random)
        beside = hardest.gather(1, drawn)[:, 0]
        beside = torch.where(beside < 0, rows, rows[beside])  # itself counts once
        return torch.stack([rows, beside], 1).flatten()

    def _sequences(self, content: Tensor, seen: _Seen, random: torch.Generator) -> Tensor:
        history, offsets, targets = seen.draw(self.batch_size, random)
        if not len(targets):
            return content.new_zeros(())
        return sequence_to_item(
            self._guess(content[history], _DROPOUT), offsets,
            self._guess(content[targets], _DROPOUT),
            target_ids=targets, temperature=self.temperature,
        )  # fmt: skip

    def _place(self, content: Tensor, vectors: Tensor) -> float:
        with torch.no_grad():
            near = _cosines(self._guess(content[:_MINED]), vectors[:_MINED])
        own = near.diagonal()[:, None]
        further = (near < own).sum() + 0.5 * ((near == own).sum() - len(near))
        return float(further / (len(near) * (len(near) - 1)))


class _Ridge:
    """Regressions of vectors on contents: the products once, then a map for any ridge."""

    def __init__(self, content: Tensor, vectors: Tensor) -> None:
        self.mean, self.shift = content.mean(0), vectors.mean(0)
        count, width = content.shape
        self._x = None if width <= count else (content - self.mean).double()
        if self._x is None:
            system = torch.zeros(width, width, dtype=torch.float64)
            right = torch.zeros(width, vectors.shape[1], dtype=torch.float64)
            for x, y in zip(content.split(_BLOCK), vectors.split(_BLOCK)):
                x = (x - self.mean).double()
                system += x.T @ x
                right += x.T @ (y - self.shift).double()
        else:  # the smaller of the two systems
            system, right = self._x @ self._x.T, (vectors - self.shift).double()
        self._system, self._right = system, right
        self.unit = max(float(system.trace()) / (count * width), 1e-30)
        """Mean square of a centred content."""
        self._count = count

    def solved(self, ridge: float) -> Tensor:
        """The map, for a ridge of this share of the mean square."""
        strength = ridge * self.unit * self._count
        eye = torch.eye(len(self._system), dtype=torch.float64)
        found = torch.linalg.solve(self._system + strength * eye, self._right)
        return (found if self._x is None else self._x.T @ found).float()


class _Seen:
    """Who has what, to draw from."""

    def __init__(self, users: Any, rows: Any, count: int) -> None:
        user, row = (torch.as_tensor(np.asarray(part, dtype=np.int64)) for part in (users, rows))
        if user.dim() != 1 or user.shape != row.shape:
            raise DataError(
                f"`pairs`: expected two lists of one length, got {tuple(user.shape)} and "
                f"{tuple(row.shape)}."
            )
        if len(row) and not 0 <= int(row.min()) <= int(row.max()) < count:
            raise DataError(f"`pairs`: expected rows from 0 to {count - 1:,}.")
        order = user.argsort(stable=True)
        self.rows = row[order]
        self.user, counts = user[order].unique_consecutive(return_counts=True)
        self.counts = counts
        self.starts = counts.cumsum(0) - counts
        self.place = torch.arange(len(counts)).repeat_interleave(counts)

    def among(self, kept: Tensor, count: int) -> _Seen:
        """Those of some rows, by their new numbers."""
        number = torch.full((count,), -1)
        number[kept] = torch.arange(len(kept))
        there = number[self.rows] >= 0
        return _Seen(self.user[self.place][there], number[self.rows][there], len(kept))

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Histories one after the other, where each begins, and another item of each user."""
        if not len(self.rows):
            return self.rows, torch.zeros(1, dtype=torch.int64), self.rows
        pair = torch.randint(len(self.rows), (count,), generator=random)
        user, target = self.place[pair], self.rows[pair]
        share = torch.rand(count, _HISTORY, generator=random)
        drawn = self.rows[self.starts[user, None] + (share * self.counts[user, None]).long()]
        other = drawn != target[:, None]
        some = other.any(1)
        lengths = other[some].sum(1)
        offsets = functional.pad(lengths.cumsum(0), (1, 0))
        return drawn[some][other[some]], offsets, target[some]


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
