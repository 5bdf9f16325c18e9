"""Looks after a folder, and has a service load it again when its content is another.

Stability: experimental
"""

from __future__ import annotations

import logging
import threading

from recsys.errors import RecsysError
from recsys.serving.service import Busy, Service

_log = logging.getLogger(__name__)


class Watcher:
    """Looks from a thread of its own. What cannot be loaded is tried once, and logged.

    Args:
        service: With a folder loaded.
        seconds: Between two looks.

    Example:
        >>> with Service() as service, Watcher(service, seconds=1.0) as watcher:
        ...     watcher.look()
        False
    """

    def __init__(self, service: Service, seconds: float) -> None:
        self._service, self._seconds = service, seconds
        self._failed: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="recsys-watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> bool:
        """Looks now.

        Returns:
            Whether something else is served than before.
        """
        now, folder = self._service.changed(), self._service.folder
        if now is None or now == self._failed or folder is None:
            return False
        try:
            self._service.load(folder)
        except Busy:
            return False
        except (RecsysError, OSError) as error:
            self._failed = now
            _log.error("%s was not loaded, what was served stays: %s", folder, error)
            return False
        self._failed = None
        return True

    def _work(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - logged, and the thread lives on
                _log.exception("looking after %s failed", self._service.folder)
