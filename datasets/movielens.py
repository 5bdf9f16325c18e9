"""MovieLens 100K and 1M: film ratings as clicks, with features of users and films.

Source: grouplens.org/datasets/movielens. Licence: GroupLens's (research, no redistribution without
permission, citation asked for); the zip files are fetched from files.grouplens.org where no path is
given (checksums below). RecBole's atomic files (``ml-100k.inter``, ``.user``, ``.item``) are read
where they are put. Split: by time by default, or at random.

Schema: ``user_id``, ``item_id``, gender, age, occupation, zip code, release year, ``genres`` (a
bag), label ``click`` from the rating, group ``user_id``, time ``timestamp``. The features of users
and films are joined once, in the conversion to Parquet in the cache folder.

Traps:
    - What a 3 means is a choice: by default it counts as no click; ``ignore=(3.0,)`` leaves such
      rows out. Figures of the two do not compare.
    - Ratings are self-selected: nobody saw films at random, and there are no impressions.
    - Every user's ratings were entered within minutes, and by time most users of the test part are
      new. A random split is far easier than a split by time.
    - ``ratings.dat`` is separated by ``::`` and the film files are Latin-1.
    - Ages of 1M are classes (1, 18, 25, ...), those of 100K are years: they are ids here.
    - MovieLensLatest_x1 of BARS is another log (tags as clicks); its figures do not compare.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.data.files import (
    ParquetParts,
    conversion_digest,
    fetch,
    find_file,
    needed_path,
    read_copy,
    text_column,
)
from recsys.data.readers import Chunk, check_columns
from recsys.data.source import RandomSplits, Source, Splits, TimeSplits
from recsys.folders import made_once
from recsys.schema import Categorical, Label, MultiValued, Schema

USER = ("user_id", "gender", "age", "occupation", "zip_code")
"""Ids of the user."""
ITEM = ("item_id", "release_year")
"""Ids of the film; the bag ``genres`` comes on top."""

_FORMAT = 1
_ARCHIVES = {
    "100k": (
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "md5:0e33842e24a9c977be4e0107933c0723",
    ),
    "1m": (
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "md5:c4d9eecfca2ab87c1945afe126590906",
    ),
}
_FILES = {
    "100k": ("u.data", "u.user", "u.item"),
    "1m": ("ratings.dat", "users.dat", "movies.dat"),
    "recbole": ("ml-100k.inter", "ml-100k.user", "ml-100k.item"),
}
_ADVICE = {
    "100k": f"Unpack {_ARCHIVES['100k'][0]} and set `path` to its folder ml-100k.",
    "1m": f"Unpack {_ARCHIVES['1m'][0]} and set `path` to its folder ml-1m.",
    "recbole": (
        "Get ml-100k.inter, ml-100k.user and ml-100k.item from https://github.com/RUCAIBox/RecBole "
        "(recbole/dataset_example/ml-100k), put them into one folder, and set `path` to it."
    ),
}
# fmt: off
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)
# fmt: on


class MovieLens(Dataset):
    """Film ratings as clicks.

    Args:
        config: Edition, files, what a click is, split.

    Raises:
        DataError: From `splits`: files are missing, cannot be fetched, or are malformed.

    Source:
        Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.

    Example:
        >>> MovieLens(MovieLens.Config(edition="1m")).schema().keys[-1]
        'genres'
    """

    homepage = "https://grouplens.org/datasets/movielens/"
    licence = "GroupLens: research use, no redistribution without permission"

    class Config(Dataset.Config):
        """Edition, files, what a click is, split."""

        edition: Literal["100k", "1m", "recbole"] = "100k"
        """``recbole``: the atomic files of RecBole's ml-100k."""
        path: str | None = None
        """Folder with the unpacked files; ``100k`` and ``1m`` are fetched where not given."""
        threshold: float = 4.0
        """Ratings of at least this are clicks."""
        ignore: tuple[float, ...] = ()
        """Rows with one of these ratings are left out, say ``[3.0]``."""
        split: Literal["time", "random"] = "time"
        """How the log is cut."""
        valid: float = Field(default=0.1, ge=0, lt=1)
        """Share of the rows for validation."""
        test: float = Field(default=0.1, ge=0, lt=1)
        """Share of the rows for the final test."""
        seed: int = 0
        """Of the random split."""
        side_features: bool = True
        """Use more than the ids of user and film."""
        min_count: int = Field(default=1, ge=1)
        """Rarer ids share the OOV row."""

    config: Config

    def schema(self) -> Schema:
        """Ids of user and film, and the bag of genres."""
        config = self.config
        names = (*USER, *ITEM) if config.side_features else ("user_id", "item_id")
        features = tuple(Categorical(name=name, min_count=config.min_count) for name in names)
        bag = (MultiValued(name="genres", pooling="mean"),) if config.side_features else ()
        label = Label(
            name="click", column="rating", threshold=config.threshold, ignore=config.ignore
        )
        return Schema(
            features=(*features, *bag), labels=(label,), group="user_id", timestamp="timestamp"
        )

    def splits(self, cache_dir: Path) -> Splits:
        """A Parquet file made at the first call."""
        config, cache_dir = self.config, Path(cache_dir)
        names, advice = _FILES[config.edition], _ADVICE[config.edition]
        path = config.path
        if path is None and config.edition in _ARCHIVES:
            path = str(_fetched(config.edition, cache_dir))
        path = needed_path(path, "RecBole's ml-100k", advice)
        files = [find_file(path, [name], advice) for name in names]
        digest = conversion_digest(files, {"format": _FORMAT, "edition": config.edition})
        folder = made_once(
            cache_dir / f"movielens-{config.edition}-{digest}",
            lambda making: _convert(files, config.edition, making),
        )
        source = Source(files=(str(folder / "rows.parquet"),), format="parquet")
        if config.split == "random":
            return RandomSplits(
                source=source, valid=config.valid, test=config.test, seed=config.seed
            )
        return TimeSplits(source=source, valid=config.valid, test=config.test)


