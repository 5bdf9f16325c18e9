"""The command line: ``recsys train | evaluate | predict | compress | export | fetch``.

Logging is set up here and nowhere else. Heavy imports happen inside the commands, so that
``recsys --help`` answers at once.

Stability: caller
"""

from __future__ import annotations

import inspect
import json
import logging
import pkgutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recsys import __version__
from recsys.errors import ConfigError, RecsysError, did_you_mean

if TYPE_CHECKING:
    from recsys.data.source import Source

_CACHE = click.option(
    "--cache-dir",
    default=".data",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where data is fetched to and prepared.",
)
_COLUMNS = click.option(
    "--columns", metavar="A,B,...", help="Column names of a file without a header line."
)
_SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PLACE=VALUE",
    help="Change one setting, for example train.batch_size=1024. The value is YAML. Repeatable.",
)


def _examples(text: str) -> str:
    """Help text that click leaves as it is written."""
    return "\b\nExamples:\n" + textwrap.indent(textwrap.dedent(text).strip("\n"), "  ")


class _JsonLines(logging.Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger and message."""
        content = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


class _Commands(click.Group):
    """Turns errors of recsys into one message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except RecsysError as error:
            if ctx.params.get("debug"):
                raise
            notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
            click.echo(f"{type(error).__name__}: {error}{notes}", err=True)
            ctx.exit(2)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_examples(r"""
    recsys train --config configs/ctr/dcn_v2.yaml --run-dir runs/first
    recsys evaluate runs/first
    recsys predict runs/first new_rows.csv -o predictions.parquet
    recsys train --help
"""),
)
@click.version_option(__version__, prog_name="recsys")
@click.option("--debug", is_flag=True, help="Show the traceback of errors, and debug messages.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line to standard error.")
def main(debug: bool, log_json: bool) -> None:
    """Trains, judges and serves click-through-rate models.

    A configuration file names a data set, a model and how to train it; the run folder then holds
    the model and everything about it.
    """
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonLines() if log_json else plain)
    logger = logging.getLogger("recsys")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    logging.captureWarnings(log_json)
    if log_json:
        logging.getLogger("py.warnings").handlers = [handler]


# --------------------------------------------------------------------------------------- train


@main.command(
    epilog=_examples(r"""
    recsys train --config configs/ctr/deep_fm.yaml
    recsys train --config configs/ctr/deep_fm.yaml --run-dir runs/wide \
        --set model.embedding_dim=32 --set train.learning_rate=3e-4
    recsys train --config configs/ctr/deep_fm.yaml --run-dir runs/wide --resume
    recsys train --config configs/ctr/deep_fm.yaml --seeds 1,2,3
    recsys train --config configs/ctr/dlrm.yaml --ranks 2
    torchrun --nproc-per-node 2 -m recsys train --config configs/ctr/dlrm.yaml
    recsys train --config configs/ctr/dlrm.yaml --ray --workers 2
    recsys train --config configs/ctr/lr.yaml \
        --set "dataset={class: recsys.datasets.criteo.Criteo, path: train.txt}"
""")
)
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Experiment (YAML).")
@_SET
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is saved. By default runs/<name of the config file>.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run in --run-dir.")
@click.option(
    "--ranks",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes on this machine; more than one shards the tables with torchrec.",
)
@click.option("--seeds", metavar="N,N,...", help="One training each; reports mean and sd.")
@click.option("--ray", "on_ray", is_flag=True, help="On the workers of a Ray cluster.")
@click.option("--address", help="Of the Ray cluster, or auto. By default one is started here.")
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(min=1),
    help="Ray workers; each is a rank.",
)
@_CACHE
def train(
    config: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    resume: bool,
    ranks: int,
    seeds: str | None,
    on_ray: bool,
    address: str | None,
    workers: int,
    cache_dir: Path,
) -> None:
    """Trains a model from a configuration file.

    Prepares the data (once; later runs find it), trains with early looks at the validation split,
    and saves the best model with its metrics, plots and MODEL_CARD.md. Ctrl-C saves and stops;
    --resume goes on from there as if nothing had happened.
    """
    from recsys.config import load
    from recsys.evaluate.summary import metrics_table
    from recsys.train.run import RunOptions, run
    from recsys.train.torchrun import is_first

    settings = [*overrides, *([f"seeds=[{seeds}]"] if seeds else [])]
    experiment = load(config, settings)
    folder = run_dir or Path("runs") / (experiment.name or config.stem)
    options = RunOptions(cache_dir, resume=resume, ranks=ranks)
    if on_ray:
        from recsys.train.ray_train import RayOptions, run_on_ray

        seed = run_on_ray(experiment, folder, options, RayOptions(workers, address))
        click.echo(metrics_table(seed.metrics))
        click.echo(f"saved in {folder}: model, metrics, plots, MODEL_CARD.md")
        return
    result = run(experiment, folder, options)
    if not is_first():
        sys.exit(130 if result.interrupted else 0)
    if result.interrupted:  # the trainer has said where it is saved and how to go on
        sys.exit(130)
    lines = {}
    for split in ("valid", "test"):
        spread = result.spread(split)
        if spread:
            lines[split] = {name: value["mean"] for name, value in spread.items()}
        if spread and len(result.seeds) > 1:
            lines[f"{split} sd"] = {name: value["sd"] for name, value in spread.items()}
    click.echo(metrics_table(lines))
    click.echo(f"saved in {folder}: model, metrics, plots, MODEL_CARD.md")


