"""Sends the next batch's indices to their ranks while a batch is being trained.

What torchrec's pipeline cannot do by itself is done here: indices of compressed tables are encoded
before they are sent, and other batches than those of the trainer never meet a pipelined lookup.

Stability: internal
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torchrec.distributed.train_pipeline.train_pipelines import TrainPipelineSparseDist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.ids import Ids
from recsys.embeddings.torchrec_backend import TorchrecStore
from recsys.types import Batch


class SparseDistPipeline:
    """Trains batch after batch with torchrec's ``TrainPipelineSparseDist``.

    While batch i is trained, the indices of batch i+1 are exchanged and batch i+2 is copied to the
    device; on CUDA each on a stream of its own, on CPU by gloo's threads. What is computed is the
    same, bit for bit, since rows are read only when their batch is trained.

    Args:
        embeddings: On the torchrec backend, `encodes_ahead`.
        forward: The loss of a batch, with its graph.
        update: What comes after backward.
        device: Where the model is.

    Raises:
        ShardingError: In run: ranks bring batches of different size.
    """

    def __init__(
        self,
        embeddings: EmbeddingCollection,
        forward: Callable[[Batch], Tensor],
        update: Callable[[], None],
        device: torch.device,
    ) -> None:
        store = embeddings.store
        assert isinstance(store, TorchrecStore)
        self._embeddings, self._store, self._device = embeddings, store, device
        self._forward, self._taken = forward, 0
        self._answers: list[Callable[[], None]] = []
        self._ahead: collections.deque[tuple[Batch, Ids]] = collections.deque()
        # Said once by torch about a call inside torchrec.
        logging.getLogger("torch.fx._symbolic_trace").addFilter(_is_news)
        self._pipeline = TrainPipelineSparseDist(
            store.sharded, cast(Any, _Update(update)), device, custom_model_fwd=self._train
        )

    def run(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Trains all batches. Up to two are taken before they are needed.

        Args:
            batches: As many on every rank.

        Returns:
            Each batch, on the device, when it has been trained, with its loss.
        """
        indices = self._indices(batches)
        self._store.pipelined, self._taken = True, 0
        try:
            while True:
                try:
                    trained = self._pipeline.progress(indices)
                except StopIteration:
                    return
                yield trained
        finally:
            # Evaluation looks rows up as if there were no pipeline.
            self._store.pipelined = False
            self._pipeline.detach()
            self._pipeline.reset()
            self._ahead.clear()
            self._answers.clear()

    def _indices(self, batches: Iterator[Batch]) -> Iterator[KeyedJaggedTensor]:
        """What the pipeline distributes; on CUDA called with its copying stream."""
        for batch in batches:
            if self._device.type != "cpu":
                batch = batch.to(self._device, non_blocking=True)
            ids = self._embeddings.encode(batch)
            self._check(self._store.check_batch_size(ids.batch_size))
            self._ahead.append((batch, ids))
            yield self._store.kjt(ids)

    def _check(self, answer: Callable[[], None]) -> None:
        """Waits for it before the batch's indices are sent.

        The first two are sent at once, those that follow when another batch has been trained. On
        CUDA only the first two are checked, because reading an answer stops the device.
        """
        self._taken += 1
        if self._taken <= 2:
            answer()
        elif self._device.type == "cpu":
            self._answers.append(answer)

    def _train(self, kjt: KeyedJaggedTensor | None) -> tuple[Tensor, tuple[Batch, Tensor]]:
        """Forward of the batch whose turn it is."""
        batch, ids = self._ahead.popleft()
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            for tensor in (*batch.tensors().values(), ids.values, ids.lengths):
                tensor.record_stream(stream)
        with self._embeddings.encoded(batch, ids):
            loss = self._forward(batch)
        while self._answers:
            self._answers.pop()()
        return loss, (batch, loss.detach())


def _is_news(record: logging.LogRecord) -> bool:
    return "is_fx_tracing will return true" not in record.getMessage()


class _Update:
    """What the pipeline takes for the optimizer: everything that comes after backward."""

    def __init__(self, update: Callable[[], None]) -> None:
        self._update = update

    def zero_grad(self) -> None:
        """Gradients are cleared by the step itself."""

    def step(self) -> None:
        """After backward."""
        self._update()
