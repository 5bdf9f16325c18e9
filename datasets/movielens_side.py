"""MovieLens-1M's films with genre, director, writers and cast as aspects, and the plot as text.

3,881 films. Files: ``movies_extrainfos.dat`` with 11 cells and ``::`` between (id, title, year,
rating, released, genre, director, writer, actor, plot, poster; from OMDb) and ``movies.dat``
(MovieLens' own ids and genres). Source: github.com/recohut/coldstart-recsys, folder
``data/MeLU/ml-1m``, made for MeLU. Licence: MovieLens' (research use, no redistribution), OMDb's
(CC BY-NC 4.0). Split: by film, at random by seed.

Traps:
    - ``N/A`` means not known (36 plots, 82 writers): no label, an empty text.
    - Genres are OMDb's by default; MovieLens' own are other and fewer.
    - A plot names people and places that a director or series shares: aspects are not independent.
    - Common genres join most films: use `AspectTable.labels_in` or ``rule.max_items`` for them.

Stability: caller
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from recsys.data.files import find_file, needed_path
from recsys.errors import DataError
from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.aspects import AspectTable, aspect_table

_ADVICE = (
    "Get movies_extrainfos.dat and movies.dat from https://github.com/recohut/coldstart-recsys "
    "(data/MeLU/ml-1m), put them into one folder, and set `path` to it."
)
_COLUMNS = (
    "id", "title", "year", "rating", "released", "genre", "director", "writer", "actor", "plot",
    "poster",
)  # fmt: skip
_NAMES = {"genre": "genre", "director": "director", "writers": "writer", "cast": "actor"}


class MovieLensSide(AspectDataset):
    """Films and who made them.

    Args:
        config: Where the files are, which aspects, and how to split.

    Raises:
        DataError: From `table`: files are missing, cut or malformed.

    Source:
        Harper and Konstan, "The MovieLens Datasets", TiiS 2015; Lee et al., "MeLU", KDD 2019.
    """

    homepage = "https://github.com/recohut/coldstart-recsys"
    licence = "MovieLens: research use, no redistribution; OMDb: CC BY-NC 4.0"

    class Config(AspectDataset.Config):
        """Where the files are, which aspects, and how to split."""

        path: str | None = None
        """Folder with the files."""
        aspects: tuple[Literal["genre", "director", "writers", "cast"], ...] = (
            "genre", "director", "writers", "cast",
        )  # fmt: skip
        """Which aspects."""
        genres: Literal["omdb", "movielens"] = "omdb"
        """Whose genres."""
        title: bool = False
        """Whether the text begins with the title."""

    config: Config

    def table(self, cache_dir: Path) -> AspectTable:
        """Reads the films."""
        del cache_dir
        path = needed_path(self.config.path, "MovieLens' side data", _ADVICE)
        films = _lines(find_file(path, ["movies_extrainfos.dat"], _ADVICE), len(_COLUMNS))
        genres = {}
        if self.config.genres == "movielens" and "genre" in self.config.aspects:
            own = _lines(find_file(path, ["movies.dat"], _ADVICE), 3)
            genres = {cells[0]: cells[2].split("|") for cells in own}
        texts: dict[int, str] = {}
        rows: list[tuple[int, str, str]] = []
        for cells in films:
            film: dict[str, str] = dict(zip(_COLUMNS, cells))
            number, plot = int(film["id"]), film["plot"].strip()
            plot = "" if plot == "N/A" else plot
            texts[number] = f"{film['title']}: {plot}" if self.config.title else plot
            for aspect in self.config.aspects:
                found = _people(film[_NAMES[aspect]])
                if aspect == "genre" and self.config.genres == "movielens":
                    found = genres.get(film["id"], [])
                rows += [(number, aspect, label) for label in dict.fromkeys(found)]
        item, aspect, label = (list(column) for column in zip(*rows)) if rows else ([], [], [])
        return aspect_table(texts, item, aspect, label, self.config.rule, self.config.aspects)


def _lines(file: Path, count: int) -> list[list[str]]:
    """Cells of every line; ids are whole numbers, each once."""
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"not readable: {error}. Fetch it anew.", file=str(file)) from None
    found, known = [], set()
    for row, line in enumerate(lines):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("::")
        if len(cells) != count or not (cells[0].isascii() and cells[0].isdigit()):
            raise DataError(
                f"expected an id and {count - 1} more cells with `::` between, got {len(cells)} "
                f"cells: {line[:40]!r}. Is the file complete?", file=str(file), row=row + 1,
            )  # fmt: skip
        if cells[0] in known:
            raise DataError(f"film {cells[0]} is there twice.", file=str(file), row=row + 1)
        known.add(cells[0])
        found.append(cells)
    return found


def _people(text: str) -> list[str]:
    """Names without what is in brackets, say ``(screenplay)``."""
    names = re.sub(r"\([^)]*\)", "", text).split(",")
    return [name.strip() for name in names if name.strip() not in ("", "N/A")]
