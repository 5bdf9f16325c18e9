"""The one factor that multiplies all learning rates: warm-up times schedule.

Stability: internal
"""

from __future__ import annotations

import math
from typing import Any

from recsys.fit_config import FitConfig


class Schedule:
    """Warm-up, then constant, cosine or plateau.

    ``factor(step) = min(1, (step + 1) / warmup_steps) * schedule(step)``, so the first step is not
    wasted at 0 and the first full step is ``warmup_steps - 1``.

    Args:
        config: Which schedule.
        num_steps: Steps of the whole training, for ``cosine``.

    Example:
        >>> schedule = Schedule(FitConfig(warmup_steps=2, schedule="cosine"), num_steps=6)
        >>> [round(schedule.factor(step), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    """

    def __init__(self, config: FitConfig, num_steps: int) -> None:
        self._config, self._num_steps = config, num_steps
        self._plateau = 1.0
        self._waited = 0

    def factor(self, step: int) -> float:
        """The factor of a step.

        Args:
            step: Counted from 0.
        """
        config = self._config
        warmup = config.warmup_steps
        factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if config.schedule == "plateau":
            return factor * self._plateau
        if config.schedule == "cosine" and step >= warmup:
            done = (step - warmup) / max(1, self._num_steps - 1 - warmup)
            return (1 + math.cos(math.pi * min(1.0, done))) / 2
        return factor

    def evaluated(self, improved: bool) -> bool:
        """Tells the schedule about an evaluation.

        Args:
            improved: Whether it was a new best.

        Returns:
            Whether ``plateau`` lowered the factor.
        """
        self._waited = 0 if improved else self._waited + 1
        if self._config.schedule != "plateau" or self._waited < self._config.plateau_patience:
            return False
        self._waited = 0
        self._plateau *= self._config.plateau_factor
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {"plateau": self._plateau, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Args:
            state: Of a checkpoint.
        """
        self._plateau, self._waited = float(state["plateau"]), int(state["waited"])
