"""How much memory is free on this host, its container's limit included.

Stability: internal
"""

from __future__ import annotations

from pathlib import Path


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process could still take, None where the system does not say.

    The smaller of what the kernel calls available and what the control group (version 2 or 1) has
    left. Caches of files count as free.

    Args:
        root: Where ``/proc`` and ``/sys`` are.
    """
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    if not found:
        return None
    groups = root / "sys/fs/cgroup"
    for folder, most, used in (
        (groups, "memory.max", "memory.current"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, taken = _number(folder / most), _number(folder / used)
        if limit is not None and taken is not None:
            stats = dict(line.split()[:2] for line in _lines(folder / "memory.stat"))
            found.append(max(0, limit - taken + int(stats.get("inactive_file", 0))))
    return min(found)


def _number(path: Path) -> int | None:
    """The number in a file; None without one (``max`` means no limit)."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
