"""Skill2vec: job ads as queries, their titles as items, their skills as concepts.

50,000 ads, 961 cells in every row: a number, the title, then skills and empty cells. Files:
``skill2vec_50K.csv.zip`` or ``*.csv``. Source: github.com/duyet/skill2vec-dataset, copied in
github.com/slashhsu/AWS-Databrick-JD. Licence: none stated. Split: by ad, at random by seed.

An ad is a query: its text is its skills, the first cell (what it is called) is the one item that is
right, and its skills are its concepts. An item's concepts are skills of its training ads: those
that at least ``min_share`` of them have.

Traps:
    - The first cell is called a title, and often is a skill (`screening`, `diploma`): it is what
      the source says. Titles and skills are compared in lower case, blanks merged.
    - Skills are free text: 49,575 different ones, 7,441 of them in ten ads or more; 14,274 titles.
    - 3,367 ads have no skill; they are no queries.

Stability: caller
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from recsys.data.files import needed_path
from recsys.errors import DataError
from recsys.graph.concept_dataset import ConceptDataset
from recsys.graph.concepts import ConceptMatches, concept_matches
from recsys.graph.splitting import UserSplit

_ADVICE = (
    "Get skill2vec_50K.csv.zip from https://github.com/duyet/skill2vec-dataset, and set `path` to "
    "it or its folder."
)


class Skill2vec(ConceptDataset):
    """Job ads, what they are called, and the skills they ask for.

    Args:
        config: Where the file is, what is too rare, and how to split.

    Raises:
        DataError: From `matches`: the file is missing, cut or malformed.

    Source:
        Van-Duyet et al., "Skill2vec: Machine Learning Approach for Determining the Relevant Skills
        from Job Description", arXiv 1707.09751.
    """

    homepage = "https://github.com/duyet/skill2vec-dataset"
    licence = "none stated by the repository"

    class Config(ConceptDataset.Config):
        """Where the file is, what is too rare, and how to split."""

        path: str | None = None
        """The file, or its folder."""
        min_skill: int = Field(default=10, ge=1)
        """Fewest ads of a skill."""
        min_title: int = Field(default=5, ge=1)
        """Fewest ads of a title."""
        min_share: float = Field(default=0.2, gt=0, le=1)
        """Share of a title's training ads that must have a skill, for the title to have it."""
        split: UserSplit = UserSplit(valid=0.1, test=0.2)
        """Shares of the ads, and the seed."""

    config: Config

    def matches(self, cache_dir: Path) -> ConceptMatches:
        """Reads the ads in a stream; the file is never unpacked on disk."""
        del cache_dir
        config = self.config
        path = Path(needed_path(config.path, "Skill2vec", _ADVICE)).expanduser()
        ads = list(_ads(path))
        times = Counter(skill for _, _, skills in ads for skill in set(skills))
        titles = Counter(title for _, title, _ in ads)
        kept = {}
        for number, title, skills in ads:
            known = sorted({skill for skill in skills if times[skill] >= config.min_skill})
            if known and titles[title] >= config.min_title:
                kept[number] = (title, known)
        if not kept:
            raise DataError(f"no ad is left of {len(ads):,}. Lower min_skill or min_title.")
        queries = {number: ", ".join(skills) for number, (_, skills) in kept.items()}
        items = {title: title for title, _ in kept.values()}
        relevant = (list(kept), [title for title, _ in kept.values()])
        asked = ([number for number, (_, skills) in kept.items() for _ in skills],
                 [skill for _, skills in kept.values() for skill in skills])  # fmt: skip
        plain = concept_matches(queries, items, relevant, asked, ([], []), config.split, True)
        train = plain.relevance.train
        learnt = plain.queries.values[np.unique(train.user)].tolist()
        told = _of_titles([kept[number] for number in learnt], config.min_share)
        found = concept_matches(queries, items, relevant, asked, told, config.split, True)
        found.report["ads"] = len(ads)
        found.report["ads_left_out"] = len(ads) - len(kept)
        return found


def _of_titles(ads: list[tuple[str, list[str]]], min_share: float) -> tuple[list[str], list[str]]:
    """Title and skill, where enough of the title's ads have the skill."""
    many = Counter(title for title, _ in ads)
    together = Counter((title, skill) for title, skills in ads for skill in skills)
    pairs = sorted(pair for pair, count in together.items() if count >= min_share * many[pair[0]])
    return [title for title, _ in pairs], [skill for _, skill in pairs]


def _ads(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Number, title and skills of every ad, in lower case."""
    file = path
    if path.is_dir():
        files = sorted(path.glob("*.csv.zip")) or sorted(path.glob("*.csv"))
        if len(files) != 1:
            raise DataError(f"expected one `*.csv.zip` or `*.csv` in {path}, got "
                            f"{[found.name for found in files]}. {_ADVICE}")  # fmt: skip
        file = files[0]
    known: set[int] = set()
    for row, cells in enumerate(_rows(file)):
        if len(cells) < 2 or not (cells[0].isascii() and cells[0].isdigit()):
            raise DataError(
                f"expected a number, a title and skills, got {','.join(cells)[:40]!r}. Is the file "
                "complete?", file=str(file), row=row + 1,
            )  # fmt: skip
        number = int(cells[0])
        if number in known:
            raise DataError(f"ad {number} is there twice.", file=str(file), row=row + 1)
        known.add(number)
        title = " ".join(cells[1].lower().split())
        names = [" ".join(cell.lower().split()) for cell in cells[2:] if cell]
        if title:
            yield number, title, [name for name in names if name]


def _rows(file: Path) -> Iterator[list[str]]:
    """Rows of a CSV file, inside a zip or not."""
    try:
        if file.suffix != ".zip":
            with file.open(encoding="utf-8", newline="") as stream:
                yield from csv.reader(stream)
            return
        with zipfile.ZipFile(file) as archive:
            inside = [name for name in archive.namelist()
                      if name.endswith(".csv") and not name.startswith("__MACOSX")]  # fmt: skip
            if len(inside) != 1:
                raise DataError(f"expected one CSV file inside, got {inside}.", file=str(file))
            with archive.open(inside[0]) as raw:
                yield from csv.reader(io.TextIOWrapper(raw, "utf-8", newline=""))
    except (OSError, UnicodeDecodeError, csv.Error, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"not readable: {error}. {_ADVICE}", file=str(file)) from None
