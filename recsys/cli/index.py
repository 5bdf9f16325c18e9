"""``recsys index`` makes an index of the items of a run.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from recsys.cli.options import RUN_DIR, examples, raw_rows
from recsys.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from recsys.data.source import Source
    from recsys.serving.vectors import Vectors


@click.command(
    epilog=examples(r"""
    recsys index runs/light_gcn -o indexes/items --codes sq4
    recsys index runs/light_gcn -o indexes/items --items items.csv --id-column item
    recsys index runs/towers -o indexes/items --items items.parquet --codes pca32-sq4
    recsys index runs/aspects -o indexes/task --aspect task
    recsys index runs/tuesday -o indexes/both --beside indexes/monday
    recsys serve indexes/items
""")
)
@RUN_DIR
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder to write; an older index there is replaced.")  # fmt: skip
@click.option("--codes", metavar="NAME",
              help="Codes to look through: sq8, sq4, pca32-sq4, sign2, opq16, 'faiss HNSW32', ...; "
              "by default floats.")  # fmt: skip
@click.option("--items", type=click.Path(path_type=Path, dir_okay=False),
              help="Rows of items (CSV, TSV or Parquet): what filters can ask; two towers make "
              "their vectors of them.")  # fmt: skip
@click.option("--id-column", metavar="NAME", help="Column of --items with the item's id.")
@click.option("--aspect", metavar="NAME", help="Of a model of aspects: whose vectors to take.")
@click.option("--beside", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="An index of another version, to be served together with this one.")  # fmt: skip
def index(
    run_dir: Path,
    out: Path,
    codes: str | None,
    items: Path | None,
    id_column: str | None,
    aspect: str | None,
    beside: Path | None,
) -> None:
    """Makes an index of the items of a run, with the version of its model, for `recsys serve`.

    RUN_DIR is that of a collaborative filter whose scores are products of vectors, of two towers,
    or of a model of aspects; or a file of vectors (.parquet or .safetensors). A query of zeros gets
    the most popular items of a collaborative filter.
    """
    from recsys.retrieval.codes_by_name import codes_named

    chosen = None if codes is None else codes_named(codes)
    if id_column is not None and items is None:
        raise ConfigError("--id-column: expected --items FILE with it, got none.")
    others = None if beside is None else _beside(beside)
    content = _content(run_dir, items, id_column, aspect)
    made = content.vectors.index(content.meta, prior=content.prior, codes=chosen)
    if others is None:
        made.save(out)
    else:
        others.put(made)
        others.save(out)
    form = "floats" if chosen is None else chosen.name
    click.echo(
        f"{len(made):,} items of {made.dim} values in {out}, version {made.version}; {form}: "
        f"{made.row_bytes} bytes an item"
        + ("" if others is None else f"; versions {', '.join(others.versions)}")
    )


class _Content(NamedTuple):
    """What goes into the index."""

    vectors: Vectors
    meta: pa.Table | None = None
    prior: Any = None


def _content(
    run_dir: Path, items: Path | None, id_column: str | None, aspect: str | None
) -> _Content:
    from recsys.serving.aspect_folder import aspect_vectors, load_aspects
    from recsys.serving.folder import artefact_version, gives_lists, has_aspects
    from recsys.serving.recommender import Recommender
    from recsys.serving.vectors import read_vectors

    of_aspects = not run_dir.is_file() and has_aspects(run_dir)
    if aspect is not None and not of_aspects:
        raise ConfigError(f"--aspect: expected a model of aspects, got {run_dir}. Leave it out.")
    prior = None
    if run_dir.is_file():
        vectors = read_vectors(run_dir)
    elif of_aspects:
        model = load_aspects(run_dir)
        if aspect is None:
            raise ConfigError(f"--aspect: expected one of {', '.join(model.aspects)}, got none.")
        vectors = aspect_vectors(model, aspect, artefact_version(run_dir))
    elif gives_lists(run_dir):
        recommender = Recommender.load(run_dir)
        vectors = recommender.vectors("item")
        prior = recommender.model.graph.item_degrees()
    else:
        return _of_towers(run_dir, items, id_column)
    meta = None
    if items is not None:
        if id_column is None:
            raise ConfigError(f"--id-column: expected the column of {items} with the item's id.")
        rows = _typed_rows(raw_rows(items, None, ()), {id_column})
        meta = _of_ids(rows, id_column, vectors.ids, items)
    return _Content(vectors, meta, prior)


def _of_towers(run_dir: Path, items: Path | None, id_column: str | None) -> _Content:
    """Vectors of rows, which are read as those of the training were; filters see typed columns."""
    import pyarrow as pa

    from recsys.data.readers import read_chunks
    from recsys.serving.artefact import load_artefact
    from recsys.serving.towers import Towers

    artefact = load_artefact(run_dir)
    towers = Towers(artefact.model, artefact.encoder, version=artefact.version)
    if items is None:
        raise ConfigError(
            "two towers make vectors of rows of items: expected --items FILE with the columns "
            f"{', '.join(towers.item_columns)}, got none."
        )
    if id_column is None and towers.model.item_id is not None:
        id_column = towers.schema.feature(towers.model.item_id).source
    source = raw_rows(items, None, artefact.encoder.state.null_values)
    chunks = [chunk.columns for chunk in read_chunks(source, towers.item_columns)]
    vectors = towers.items(_as_text(pa.Table.from_batches(chunks)), id_column)
    texts = {one.source for one in towers.schema.features if getattr(one, "dtype", "") == "string"}
    meta = _typed_rows(source, texts)
    return _Content(vectors, _without(meta, id_column))


def _as_text(table: pa.Table) -> pa.Table:
    """Text files are read as bytes."""
    import pyarrow as pa

    fields = [
        pa.field(one.name, pa.string() if pa.types.is_binary(one.type) else one.type)
        for one in table.schema
    ]
    return table.cast(pa.schema(fields))


def _typed_rows(source: Source, texts: set[str]) -> pa.Table:
    """A file as a table; columns of text files become numbers where all their cells are."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    path = source.files[0]
    try:
        if source.format == "parquet":
            return pyarrow.parquet.read_table(path)
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=source.delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(texts, pa.string()),
                null_values=list(source.null_values),
                strings_can_be_null=True,
            ),
        )
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"expected rows of items: {error}", file=path) from None


