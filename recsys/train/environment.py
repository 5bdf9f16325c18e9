"""What a run ran on, written down so that its numbers can be judged later.

Stability: internal
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from recsys import __version__

_PACKAGES = (
    "torch", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "torchrec", "fbgemm-gpu-cpu",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions, code revision, machine and threads, as JSON values."""
    versions = {"recsys": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions,
        "git": git_revision(Path(__file__).parent),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def git_revision(folder: Path) -> str | None:
    """Commit of the checkout a folder is in, with ``+`` where files are changed.

    Args:
        folder: Any folder.

    Returns:
        None outside of a checkout or without git.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changed else "")


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
