"""Counts and times of a service, as text that Prometheus reads.

Stability: experimental
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Mapping

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the classes of times, seconds."""


class Metrics:
    """Counters, values and histograms of times. Several threads may write.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count("asked_total", "Requests.", kind="predict")
        >>> metrics.put("ready", "Whether requests are answered.", 1)
        >>> print(metrics.text(), end="")
        # HELP asked_total Requests.
        # TYPE asked_total counter
        asked_total{kind="predict"} 1
        # HELP ready Whether requests are answered.
        # TYPE ready gauge
        ready 1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._about: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[str, float]] = {}
        self._times: dict[str, dict[str, tuple[list[int], float]]] = {}

    def count(self, name: str, help: str, by: float = 1, **labels: object) -> None:
        """Adds to a counter.

        Args:
            name: Of the counter; ends in ``_total``.
            help: What it counts.
            by: How much.
            labels: Of the counter.
        """
        with self._lock:
            self._about[name] = (help, "counter")
            values = self._values.setdefault(name, {})
            key = _labels(labels)
            values[key] = values.get(key, 0) + by

    def put(self, name: str, help: str, value: float, **labels: object) -> None:
        """Sets a value, which may go up and down.

        Args:
            name: Of the value.
            help: What it says.
            value: What it is.
            labels: Of the value. Earlier values with others are forgotten.
        """
        with self._lock:
            self._about[name] = (help, "gauge")
            self._values[name] = {_labels(labels): value}

    def time(self, name: str, help: str, seconds: float, **labels: object) -> None:
        """Adds a time to a histogram.

        Args:
            name: Of the histogram; ends in ``_seconds``.
            help: What takes that time.
            seconds: How long.
            labels: Of the histogram.
        """
        with self._lock:
            self._about[name] = (help, "histogram")
            series = self._times.setdefault(name, {})
            counts, total = series.get(_labels(labels), ([0] * (len(BOUNDS) + 1), 0.0))
            counts[bisect.bisect_left(BOUNDS, seconds)] += 1
            series[_labels(labels)] = (counts, total + seconds)

    def value(self, name: str, **labels: object) -> float:
        """What a counter or value is now; 0 where there is none.

        Args:
            name: Of it.
            labels: Of it.
        """
        with self._lock:
            return self._values.get(name, {}).get(_labels(labels), 0)

    def text(self) -> str:
        """Everything, in the text format 0.0.4 of Prometheus."""
        lines = []
        with self._lock:
            for name, (help, kind) in sorted(self._about.items()):
                lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
                for key, value in sorted(self._values.get(name, {}).items()):
                    lines.append(f"{name}{_braces(key)} {value:.17g}")
                for key, (counts, total) in sorted(self._times.get(name, {}).items()):
                    lines += _histogram(name, key, counts, total)
        return "\n".join(lines) + "\n"


def _histogram(name: str, key: str, counts: list[int], total: float) -> list[str]:
    lines, so_far = [], 0
    for bound, count in zip([*(f"{b:g}" for b in BOUNDS), "+Inf"], counts):
        so_far += count
        inner = ",".join(part for part in (key, f'le="{bound}"') if part)
        lines.append(f"{name}_bucket{{{inner}}} {so_far}")
    lines.append(f"{name}_sum{_braces(key)} {total:.9g}")
    lines.append(f"{name}_count{_braces(key)} {so_far}")
    return lines


def _braces(key: str) -> str:
    return f"{{{key}}}" if key else ""


def _labels(labels: Mapping[str, object]) -> str:
    def quoted(value: object) -> str:
        return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return ",".join(f'{name}="{quoted(value)}"' for name, value in sorted(labels.items()))
