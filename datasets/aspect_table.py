"""Any table of items, aspects and labels, with a table of items and their texts.

CSV, TSV or Parquet: one file with a row for every item (id and text), one with a row for every
label (item, aspect, label). Licence: of the data inside. Split: by item, at random by seed.

Traps:
    - Two items with the same text in different splits are a leak that is not looked for.
    - Labels are compared as written: ``Red`` and ``red`` are two.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

from recsys.data.files import needed_path
from recsys.data.source import Source
from recsys.errors import DataError
from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.aspects import AspectTable as Table
from recsys.graph.aspects import aspect_table
from recsys.graph.log_reader import read_columns_of
from recsys.schema import Frozen


class AspectColumns(Frozen):
    """Which columns are what."""

    item: str = "item"
    """Id of the item, in both files."""
    text: str = "text"
    """Its text."""
    aspect: str = "aspect"
    """The aspect of a label."""
    label: str = "label"
    """The label."""


class AspectTable(AspectDataset):
    r"""Aspects of any items.

    Args:
        config: Where the files are, and how to split.

    Raises:
        DataError: From `table`: a file or column is missing, a row is cut, an item is there twice,
            or a label is of an item without a text.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     items, labels = Path(folder) / "items.csv", Path(folder) / "labels.csv"
        ...     _ = items.write_text("item,text\na,red ball\nb,red car\n")
        ...     _ = labels.write_text("item,aspect,label\na,colour,red\nb,colour,red\n")
        ...     config = AspectTable.Config(items=str(items), labels=str(labels))
        ...     table = AspectTable(config).table(Path(folder))
        >>> table.report["pairs:colour"], table.texts[1]
        (1, 'red car')
    """

    licence = "of the data inside"

    class Config(AspectDataset.Config):
        """Where the files are, and how to split."""

        items: str | None = None
        """File with items and texts; ``.parquet``, ``.tsv``, else CSV."""
        labels: str | None = None
        """File with items, aspects and labels."""
        columns: AspectColumns = AspectColumns()
        """Their columns."""
        aspects: tuple[str, ...] = ()
        """Aspects to read, in this order; all, sorted, where none are named."""

    config: Config

    def table(self, cache_dir: Path) -> Table:
        """Reads both files."""
        del cache_dir
        config, columns = self.config, self.config.columns
        advice = "Set `items` and `labels` to files (see the module's docstring)."
        source = _source(needed_path(config.items, "A table of aspects", advice))
        rows = read_columns_of(source, (columns.item, columns.text))
        ids = rows.ids(columns.item, "text").to_pylist()
        texts = [text or "" for text in rows.ids(columns.text, "text").to_pylist()]
        found: dict[str, str] = {}
        for row, (item, text) in enumerate(zip(ids, texts)):
            if item is None or item in found:
                what = "has no id" if item is None else f"`{item}` is there twice"
                raise DataError(f"item {what}. Correct the table.", file=source.files[0],
                                row=row + 1, column=columns.item)  # fmt: skip
            found[item] = text
        source = _source(needed_path(config.labels, "A table of aspects", advice))
        names = (columns.item, columns.aspect, columns.label)
        rows = read_columns_of(source, names)
        item, aspect, label = (
            [cell or "" for cell in rows.ids(name, "text").to_pylist()] for name in names
        )
        if config.aspects:
            wanted = [row for row, name in enumerate(aspect) if name in set(config.aspects)]
            item, aspect, label = (
                [cells[row] for row in wanted] for cells in (item, aspect, label)
            )
        return aspect_table(found, item, aspect, label, config.rule, config.aspects or None)


def _source(file: str) -> Source:
    ending = Path(file).suffix
    if ending == ".parquet":
        return Source(files=(file,), format="parquet")
    return Source(files=(file,), format="tsv" if ending == ".tsv" else "csv")