def _of_ids(rows: pa.Table, id_column: str, ids: np.ndarray, path: Path) -> pa.Table | None:
    """A row for every id, of nulls where the file has none."""
    import numpy as np
    import pyarrow as pa

    from recsys.data.readers import check_columns
    from recsys.graph.interactions import Names
    from recsys.retrieval.item_ids import check_distinct

    check_columns([id_column], rows.column_names, str(path))
    whole = np.issubdtype(ids.dtype, np.integer)
    try:
        column = rows.column(id_column).cast(pa.int64() if whole else pa.string())
    except pa.ArrowException as error:
        told = str(error).splitlines()[0]
        raise DataError(
            f"ids of items are whole numbers in this model: {told}", column=id_column
        ) from None
    if column.null_count:
        raise DataError("expected an id in every row, got none.", file=str(path), column=id_column)
    check_distinct(column.to_numpy(), f"{path}: {id_column}")
    places = Names(column.to_numpy()).numbers(ids)
    missing, strange = int((places < 0).sum()), len(rows) - int((places >= 0).sum())
    if missing == len(ids):
        raise DataError(
            f"none of its {len(rows):,} ids is an item of the model, say {column[0].as_py()!r} "
            f"against {ids.tolist()[0]!r}. Is this the column of the ids?",
            file=str(path), column=id_column,
        )  # fmt: skip
    if missing or strange:
        click.echo(
            f"{missing:,} of {len(ids):,} items have no row in {path}: their columns are null; "
            f"{strange:,} rows are of no item of the model and are left out",
            err=True,
        )
    return _without(rows.take(pa.array(places, mask=places < 0)), id_column)


def _without(table: pa.Table, column: str | None) -> pa.Table | None:
    """The index has the ids already."""
    rest = [name for name in table.column_names if name != column]
    return table.select(rest) if rest else None


def _beside(folder: Path) -> Any:
    """All versions of an index, to which another is added."""
    from recsys.retrieval.index import Index
    from recsys.retrieval.versions import VERSIONS, VersionedIndex

    if (folder / VERSIONS).is_file():
        return VersionedIndex.load(folder)
    return VersionedIndex([Index.load(folder)])
