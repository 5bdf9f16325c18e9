"""Where a training run is: what must be saved so that it can go on as if never stopped.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BESTS = ("best", "best_trained")


@dataclasses.dataclass(slots=True)
class Progress:
    """Counters of a run.

    Args:
        step: Batches trained.
        epoch: The current epoch, from 0.
        batch: Batches trained in the current epoch.
        rows: Rows trained on all ranks, padding included.
        seconds: Wall time of training, evaluation left out, over all resumed parts.
        evaluations: Evaluations done.
        best: Best value of the monitored metric so far.
        best_step: Step of that value.
        best_trained: The same, where the start of the training was left out.
        without_best: Evaluations since that one.
        constant: Evaluations in a row in which all predictions were equal.
        stopped: Why training ended before its last step, empty while it has not.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    rows: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    best: float = math.nan
    best_step: int = -1
    best_trained: float = math.nan
    without_best: int = 0
    constant: int = 0
    stopped: str = ""

    def judge(self, value: float, higher: bool, margin: float, start: bool = False) -> bool:
        """Counts an evaluation.

        Args:
            value: The monitored metric; nan is never a best.
            higher: Whether larger is better.
            margin: By how much a best must be better.
            start: Whether nothing was trained yet: it may be the best, and patience starts later.

        Returns:
            Whether it is the best so far.
        """
        self.evaluations += 1

        def better(than: float) -> bool:
            gain = value - than if higher else than - value
            return not math.isnan(value) and (math.isnan(than) or gain > margin)

        improved = better(self.best)
        if improved:
            self.best, self.best_step = value, self.step
        if start:
            return improved
        if better(self.best_trained):
            self.best_trained, self.without_best = value, 0
        else:
            self.without_best += 1
        return improved

    def to_json(self) -> dict[str, Any]:
        """As JSON values (nan as None)."""
        values = dataclasses.asdict(self)
        return {**values, **{n: None if math.isnan(values[n]) else values[n] for n in _BESTS}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Progress:
        """What `to_json` gave.

        Args:
            values: Of a checkpoint.
        """
        bests = {name: values.get(name, values["best"]) for name in _BESTS}
        found = {name: math.nan if best is None else float(best) for name, best in bests.items()}
        return cls(**{**values, **found})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of every random generator a training step may draw from, as tensors.

    Args:
        device: Where the model is.
    """
    kind, numbers, gauss = random.getstate()
    version, keys, position, has_gauss, cached = np.random.get_state()
    texts = {
        "python": json.dumps([kind, list(numbers), gauss]),
        "numpy": json.dumps([version, np.asarray(keys).tolist(), position, has_gauss, cached]),
    }
    state = {
        name: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        for name, text in texts.items()
    }
    state["torch"] = torch.get_rng_state()
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Puts every generator back where `random_state` found it.

    Args:
        state: Of a checkpoint.
        device: Where the model is.
    """
    kind, numbers, gauss = json.loads(bytes(state["python"].tolist()))
    random.setstate((kind, tuple(numbers), gauss))
    version, keys, position, has_gauss, cached = json.loads(bytes(state["numpy"].tolist()))
    np.random.set_state((version, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch.

    Args:
        seed: Any number from 0 to 2**32 - 1.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
