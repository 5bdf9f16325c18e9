"""``recsys evaluate`` judges the model of a run.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from recsys.cli.options import CACHE_DIR, COLUMNS, RUN_DIR, examples, raw_rows
from recsys.errors import ConfigError


@click.command(
    epilog=examples(r"""
    recsys evaluate runs/first
    recsys evaluate runs/first --split valid --json
    recsys evaluate runs/first --data yesterday.parquet
    recsys evaluate runs/towers --lists
    recsys evaluate runs/light_gcn --per-user users.parquet
    recsys evaluate runs/light_gcn --compare runs/ease
""")
)
@RUN_DIR
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Of the run's data.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A labelled CSV, TSV or Parquet file instead of a split.",
)
@COLUMNS
@click.option(
    "--lists",
    is_flag=True,
    help="Two towers: by the items that they retrieve, not by clicks.",
)
@click.option(
    "--per-user",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Collaborative filters: Parquet file to write with every user's metrics.",
)
@click.option(
    "--compare",
    metavar="OTHER_RUN",
    type=click.Path(path_type=Path),
    help="Collaborative filters: whether RUN_DIR is better than this run, user by user.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@CACHE_DIR
def evaluate(
    run_dir: Path,
    split: str | None,
    data: Path | None,
    columns: str | None,
    lists: bool,
    per_user: Path | None,
    compare: Path | None,
    as_json: bool,
    cache_dir: Path,
) -> None:
    """Judges the model of a run on a split of its own data, by default test.

    A model that predicts clicks by AUC, logloss, calibration and more, also on rows of a file; two
    towers with --lists by all items of the log, ranked for every user of the split. A
    collaborative filter by the lists that it gives: every item is ranked for every user, and what
    the user has seen before is left out. A classifier of nodes by accuracy and F1. A model of
    aspects by what is near an item in every aspect, judged by the labels of every aspect.
    """
    from recsys.serving.folder import classifies_nodes, gives_lists, has_aspects

    if lists and (data is not None or columns is not None):
        raise ConfigError(
            "--lists and --data exclude each other: lists are of the run's own log. Leave out "
            "--columns too."
        )
    if data is not None and split is not None:
        raise ConfigError("--split and --data exclude each other: a split is of the run's data.")
    if gives_lists(run_dir):
        if lists:
            raise ConfigError(f"{run_dir} holds a collaborative filter: it is judged by lists.")
        if data is not None or columns is not None:
            raise ConfigError(
                f"{run_dir} holds a collaborative filter, which is judged on a split of its run: "
                "--data and --columns are for models that predict clicks."
            )
        _ranking(run_dir, split or "test", per_user, compare, as_json, cache_dir)
        return
    kind = "a model that predicts clicks"
    if classifies_nodes(run_dir):
        kind = "a classifier of nodes"
    elif has_aspects(run_dir):
        kind = "a model of aspects"
    if per_user is not None or compare is not None:
        raise ConfigError(
            f"{run_dir} holds {kind}: --per-user and --compare are for collaborative filters."
        )
    if lists:
        _retrieval(run_dir, kind, split or "test", as_json, cache_dir)
        return
    if kind == "a model that predicts clicks":
        _clicks(run_dir, split, data, columns, as_json, cache_dir)
        return
    if data is not None or columns is not None:
        raise ConfigError(
            f"{run_dir} holds {kind}, which is judged on a split of its run: --data and --columns "
            "are for models that predict clicks."
        )
    if kind == "a classifier of nodes":
        _nodes(run_dir, split or "test", as_json, cache_dir)
    else:
        _aspects(run_dir, split or "test", as_json)


def _clicks(
    run_dir: Path,
    split: str | None,
    data: Path | None,
    columns: str | None,
    as_json: bool,
    cache_dir: Path,
) -> None:
    from recsys.data.encoder import FeatureEncoder
    from recsys.evaluate.stored import evaluate_run, evaluate_source
    from recsys.serving.folder import artefact_folder

    if data is not None:
        encoder = FeatureEncoder.load(artefact_folder(run_dir) / "encoder")
        evaluation = evaluate_source(run_dir, raw_rows(data, columns, encoder.state.null_values))
    else:
        evaluation = evaluate_run(run_dir, split or "test", cache_dir)
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=1))
    else:
        click.echo(f"{evaluation.name}: {evaluation.rows:,} rows\n{evaluation.table()}")


def _retrieval(run_dir: Path, kind: str, split: str, as_json: bool, cache_dir: Path) -> None:
    from recsys.evaluate.stored_retrieval import evaluate_retrieval_run

    if kind != "a model that predicts clicks":
        raise ConfigError(f"{run_dir} holds {kind}: --lists is for two towers.")
    evaluation = evaluate_retrieval_run(run_dir, split, cache_dir)
    text = json.dumps(evaluation.to_json(), indent=1) if as_json else evaluation.table()
    click.echo(text)


def _nodes(run_dir: Path, split: str, as_json: bool, cache_dir: Path) -> None:
    from recsys.evaluate.stored_nodes import evaluate_node_run
    from recsys.evaluate.summary import metrics_table

    evaluation = evaluate_node_run(run_dir, split, cache_dir)
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=1))
        return
    click.echo(f"{metrics_table({split: evaluation.metrics})}\n\n{evaluation.table()}")


def _aspects(run_dir: Path, split: str, as_json: bool) -> None:
    from recsys.evaluate.stored_aspects import evaluate_aspect_run

    evaluation = evaluate_aspect_run(run_dir, split)
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=1))
        return
    click.echo(f"{split}\n\n{evaluation.table()}")


def _ranking(
    run_dir: Path,
    split: str,
    per_user: Path | None,
    compare: Path | None,
    as_json: bool,
    cache_dir: Path,
) -> None:
    from recsys.evaluate.significance import comparison_table
    from recsys.evaluate.stored_ranking import compare_runs, evaluate_ranking_run
    from recsys.evaluate.summary import metrics_table

    if compare is not None:
        if per_user is not None:
            raise ConfigError("--compare and --per-user exclude each other. Run the command twice.")
        found = compare_runs(compare, run_dir, split, cache_dir)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(row) for row in found], indent=1))
            return
        click.echo(f"{split}: base {compare}, other {run_dir}; difference = other - base\n")
        click.echo(comparison_table(found))
        return
    evaluation = evaluate_ranking_run(run_dir, split, cache_dir)
    if per_user is not None:
        evaluation.per_user.write(per_user)
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=1))
        return
    click.echo(f"{metrics_table({split: evaluation.metrics})}\n\n{evaluation.table()}")
    if per_user is not None:
        click.echo(f"\nmetrics of every user in {per_user}")
