"""Shows how training goes: a bar on a terminal, a line now and then elsewhere.

Stability: internal
"""

from __future__ import annotations

import sys
import time
from typing import Literal, Self

from tqdm import tqdm

Show = Literal["auto", "bar", "lines", "none"]
"""``auto``: a bar where standard error is a terminal, else lines."""
_SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    Args:
        seconds: Not negative.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def count(value: float) -> str:
    """A large number in three digits.

    Args:
        value: Not negative.

    Example:
        >>> count(41234), count(950), count(1.25e6)
        ('41.2k', '950', '1.25M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


class Display:
    """Talks to the person who waits, on the first rank only.

    Args:
        show: Bar, lines or nothing.
        num_steps: Steps of the whole run.
        start: Steps done already.
    """

    def __init__(self, show: Show, num_steps: int, start: int = 0) -> None:
        terminal = sys.stderr.isatty()
        self._show = ("bar" if terminal else "lines") if show == "auto" else show
        self._num_steps = num_steps
        self._bar = tqdm(
            total=num_steps,
            initial=start,
            unit="batch",
            disable=self._show != "bar",
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}",
        )
        self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """A line that stays.

        Args:
            text: Without line end.
        """
        if self._show == "bar":
            tqdm.write(text, file=sys.stderr)
        elif self._show == "lines":
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def step(self) -> None:
        """One batch is done."""
        self._bar.update()

    def look(
        self, epoch: str, step: int, loss: float, rows_per_second: float, left_s: float
    ) -> None:
        """Shows loss and speed.

        Args:
            epoch: Say ``1/3``.
            step: Batches trained.
            loss: Mean of late.
            rows_per_second: On all ranks.
            left_s: Seconds of training left.
        """
        speed = f"{count(rows_per_second)} rows/s"
        if self._show == "bar":
            self._bar.set_description_str(f"epoch {epoch}", refresh=False)
            self._bar.set_postfix_str(f"{speed}  loss {loss:.4f}  eta {duration(left_s)}")
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(
                f"epoch {epoch}  step {step:,}/{self._num_steps:,}  {speed}  loss {loss:.4f}  "
                f"eta {duration(left_s)}"
            )
