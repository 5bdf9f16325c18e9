"""RecBole's atomic files as interactions: ``.inter``, and ``.kg`` with ``.link`` where they are.

Source: github.com/RUCAIBox/RecBole (``dataset_example/ml-100k``) and its data sets page. Licence:
of the log inside. One folder holds one data set: ``<name>.inter`` alone, or already split
``<name>.train.inter``, ``<name>.valid.inter`` and ``<name>.test.inter``. Ids are text.
``recsys.datasets.movielens`` reads ml-100k as clicks with features; this is the same log as pairs.

ml-100k: 100,000 ratings of 943 users and 1,682 items; 91,631 triples of 34,628 Freebase entities
and 24 relations, 1,598 items are linked to one.

Traps:
    - A rating is a weight: without ``cleaning.min_weight`` a 1 of 5 counts as seen and liked.
      RecBole's own general recommenders do count it.
    - Links of items without interactions and items without a link are counted in the report of the
      knowledge graph.
    - RecBole's figures use its own splits (8 : 1 : 1 at random over each user's pairs).

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from recsys.data.files import needed_path
from recsys.errors import ConfigError, DataError
from recsys.graph.cleaning import Cleaning, with_shared_names
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interactions import InteractionSplits
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.log_reader import LogColumns, read_atomic
from recsys.graph.splitting import GivenSplit, Split, UserSplit, given_splits, split_interactions
from recsys.graph.triples import read_atomic_triples

_ADVICE = (
    "Get the atomic files from https://github.com/RUCAIBox/RecBole "
    "(recbole/dataset_example/ml-100k) or its data sets page, put those of one data set into one "
    "folder, and set `path` to it."
)


class RecBoleInteractions(InteractionDataset):
    """Atomic files as pairs, with a knowledge graph where there is one.

    Args:
        config: Where the files are, columns, cleaning, split.

    Raises:
        DataError: From `splits`: files are missing, cut or malformed, or nothing is left.

    Source:
        Zhao et al., "RecBole", CIKM 2021; KB4Rec (Zhao et al., 2019) for the links.
    """

    homepage = "https://recbole.io/dataset_list.html"
    licence = "of the log inside; MovieLens: research use, no redistribution without permission"

    class Config(InteractionDataset.Config):
        """Where the files are, columns, cleaning, split."""

        path: str | None = None
        """Folder with the files of one data set."""
        columns: LogColumns = LogColumns(time="timestamp", weight="rating")
        """Fields, without their types. Set ``time`` or ``weight`` to null where there is none."""
        cleaning: Cleaning = Cleaning()
        """What to merge and to leave out."""
        split: Split = UserSplit(valid=0.1, test=0.1)
        """How pairs become train, valid and test; ``given`` for files that come split."""

        @model_validator(mode="after")
        def _check(self) -> Self:
            given = isinstance(self.split, GivenSplit)
            if given and max(self.cleaning.min_user, self.cleaning.min_item) > 1:
                raise ConfigError(
                    "a k-core (min_user, min_item) is taken before a split, and split.kind=given "
                    "reads files that are split already. Remove it."
                )
            return self

    config: Config

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Reads, cleans and splits the pairs."""
        del cache_dir
        config, rule = self.config, self.config.split
        if not isinstance(rule, GivenSplit):
            log, report = read_atomic(self._one("inter"), config.columns, config.cleaning)
            return split_interactions(log, rule, report)
        report: dict[str, int] = {}
        parts = {}
        for name in ("train", "valid", "test"):
            if name == "train" or self._found(f"{name}.inter"):
                file = self._one(f"{name}.inter")
                parts[name], found = read_atomic(file, config.columns, config.cleaning)
                for key, count in found.items():
                    report[key] = report.get(key, 0) + count
        made = dict(zip(parts, with_shared_names(list(parts.values()))))
        return given_splits(made["train"], made.get("test"), rule, made.get("valid"), report)

    def knowledge(self, cache_dir: Path) -> KnowledgeGraph | None:
        """Reads the triples, where there are any."""
        if not self._found("kg"):
            return None
        items = self.splits(cache_dir).train.items
        return read_atomic_triples(self._one("kg"), self._one("link"), items)

    def _found(self, ending: str) -> list[Path]:
        folder = Path(needed_path(self.config.path, "RecBole's data", _ADVICE)).expanduser()
        dots = ending.count(".") + 1
        return sorted(path for path in folder.glob(f"*.{ending}") if path.name.count(".") == dots)

    def _one(self, ending: str) -> Path:
        found = self._found(ending)
        if len(found) != 1:
            names = [path.name for path in found]
            raise DataError(
                f"expected one `*.{ending}` in {self.config.path}, got {names}. {_ADVICE}"
            )
        return found[0]