# ------------------------------------------------------------------------------------ evaluate


@main.command(
    epilog=_examples(r"""
    recsys evaluate runs/first
    recsys evaluate runs/first --split valid --json
    recsys evaluate runs/first --data yesterday.parquet
""")
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Of the run's data.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A labelled CSV, TSV or Parquet file instead of a split.",
)
@_COLUMNS
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@_CACHE
def evaluate(
    run_dir: Path,
    split: str | None,
    data: Path | None,
    columns: str | None,
    as_json: bool,
    cache_dir: Path,
) -> None:
    """Judges the model of a run: AUC, logloss, calibration and more.

    Without --data on a split of the run's own data, by default test.
    """
    from recsys.data.encoder import FeatureEncoder
    from recsys.evaluate.stored import evaluate_run, evaluate_source
    from recsys.serving.artefact import artefact_folder

    if data is not None and split is not None:
        raise ConfigError("--split and --data exclude each other: a split is of the run's data.")
    if data is not None:
        encoder = FeatureEncoder.load(artefact_folder(run_dir) / "encoder")
        evaluation = evaluate_source(run_dir, _source(data, columns, encoder.state.null_values))
    else:
        evaluation = evaluate_run(run_dir, split or "test", cache_dir)
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=1))
    else:
        click.echo(f"{evaluation.name}: {evaluation.rows:,} rows\n{evaluation.table()}")


# ------------------------------------------------------------------------------------- predict


@main.command(
    epilog=_examples(r"""
    recsys predict runs/first rows.csv -o predictions.parquet --keep request_id
    recsys predict runs/first rows.tsv.gz -o out.parquet --columns user,item,hour
""")
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write."
)
@click.option("--keep", multiple=True, metavar="COLUMN", help="Input column to copy. Repeatable.")
@_COLUMNS
@click.option("--batch-size", default=8192, show_default=True, help="Rows computed at once.")
@click.option("--num-threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option(
    "--negative-rate",
    type=float,
    help="Share of negatives kept for training; undoes the down-sampling.",
)
def predict(
    run_dir: Path,
    source: Path,
    out: Path,
    keep: tuple[str, ...],
    columns: str | None,
    batch_size: int,
    num_threads: int | None,
    negative_rate: float | None,
) -> None:
    """Predicts every row of INPUT (CSV, TSV or Parquet, any size) into a Parquet file.

    Rows come out in input order, with a column `prediction` (with several labels
    `prediction.<label>`). Ids that training did not see count as unknown; columns the model does
    not read are ignored.
    """
    from recsys.serving.predictor import Predictor

    predictor = Predictor.load(
        run_dir, num_threads=num_threads, batch_size=batch_size, negative_rate=negative_rate
    )
    nulls = predictor.encoder.state.null_values
    rows = predictor.predict_file(_source(source, columns, nulls), out, keep)
    click.echo(f"{rows:,} rows predicted to {out}")


def _source(path: Path, columns: str | None, null_values: tuple[str, ...]) -> Source:
    """A file of raw rows, read like the training files."""
    from recsys.serving.predictor import source_of

    names = tuple(name.strip() for name in columns.split(",")) if columns else None
    return source_of(path, columns=names, null_values=null_values or ("",))


# ------------------------------------------------------------------------------------ compress


@main.command(
    epilog=_examples(r"""
    recsys compress --config configs/ctr/dcn_v2.yaml --budget 0.1,0.01
    recsys compress --config configs/ctr/dcn_v2.yaml --budget 0.1 \
        --schemes "hash, unified, {kind: hash, multiplex: true}" --seeds 1,2,3
    recsys compress --config configs/ctr/dcn_v2.yaml --dtypes fp32,int8,int4 --jobs 2
""")
)
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Experiment (YAML).")
@_SET
@click.option(
    "--budget",
    default="0.5,0.25,0.1,0.01,0.001",
    show_default=True,
    metavar="R,R,...",
    help="Shares of the full tables' bytes.",
)
@click.option(
    "--schemes", default="all", show_default=True, help="`all`, or kinds and {kind: ...} by commas."
)
@click.option(
    "--dtypes", default="fp32", show_default=True, help="How each trained model is frozen as well."
)
@click.option("--seeds", metavar="N,N,...", help="One training each; reports mean and sd.")
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Trainings at the same time; the cores are shared out among them.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Results; run again to go on. By default runs/compress-<name of the config file>.",
)
@_CACHE
def compress(
    config: Path,
    overrides: tuple[str, ...],
    budget: str,
    schemes: str,
    dtypes: str,
    seeds: str | None,
    jobs: int,
    out: Path | None,
    cache_dir: Path,
) -> None:
    """Says what is lost when the embedding tables must fit in so many bytes.

    Trains every scheme at every budget it can reach, beside the full tables, and writes a table, a
    plot of AUC against real bytes with the Pareto front, and a recommendation. Ctrl-C stops;
    running it again goes on with what is missing.
    """
    from recsys.config import load
    from recsys.tune.compression import CompareOptions, compare, parse_dtypes, parse_schemes
    from recsys.tune.compression_report import report_text, write_report

    settings = [*overrides, *([f"seeds=[{seeds}]"] if seeds else [])]
    experiment = load(config, settings)
    try:
        budgets = tuple(float(part) for part in budget.split(","))
    except ValueError:
        raise ConfigError(f"--budget {budget}: expected numbers by commas, say 0.1,0.01.") from None
    options = CompareOptions(budgets, parse_dtypes(dtypes), jobs, cache_dir, click.echo)
    folder = out or Path("runs") / f"compress-{experiment.name or config.stem}"
    comparison = compare(experiment, parse_schemes(schemes), folder, options)
    files = write_report(comparison, budgets)
    click.echo(report_text(comparison, budgets))
    click.echo(f"saved: {', '.join(str(path) for path in files)}")


