"""O*NET: job titles as queries, occupations as items, technology skills as concepts.

1,016 occupations, 52,754 alternate titles, 19,265 tasks, 30,826 technology skills (rows). Files:
``Occupation Data.txt``, ``Alternate Titles.txt``, ``Technology Skills.txt``. Source: O*NET 27.0
(August 2022), https://www.onetcenter.org/database.html. Licence: CC BY 4.0, U.S. Department of
Labor, Employment and Training Administration. Split: by title, at random by seed: held-out titles
are new queries.

A title is a query whose text is the title; right are the occupations that list it. Concepts are of
occupations; training titles have those of their occupations, held-out titles have none.

Traps:
    - A title may belong to several occupations (`Analyst`): all are right.
    - Titles of one occupation are alike (`Chief Financial Officer`, `Finance Chief`), so text finds
      much by itself.
    - Not every occupation has technology skills: `ConceptMatches.report` counts them.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from pydantic import Field

from recsys.data.files import find_file, needed_path
from recsys.data.source import Source
from recsys.errors import DataError
from recsys.graph.concept_dataset import ConceptDataset
from recsys.graph.concepts import ConceptMatches, concept_matches
from recsys.graph.log_reader import read_columns_of
from recsys.graph.splitting import UserSplit

_ADVICE = (
    "Get the text version of the O*NET database from https://www.onetcenter.org/database.html, "
    "unpack it, and set `path` to the folder with `Occupation Data.txt`."
)
_CODE = "O*NET-SOC Code"


class ONet(ConceptDataset):
    """Titles and the occupations they mean.

    Args:
        config: Where the files are, what the concepts are, and how to split.

    Raises:
        DataError: From `matches`: files are missing, cut or malformed.
    """

    homepage = "https://www.onetcenter.org/database.html"
    licence = "CC BY 4.0, O*NET 27.0 Database, U.S. Department of Labor (USDOL/ETA)"

    class Config(ConceptDataset.Config):
        """Where the files are, what the concepts are, and how to split."""

        path: str | None = None
        """Folder with the files."""
        concepts: Literal["commodity", "example"] = "commodity"
        """Concepts are kinds of software (`Spreadsheet software`), or products (`Microsoft
        Excel`)."""
        min_times: int = Field(default=2, ge=1)
        """Fewest occupations of a concept."""
        title_concepts: bool = True
        """Whether training titles have the concepts of their occupations."""
        split: UserSplit = UserSplit(valid=0.1, test=0.2)
        """Shares of the titles, and the seed."""

    config: Config

    def matches(self, cache_dir: Path) -> ConceptMatches:
        """Reads the files."""
        del cache_dir
        path = needed_path(self.config.path, "O*NET", _ADVICE)
        codes, names, texts = _columns(path, "Occupation Data.txt", (_CODE, "Title", "Description"))
        items = {code: f"{name}. {text}" for code, name, text in zip(codes, names, texts)}
        if len(items) < len(codes):
            raise DataError(f"an occupation is there twice among {len(codes)}. Fetch it anew.")
        of, title = _columns(path, "Alternate Titles.txt", (_CODE, "Alternate Title"))
        queries = {name: name for name in title}
        column = {"commodity": "Commodity Title", "example": "Example"}[self.config.concepts]
        skilled, skill = _columns(path, "Technology Skills.txt", (_CODE, column))
        concepts = (skilled, skill)
        rule, times = self.config.split, self.config.min_times
        found = concept_matches(
            queries, items, (title, of), ([], []), concepts, rule, by_query=True, min_times=times
        )
        if not self.config.title_concepts:
            return found
        # Which concepts count is known now; titles add none.
        of_code: dict[str, list[str]] = {code: [] for code in items}
        pairs = found.item_concepts
        for code, concept in zip(pairs.users.values[pairs.user], pairs.items.values[pairs.item]):
            of_code[code].append(concept)
        train = found.relevance.train
        told = [
            (name, concept)
            for name, code in zip(train.users.values[train.user], train.items.values[train.item])
            for concept in of_code[code]
        ]
        columns = ([name for name, _ in told], [concept for _, concept in told])
        kept = (pairs.users.values[pairs.user], pairs.items.values[pairs.item])
        again = concept_matches(queries, items, (title, of), columns, kept, rule, by_query=True)
        rare = found.report["rare_concepts"]
        return dataclasses.replace(again, report=again.report | {"rare_concepts": rare})


def _columns(path: str, name: str, columns: tuple[str, ...]) -> list[list[str]]:
    """Columns of text without a gap."""
    file = find_file(path, [name], _ADVICE)
    source = Source(files=(str(file),), format="tsv", quoted=False)
    rows = read_columns_of(source, columns)
    return [rows.complete(column).to_pylist() for column in columns]
