"""Recurrent binarization (BEBR): small networks learn signs, and signs of what signs leave.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from recsys.errors import DataError
from recsys.losses.distillation import list_distillation
from recsys.losses.in_batch import in_batch
from recsys.retrieval.code_products import few
from recsys.retrieval.codes import ScannedCodes, directions, half, sample, take_state
from recsys.retrieval.sign_bits import pack_signs, sign_products, unpack_signs
from recsys.retrieval.training_pairs import TrainingPairs

_PAIRS = 20_000  # looked at in an epoch
_BATCH = 256
_HARDEST = 5
_TEMPERATURE = 0.05
_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY, _DECAY_AT = 0.08, 0.9, 1e-3, 0.6
_LAYER = ("first", "shift", "second", "bias")

Block = Callable[[Tensor], Tensor]


class RecurrentCodes(ScannedCodes):
    """``b = b_0 + b_1 / 2 + b_2 / 4 + ...``: signs of a network, each of what is left.

    ``b_0 = sign(W(x))``; then what the sum so far says of the vector, ``f = norm(B_t(b))``, is
    taken away, and ``b_t = sign(R_t(x - f))``. W, B_t and R_t are Linear-BatchNorm-ReLU-Linear; x
    is the direction of a vector. Queries are coded by the same networks. A score is
    ``|q| |v| cos(b_q, b_v)``: without the length of the item (two bytes), which often is its
    popularity, such codes lose half of the relevant items.

    Of the exact lists they keep less than `ScalarCodes` of as many bits. Judge them by relevant
    items (`recsys.retrieval.fidelity.fidelity`), and score candidates again.

    Args:
        bits: Of a level.
        levels: Of signs.
        hidden: Width of the networks; 2,048 in the paper, for vectors of 512 values and more.
        epochs: Of training, of at most 20,000 pairs each.
        pairs: Queries with their items, say users with what they took in training. None learns to
            keep the cosines of vectors among each other, which knows nothing of queries.
        fidelity: Weight of that beside what is learned from pairs; 0 in the paper. Measured on
            12,703 pairs of LightGCN's vectors: without it codes learned the pairs by heart, and
            found fewer held-out items than codes that were given none.
        seed: Of the start and the order of pairs.

    Raises:
        DataError: A number is out of range.

    Known pairs are no negatives: among the five hardest of a batch of users most would be.

    Source:
        Gan et al., "Binary Embedding-based Retrieval at Tencent", KDD 2023, and its official code
        as the project's reference describes it: InfoNCE of cosines in both directions over the five
        hardest negatives of the batch, SGD of 0.08 with weight decay 0.001, a tenth of the rate
        after six tenths of the epochs. Momentum 0.9, clipped gradients, the kept length and
        ``fidelity`` are ours; not here: SIMD look-ups, training against the codes of an
        older model.

    Example:
        >>> vectors = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
        >>> codes = RecurrentCodes(bits=16, levels=2, hidden=32, epochs=1).fitted(vectors)
        >>> parts = codes.encode(vectors)
        >>> [(name, tuple(part.shape)) for name, part in parts.items()]
        [('codes', (300, 2, 2)), ('length', (300,))]
        >>> scores = codes.products(codes.prepare(vectors[:1]), parts)[0]
        >>> bool(scores[0].isclose(vectors[0].square().sum(), rtol=0.01))  # its own code
        True
    """

    kind = "bebr"

    def __init__(
        self,
        bits: int = 128,
        levels: int = 2,
        *,
        hidden: int = 256,
        epochs: int = 10,
        pairs: TrainingPairs | None = None,
        fidelity: float = 1.0,
        seed: int = 0,
    ) -> None:
        for name, given, most in (("bits", bits, 4096), ("levels", levels, 8)):
            if not 1 <= given <= most:
                raise DataError(f"`{name}` must be from 1 to {most}, got {given}.")
        if hidden < 1 or epochs < 1:
            raise DataError(f"`hidden` and `epochs` must be at least 1, got {hidden}, {epochs}.")
        self.bits, self.levels = bits, levels
        if not fidelity >= 0:
            raise DataError(f"`fidelity` must be at least 0, got {fidelity}.")
        self.hidden, self.epochs, self.seed = hidden, epochs, seed
        self.pairs, self.fidelity = pairs, fidelity
        self._layers: list[_Layer] = []
        self._unit = torch.ones(())

    @property
    def name(self) -> str:
        """``bebr128x2``, ..."""
        return f"bebr{self.bits}x{self.levels}"

    def options(self) -> dict[str, int | float | bool | str | None]:
        """See `Codes`."""
        return {
            "bits": self.bits,
            "levels": self.levels,
            "hidden": self.hidden,
            "epochs": self.epochs,
            "fidelity": self.fidelity,
            "seed": self.seed,
        }

    def fit(self, vectors: Tensor) -> None:
        """See `Codes`.

        Args:
            vectors: Float vectors, (N, D).

        Raises:
            DataError: Pairs do not fit the vectors, or fewer than two are not zero.
        """
        random = torch.Generator().manual_seed(self.seed)
        batches = _batches_of(self.pairs, vectors)
        dim = vectors.shape[1]
        shapes = [(dim, self.bits)]
        for _ in range(1, self.levels):
            shapes += [(self.bits, dim), (dim, self.bits)]
        blocks = [_Trained(inside, self.hidden, outside, random) for inside, outside in shapes]
        weights = [weight for block in blocks for weight in block.weights]
        optimizer = torch.optim.SGD(
            weights, lr=_LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
        )
        with torch.enable_grad():
            for epoch in range(self.epochs):
                if epoch == math.ceil(_DECAY_AT * self.epochs):
                    optimizer.param_groups[0]["lr"] = _LEARNING_RATE / 10
                for rows, queries, known in batches(random):
                    keys = directions(vectors[rows])[0]
                    both = keys if queries is None else torch.cat([queries, keys])
                    found = sum_of_signs(_recurrent(both, blocks, _straight_through))
                    coded = found[-len(keys) :]
                    loss = _likeness(coded, keys)
                    if queries is not None:
                        contrast = _contrast(found[: len(keys)], coded, rows, known)
                        loss = contrast + self.fidelity * loss
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                    optimizer.step()
        self._layers = [block.folded() for block in blocks]
        lengths = torch.linalg.vector_norm(sample(vectors), dim=1)
        self._unit = lengths.max().clamp(min=1e-30)

    def signs(self, vectors: Tensor) -> list[Tensor]:
        """Plus and minus ones of every level.

        Args:
            vectors: (n, D).

        Returns:
            One (n, bits) a level.
        """
        assert self._layers, "fit first"
        return _recurrent(directions(vectors)[0], self._layers, _sign)

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `Codes`."""
        signs = self.signs(vectors)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        own = torch.linalg.vector_norm(sum_of_signs(signs), dim=1) / math.sqrt(self.bits)
        return {
            "codes": torch.stack([pack_signs(level > 0) for level in signs], 1),
            "length": half(lengths / own.clamp(min=1e-6), self._unit),
        }

    def prepare(self, queries: Tensor) -> Tensor:
        """See `ScannedCodes`: the sum of signs, of the query's length, and zeros to whole bytes."""
        found = directions(sum_of_signs(self.signs(queries)))[0]
        lengths = torch.linalg.vector_norm(queries, dim=1, keepdim=True)
        found = found * lengths * (self._unit / math.sqrt(self.bits))
        return functional.pad(found, (0, -self.bits % 8))

    def products(self, prepared: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """See `ScannedCodes`."""
        levels = parts["codes"].unbind(1)
        if few(len(prepared)):
            scores = sum_of_signs([sign_products(prepared, level) for level in levels])
        else:
            scores = prepared @ sum_of_signs([unpack_signs(level) for level in levels]).T
        return scores.mul_(parts["length"].float())

    def state(self) -> dict[str, Tensor]:
        """See `Codes`."""
        assert self._layers, "fit first"
        every = {
            f"{number}.{name}": tensor
            for number, layer in enumerate(self._layers)
            for name, tensor in zip(_LAYER, layer)
        }
        return {**every, "unit": self._unit}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Codes`."""
        shapes = {"unit": 0}
        for number in range(2 * self.levels - 1):
            shapes |= {f"{number}.{k}": d for k, d in zip(_LAYER, (2, 1, 2, 1))}
        self._unit, *rest = take_state(state, shapes)
        self._layers = [_Layer(*rest[n : n + 4]) for n in range(0, len(rest), 4)]


def sum_of_signs(levels: Sequence[Tensor]) -> Tensor:
    """``b_0 + b_1 / 2 + b_2 / 4 + ...``.

    Args:
        levels: Signs, all of one shape.
    """
    total = levels[0]
    for number, level in enumerate(levels[1:], 1):
        total = total + level * 0.5**number
    return total


def _recurrent(x: Tensor, blocks: Sequence[Block], sign: Block) -> list[Tensor]:
    """Blocks are W, B_1, R_1, B_2, R_2, ..."""
    levels = [sign(blocks[0](x))]
    for back, again in zip(blocks[1::2], blocks[2::2]):
        known = functional.normalize(back(sum_of_signs(levels)), dim=1)
        levels.append(sign(again(x - known)))
    return levels


def _sign(x: Tensor) -> Tensor:
    return 2.0 * (x >= 0) - 1.0


def _straight_through(x: Tensor) -> Tensor:
    """Signs; the gradient is that of x where it lies between -1 and 1, and 0 beyond."""
    near = x.clamp(-1.0, 1.0)
    return near + (_sign(x) - near).detach()


class _Layer(NamedTuple):
    """A block as it is served: the batch norm is part of the first layer."""

    first: Tensor
    shift: Tensor
    second: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.first + self.shift) @ self.second + self.bias


class _Trained:
    """Linear-BatchNorm-ReLU-Linear in training."""

    def __init__(self, inside: int, hidden: int, outside: int, random: torch.Generator) -> None:
        first = torch.randn(inside, hidden, generator=random) / math.sqrt(inside)
        second = torch.randn(hidden, outside, generator=random) / math.sqrt(hidden)
        self.weights = [
            first,
            torch.ones(hidden),
            torch.zeros(hidden),
            second,
            torch.zeros(outside),
        ]
        for weight in self.weights:
            weight.requires_grad_()
        self._mean, self._variance = torch.zeros(hidden), torch.ones(hidden)

    def __call__(self, x: Tensor) -> Tensor:
        first, gain, shift, second, bias = self.weights
        inside = functional.batch_norm(
            x @ first, self._mean, self._variance, gain, shift, training=True
        )
        return torch.relu(inside) @ second + bias

    def folded(self) -> _Layer:
        first, gain, shift, second, bias = (weight.detach() for weight in self.weights)
        scale = gain / (self._variance + 1e-5).sqrt()
        return _Layer(first * scale, shift - self._mean * scale, second, bias)


def _batches_of(
    pairs: TrainingPairs | None, vectors: Tensor
) -> Callable[[torch.Generator], Iterator[tuple[Tensor, Tensor | None, Tensor | None]]]:
    """What gives the batches of an epoch: rows, directions of their queries, known pairs."""
    if pairs is not None:
        usable = pairs.usable(vectors)

        def given(random: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for batch in usable.batches(_BATCH, _PAIRS, random):
                yield batch.rows, directions(batch.queries)[0], batch.known

        return given
    rows = vectors.any(1).nonzero()[:, 0]
    if len(rows) < 2:
        raise DataError(
            f"codes are learned from vectors, and {len(rows)} are not zero; at least 2 must be."
        )

    def alone(random: torch.Generator) -> Iterator[tuple[Tensor, None, None]]:
        order = rows[torch.randperm(len(rows), generator=random)[:_PAIRS]]
        for part in order.split(_BATCH):
            if len(part) > 1:
                yield part, None, None

    return alone


def _likeness(found: Tensor, vectors: Tensor) -> Tensor:
    """Cosines of codes within a batch should be those of the vectors."""
    codes = functional.normalize(found, dim=1)
    others = ~torch.eye(len(codes), dtype=torch.bool)
    return list_distillation(
        codes @ codes.T / _TEMPERATURE, vectors @ vectors.T / _TEMPERATURE, known=others
    )


def _contrast(queries: Tensor, keys: Tensor, rows: Tensor, known: Tensor | None) -> Tensor:
    """Both directions, each among its hardest negatives."""
    with torch.no_grad():
        near = functional.normalize(queries, dim=1) @ functional.normalize(keys, dim=1).T
        hidden = rows[:, None] == rows
        if known is not None:
            hidden = hidden | known
        near = near.masked_fill(hidden, -torch.inf)
    losses = [
        in_batch(one, two, ids=rows, known=_easy(scores), temperature=_TEMPERATURE)
        for one, two, scores in ((queries, keys, near), (keys, queries, near.T))
    ]
    return (losses[0] + losses[1]) / 2


def _easy(near: Tensor) -> Tensor:
    """All but the hardest columns of every row, and those that are no negatives."""
    hardest = near.topk(min(_HARDEST, near.shape[1]), dim=1).indices
    easy = torch.ones_like(near, dtype=torch.bool).scatter_(1, hardest, False)
    return easy | (near == -torch.inf)