def _fetched(edition: str, cache_dir: Path) -> Path:
    """The folder of the unpacked archive."""
    archive = fetch(*_ARCHIVES[edition], cache_dir)

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)

    return made_once(cache_dir / archive.stem, unpack) / archive.stem


# ------------------------------------------------------------------------------------ conversion


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a text file is written; ``columns`` is None where its header says it."""

    separator: str
    columns: tuple[str, ...] | None
    encoding: str = "latin-1"


_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_LAYOUTS = {
    "100k": (
        _Layout("\t", _RATINGS),
        _Layout("|", ("user_id", "age", "gender", "occupation", "zip_code")),
        _Layout("|", ("item_id", "title", "release", "video", "url", *_GENRES_100K)),
    ),
    "1m": (
        _Layout("::", _RATINGS),
        _Layout("::", USER),
        _Layout("::", ("item_id", "title", "genres")),
    ),
    "recbole": (_Layout("\t", None, "utf-8"),) * 3,
}


def _convert(files: list[Path], edition: str, folder: Path) -> None:
    """Ratings with the features of their user and film, block by block."""
    ratings, users, items = _LAYOUTS[edition]
    user_table = _whole(files[1], users, USER, folder)
    item_table = _items(files[2], items, edition, folder)
    with ParquetParts(folder) as parts:
        for chunk in _chunks(files[0], ratings, _RATINGS, folder):
            columns = {name: text_column(chunk, name) for name in _RATINGS}
            columns |= _joined(columns["user_id"], user_table, "user_id")
            columns |= _joined(columns["item_id"], item_table, "item_id")
            parts.write("rows", pa.table(columns))


def _joined(keys: pa.Array, table: pa.Table, key: str) -> dict[str, pa.Array]:
    """The table's other columns for every key, null where it has none."""
    index = pc.index_in(keys, value_set=table[key])
    return {name: table[name].take(index) for name in table.column_names if name != key}


def _items(file: Path, layout: _Layout, edition: str, folder: Path) -> pa.Table:
    """``item_id``, ``release_year`` and the list ``genres`` of every film."""
    if edition == "100k":
        table = _whole(file, layout, ("item_id", "release", *_GENRES_100K), folder)
        years = pc.utf8_slice_codeunits(table["release"], -4)
        flags = table.select(list(_GENRES_100K)).to_pylist()
        genres = [[name for name, flag in row.items() if flag == "1"] for row in flags]
    elif edition == "1m":
        table = _whole(file, layout, ("item_id", "title", "genres"), folder)
        years = pc.extract_regex(table["title"], r"\((?P<year>\d{4})\)$")
        years = pc.struct_field(years, "year")
        genres = pc.split_pattern(table["genres"], "|").to_pylist()
    else:
        table = _whole(file, layout, ("item_id", "release_year", "class"), folder)
        years = table["release_year"]
        genres = pc.split_pattern(table["class"], " ").to_pylist()
    lists = pa.array(genres, pa.list_(pa.string()))
    return pa.table({"item_id": table["item_id"], "release_year": years, "genres": lists})


def _whole(file: Path, layout: _Layout, columns: tuple[str, ...], folder: Path) -> pa.Table:
    """A small file at once, as text."""
    return pa.concat_tables(
        pa.table({name: text_column(chunk, name) for name in columns})
        for chunk in _chunks(file, layout, columns, folder)
    ).combine_chunks()


def _chunks(file: Path, layout: _Layout, columns: tuple[str, ...], folder: Path) -> Iterator[Chunk]:
    """The rows of a file, with a separator of one character and without RecBole's header."""
    doubled, names = layout.separator == "::", layout.columns
    with file.open(encoding=layout.encoding, errors="surrogateescape", newline="\n") as text:
        if names is None:  # RecBole: `name:type` cells
            header = next(text, "").rstrip("\r\n")
            names = tuple(cell.split(":")[0] for cell in header.split(layout.separator))
        check_columns(columns, names, str(file))
        source = Source(
            files=("copy",),
            format="csv",
            separator="\t" if doubled else layout.separator,
            columns=names,
            quoted=False,
        )
        lines = (line.replace("::", "\t") for line in text) if doubled else text
        yield from read_copy(file, folder / f"{file.name}.copy", lines, source, columns)
