"""Any log of who did what with which item, in Parquet or CSV files.

Source and licence: yours. The columns are named in ``columns``; rows become pairs by ``cleaning``
(merging, smallest weight, k-core), pairs become splits by ``split``. Where the files come split,
``test`` (and ``valid``) name them and ``split.kind`` is ``given``: without ``valid`` a part of
every user's training items becomes the validation part.

Traps:
    - A rating is a weight, not a wish: without ``cleaning.min_weight`` a 1 of 5 counts as seen and
      liked.
    - The k-core looks at all rows, those of the later test included, as published figures do. Set
      ``min_user`` and ``min_item`` to 1 to judge what a new user or item will meet.
    - Splits at random within users know the future. Where the log has times, also look at
      ``by_time``.
    - Ids in CSV are text. ``ids: int`` makes them integers, and then they must be asked for as
      integers.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from recsys.data.source import Source
from recsys.errors import ConfigError
from recsys.graph.cleaning import Cleaning, with_shared_names
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interactions import InteractionSplits
from recsys.graph.log_reader import LogColumns, read_log
from recsys.graph.splitting import GivenSplit, Split, UserSplit, given_splits, split_interactions


class InteractionLog(InteractionDataset):
    r"""Your own log.

    Args:
        config: Files, columns, cleaning, split.

    Raises:
        DataError: From `splits`: files are missing, cut or malformed, or nothing is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "plays.csv"
        ...     _ = file.write_text("user_id,item_id\nann,x\nann,y\nbob,x\n")
        ...     source = Source(files=(str(file),), format="csv")
        ...     data = InteractionLog(InteractionLog.Config(source=source))
        ...     splits = data.splits(Path(folder))
        >>> splits.train.users.values.tolist(), splits.report["rows"]
        (['ann', 'bob'], 3)
    """

    licence = "yours"

    class Config(InteractionDataset.Config):
        """Files, columns, cleaning, split."""

        source: Source
        """All rows, or those to train on."""
        valid: Source | None = None
        """Rows to choose by, where the files come split."""
        test: Source | None = None
        """Rows to report on, where the files come split."""
        columns: LogColumns = LogColumns()
        """Which columns are what."""
        cleaning: Cleaning = Cleaning()
        """What to merge and to leave out."""
        split: Split = UserSplit()
        """How pairs become train, valid and test."""

        @model_validator(mode="after")
        def _check(self) -> Self:
            given = self.test is not None or self.valid is not None
            if given != isinstance(self.split, GivenSplit):
                raise ConfigError(
                    "`valid` and `test` files go with split.kind=given, and that only with them; "
                    f"got split.kind={self.split.kind}."
                )
            if given and max(self.cleaning.min_user, self.cleaning.min_item) > 1:
                raise ConfigError(
                    "a k-core (min_user, min_item) is taken before a split, and these files are "
                    "split already. Remove it."
                )
            return self

    config: Config

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Reads, cleans and splits the rows."""
        del cache_dir
        config, rule = self.config, self.config.split
        if not isinstance(rule, GivenSplit):
            log, report = read_log(config.source, config.columns, config.cleaning)
            return split_interactions(log, rule, report)
        sources = {"train": config.source, "valid": config.valid, "test": config.test}
        report, parts = {}, {}
        for name, source in sources.items():
            if source is not None:
                parts[name], found = read_log(source, config.columns, config.cleaning)
                for key, count in found.items():
                    report[key] = report.get(key, 0) + count
        made = dict(zip(parts, with_shared_names(list(parts.values()))))
        return given_splits(made["train"], made.get("test"), rule, made.get("valid"), report)