# -------------------------------------------------------------------------------------- export


@main.command(
    epilog=_examples(r"""
    recsys export runs/first -o first.pt2
    recsys export runs/first --freeze int8 --to models/first-int8
    recsys export runs/first --freeze int4 --to first-int4.pt2
""")
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    "--to",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    help=".pt2 file to write; with --freeze also a model folder.",
)
@click.option(
    "--freeze",
    "dtype",
    metavar="DTYPE",
    help="Freeze the tables, their rows in fp32, fp16, int8, int4 or int2.",
)
def export(run_dir: Path, out: Path, dtype: str | None) -> None:
    """Exports the model of a run for serving.

    To a .pt2 file: with torch.export, for runtimes without recsys. The program takes plain tensors
    (dense, values, lengths) of any batch size and gives logits; OUT.json beside it says in which
    order. It is compared with the model before it is written.

    To a folder, with --freeze: a model for Predictor and `recsys predict`, with the tables in the
    form and the dtype they are served in, and nothing that only training needs.
    """
    from recsys.embeddings.row_format import check_dtype
    from recsys.serving.export import export as export_model
    from recsys.serving.freeze import freeze_artefact

    known = None if dtype is None else check_dtype(dtype)
    if known is not None and out.suffix != ".pt2":
        frozen = freeze_artefact(run_dir, out, known)
        share = frozen.table_bytes / max(frozen.trained_bytes, 1)
        click.echo(
            f"frozen in {frozen.dtype} to {frozen.folder}: tables of {frozen.table_bytes:,} bytes, "
            f"{share:.3f} of the {frozen.trained_bytes:,} in training"
        )
        return
    path = export_model(run_dir, out, dtype=known)
    click.echo(f"exported to {path}; inputs are described in {path}.json")


# --------------------------------------------------------------------------------------- fetch


@main.command(
    epilog=_examples(r"""
    recsys fetch movielens --set edition=1m
    recsys fetch frappe --set path=~/data/frappe
    recsys fetch my_project.data.ClickLog
""")
)
@click.argument("dataset")
@_SET
@_CACHE
def fetch(dataset: str, overrides: tuple[str, ...], cache_dir: Path) -> None:
    """Fetches or makes a data set, or says where to get it.

    DATASET is a file name in recsys/datasets or the import path of your own class. --set gives its
    options.
    """
    from recsys.config import DatasetBlock, validate
    from recsys.data.readers import resolve_files
    from recsys.data.source import Source

    path = dataset if "." in dataset else _dataset_path(dataset)
    built = validate(DatasetBlock, {"class": path}, overrides, f"recsys fetch {dataset}").build()
    splits = built.splits(cache_dir)
    click.echo(f"{path}\n  source: {built.homepage or 'made here'}\n  licence: {built.licence}")
    for name in ("source", "train", "valid", "test"):
        source = getattr(splits, name, None)
        for file in resolve_files(source) if isinstance(source, Source) else ():
            label = "all rows" if name == "source" else name
            click.echo(f"  {label}: {file} ({Path(file).stat().st_size:,} bytes)")
    click.echo(f"  splits: {splits.kind}")


def _dataset_path(name: str) -> str:
    """The import path of the one data set in ``recsys/datasets/<name>.py``."""
    import importlib

    from recsys.data.dataset import Dataset

    package = importlib.import_module("recsys.datasets")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    if name not in names:
        raise ConfigError(
            f"recsys has no data set `{name}`. {did_you_mean(name, names)} A class of your own is "
            "given by its import path."
        )
    module = importlib.import_module(f"recsys.datasets.{name}")
    classes = [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, Dataset) and found.__module__ == module.__name__
    ]
    return f"{classes[0].__module__}.{classes[0].__qualname__}"
