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
    recsys index runs/light_gcn -o indexes/items --content texts.parquet
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
@click.option("--content", type=click.Path(path_type=Path, dir_okay=False),
              help="Vectors of what is known of items (.parquet or .safetensors), known and new "
              "ones: new items are placed by them.")  # fmt: skip
@click.option("--aspect", metavar="NAME", help="Of a model of aspects: whose vectors to take.")
@click.option("--beside", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="An index of another version, to be served together with this one.")  # fmt: skip
def index(
    run_dir: Path,
    out: Path,
    codes: str | None,
    items: Path | None,
    id_column: str | None,
    content: Path | None,
    aspect: str | None,
    beside: Path | None,
) -> None:
    """Makes an index of the items of a run, with the version of its model, for `recsys serve`.

    RUN_DIR is that of a collaborative filter whose scores are products of vectors, of two towers,
    or of a model of aspects; or a file of vectors (.parquet or .safetensors). A query of zeros gets
    the most popular items of a collaborative filter.

    With --content the index also has the items that the model has never seen: a regression from
    content to the vectors of the model's items says where they belong.
    """
    from recsys.retrieval.codes_by_name import codes_named

    chosen = None if codes is None else codes_named(codes)
    if id_column is not None and items is None:
        raise ConfigError("--id-column: expected --items FILE with it, got none.")
    others = None if beside is None else _beside(beside)
    found = _found(run_dir, items, id_column, content, aspect)
    made = found.vectors.index(found.meta, prior=found.prior, codes=chosen)
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


class _Found(NamedTuple):
    """What goes into the index."""

    vectors: Vectors
    meta: pa.Table | None = None
    prior: Any = None


def _found(
    run_dir: Path,
    items: Path | None,
    id_column: str | None,
    content: Path | None,
    aspect: str | None,
) -> _Found:
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
        if content is not None:
            raise ConfigError(
                "--content: two towers make vectors of new items by themselves, see "
                "`model.content_weight`. Leave it out."
            )
        return _of_towers(run_dir, items, id_column)
    if content is not None:
        vectors, prior = _with_new(vectors, prior, content)
    meta = None
    if items is not None:
        if id_column is None:
            raise ConfigError(f"--id-column: expected the column of {items} with the item's id.")
        rows = _typed_rows(raw_rows(items, None, ()), {id_column})
        meta = _of_ids(rows, id_column, vectors.ids, items)
    return _Found(vectors, meta, prior)


def _with_new(vectors: Vectors, prior: Any, path: Path) -> tuple[Vectors, Any]:
    """The items of a file that the model does not have, after those that it has."""
    import dataclasses

    import numpy as np

    from recsys.graph.interactions import Names
    from recsys.retrieval.content_vectors import ContentVectors
    from recsys.retrieval.item_ids import check_distinct
    from recsys.serving.vectors import read_vectors

    content = read_vectors(path)
    check_distinct(content.ids, f"{path}: id")
    whole = [np.issubdtype(ids.dtype, np.integer) for ids in (content.ids, vectors.ids)]
    if len(content.ids) and whole[0] != whole[1]:
        raise DataError(
            f"expected ids like those of the model, say {vectors.ids.tolist()[0]!r}, got "
            f"{content.ids.tolist()[0]!r}.", file=str(path), column="id",
        )  # fmt: skip
    places = Names(content.ids).numbers(vectors.ids)
    new = np.ones(len(content.ids), bool)
    new[places[places >= 0]] = False
    users = np.ones(len(places)) if prior is None else np.asarray(prior)
    known, untaken = (places >= 0) & (users > 0), (places >= 0) & (users == 0)
    guess = ContentVectors()
    fit = guess.fit(content.values[places[known]], vectors.values[known])
    values = vectors.values.copy()
    if untaken.any():
        values[untaken] = guess.vectors(content.values[places[untaken]])
    if new.any():
        values = np.concatenate([values, guess.vectors(content.values[new])])
    click.echo(
        f"{new.sum():,} new items and {untaken.sum():,} that nobody has are placed by their "
        f"content, as {known.sum():,} others are by what users have: the vector of a held-out item "
        f"({fit.held_out:,}) is nearer to its guess than {fit.linear:.1%} of the others (50% is "
        "chance)",
        err=True,
    )
    if prior is not None:
        prior = np.concatenate([users, np.zeros(new.sum())])
    ids = np.concatenate([vectors.ids, content.ids[new]])
    return dataclasses.replace(vectors, ids=ids, values=values), prior


def _of_towers(run_dir: Path, items: Path | None, id_column: str | None) -> _Found:
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
    return _Found(vectors, _without(meta, id_column))


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
