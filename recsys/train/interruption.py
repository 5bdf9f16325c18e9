"""Ctrl-C and SIGTERM end a run after the current step, not in the middle of it.

Stability: internal
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interruption:
    """Notes the first signal; a second Ctrl-C stops at once.

    Signals can only be taken over in the main thread; elsewhere this does nothing.

    Example:
        >>> with Interruption() as interruption:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interruption.name
        'SIGTERM'
    """

    def __init__(self) -> None:
        self.name = ""
        """Of the signal that came, empty before."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
