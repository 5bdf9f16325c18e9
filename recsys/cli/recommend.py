"""``recsys recommend`` gives lists of items from a trained collaborative filter.

Stability: caller
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recsys.cli.options import RUN_DIR, examples
from recsys.errors import ConfigError, DataError

if TYPE_CHECKING:
    from recsys.graph.interactions import Names
    from recsys.serving.ranked_items import RankedItems
    from recsys.serving.recommender import Recommender

_SHOWN = 200  # lines of a table on the screen


@click.command(
    epilog=examples(r"""
    recsys recommend runs/light_gcn --users 3,17 --k 5
    recsys recommend runs/light_gcn --all-users --k 20 -o lists.parquet
    recsys recommend runs/light_gcn --users-file users.txt --unknown popular -o lists.csv
    recsys recommend runs/light_gcn --users 3 --candidates in_stock.txt
    recsys recommend runs/light_gcn --history 12,40,7
    recsys recommend runs/light_gcn --similar-to 12,40
    recsys recommend runs/light_gcn --users 3 --explain 12
    recsys recommend runs/sesa --text "java developer" --explain i0012
""")
)
@RUN_DIR
@click.option("--users", metavar="ID,ID,...", help="Lists for these users.")
@click.option(
    "--users-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Lists for the users in a text file, one id a line.",
)
@click.option("--all-users", is_flag=True, help="Lists for all users that training has seen.")
@click.option("--history", metavar="ID,ID,...", help="A list for somebody new with these items.")
@click.option("--text", help="A list for somebody new with this text, by a model that reads texts.")
@click.option("--similar-to", metavar="ID,ID,...", help="Lists of items like these.")
@click.option("--explain", metavar="ID", help="Why the user, history or text may want it.")
@click.option(
    "--k", default=10, show_default=True, type=click.IntRange(min=1), help="Length of a list."
)
@click.option(
    "--candidates",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A text file with the items that may be recommended, one id a line.",
)
@click.option(
    "--unknown",
    type=click.Choice(["error", "popular", "skip"]),
    default="error",
    show_default=True,
    help="What users get of whom nothing is known.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help=".parquet, .csv or .json file to write; by default lists are shown.",
)
@click.option("--num-threads", type=click.IntRange(min=1), help="Threads of torch.")
def recommend(
    run_dir: Path,
    users: str | None,
    users_file: Path | None,
    all_users: bool,
    history: str | None,
    text: str | None,
    similar_to: str | None,
    explain: str | None,
    k: int,
    candidates: Path | None,
    unknown: str,
    out: Path | None,
    num_threads: int | None,
) -> None:
    """Recommends items from the collaborative filter of a run.

    Ids are those of the training data. What a user has seen, in any split, is left out. Items in
    --candidates that training has not seen are left out and counted.
    """
    from recsys.serving.recommender import Recommender

    asked = {
        "--users": users, "--users-file": users_file, "--all-users": all_users or None,
        "--history": history, "--text": text, "--similar-to": similar_to,
    }  # fmt: skip
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"expected one of {', '.join(asked)}, got {' and '.join(given) or 'none of them'}."
        )
    if out is not None and out.suffix not in (".parquet", ".csv", ".json"):
        raise ConfigError(f"-o {out}: expected a file that ends in .parquet, .csv or .json.")
    recommender = Recommender.load(run_dir, num_threads=num_threads)
    if explain is not None:
        click.echo(_reasons(recommender, users, history, text, explain, k))
        return
    options = {"k": k, "filter": _candidates(recommender, candidates)}
    if similar_to is not None:
        found = recommender.similar_items(_ids(recommender.items, similar_to, "item"), **options)
    elif text is not None:
        found = recommender.recommend_texts({"new": text}, **options)
    elif history is not None:
        items = _ids(recommender.items, history, "item")
        found = recommender.recommend_for({"new": items}, unknown=unknown, **options)  # pyright: ignore[reportArgumentType]
    else:
        chosen: Any = recommender.users.values
        if users is not None:
            chosen = _ids(recommender.users, users, "user")
        elif users_file is not None:
            chosen = _typed(recommender.users, _lines(users_file), "user")
        unknown = "skip" if all_users else unknown
        found = recommender.recommend(chosen, unknown=unknown, **options)  # pyright: ignore[reportArgumentType]
    _show(found, out)


def _reasons(
    recommender: Recommender,
    users: str | None,
    history: str | None,
    text: str | None,
    item: str,
    k: int,
) -> str:
    """Why, in lines."""
    (wanted,) = _typed(recommender.items, [item], "item")
    if text is not None:
        return recommender.explain(None, wanted, k, text=text).text()
    if history is not None:
        items = _ids(recommender.items, history, "item")
        return recommender.explain(None, wanted, k, history=items).text()
    chosen = [] if users is None else _ids(recommender.users, users, "user")
    if len(chosen) != 1:
        raise ConfigError(
            "--explain needs one user (--users ID), a history (--history ID,...) or a text "
            "(--text TEXT)."
        )
    return recommender.explain(chosen[0], wanted, k).text()


def _candidates(recommender: Recommender, path: Path | None) -> Any:
    """A mask of the items in a file."""
    if path is None:
        return None
    names = recommender.items
    found = names.numbers(_typed(names, _lines(path), "item"))
    if (found < 0).any():
        click.echo(
            f"{int((found < 0).sum()):,} of {len(found):,} candidates are not items of the "
            "training data and are left out",
            err=True,
        )
    return recommender.mask([names.values[number] for number in found[found >= 0]])


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"expected a text file with one id a line: {error}.", file=str(path)
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _ids(names: Names, text: str, what: str) -> list[Any]:
    return _typed(names, [part.strip() for part in text.split(",") if part.strip()], what)


def _typed(names: Names, texts: Sequence[str], what: str) -> list[Any]:
    """Ids of the kind that the data has: numbers or text."""
    if names.values.dtype.kind not in "iu":
        return list(texts)
    found = []
    for text in texts:
        try:
            found.append(int(text))
        except ValueError:
            raise DataError(
                f"{what} {text!r} is not known: ids of {what}s are whole numbers in this data."
            ) from None
    return found


def _show(found: RankedItems, out: Path | None) -> None:
    """Writes the lists, or prints them."""
    import pyarrow.csv
    import pyarrow.parquet

    from recsys.evaluate.summary import text_table
    from recsys.folders import whole_file

    table = found.table()
    if out is None:
        shown = [name for name in table.column_names if name != "by_popularity"]
        rows = table.slice(0, _SHOWN).select(shown).to_pylist()
        click.echo(text_table(shown, [[str(row[n]) if n != "score" else row[n] for n in shown]
                                      for row in rows]))  # fmt: skip
        if table.num_rows > _SHOWN:
            click.echo(f"... and {table.num_rows - _SHOWN:,} lines more; -o FILE writes all")
        if found.by_popularity.any():
            click.echo(f"{int(found.by_popularity.sum()):,} lists are of the most popular items")
        return
    with whole_file(out) as draft:
        if out.suffix == ".parquet":
            pyarrow.parquet.write_table(table, draft)
        elif out.suffix == ".csv":
            pyarrow.csv.write_csv(table, draft)
        else:
            draft.write_text(json.dumps(table.to_pylist(), ensure_ascii=False, indent=1) + "\n")
    click.echo(f"{table.num_rows:,} lines for {len(found):,} lists in {out}")
