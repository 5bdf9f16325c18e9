"""Small raw files and the schema that reads them."""

from pathlib import Path

import pytest

from recsys.data.source import Source


@pytest.fixture
def write(tmp_path: Path):
    """Writes a text file and returns its source."""

    def make(text: str | bytes, name: str = "log.csv", **options: object) -> Source:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Source(files=(str(path),), **{"format": "csv", **options})

    return make
