"""The command line: ``recsys train | evaluate | predict | recommend | ... | fetch``.

Logging is set up here and nowhere else. Heavy imports happen inside the commands, so that
``recsys --help`` answers at once.

Stability: caller
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import click

from recsys import __version__
from recsys.cli.compress import compress
from recsys.cli.evaluate import evaluate
from recsys.cli.export import export
from recsys.cli.fetch import fetch
from recsys.cli.index import index
from recsys.cli.options import examples
from recsys.cli.predict import predict
from recsys.cli.recommend import recommend
from recsys.cli.serve import serve
from recsys.cli.train import train
from recsys.cli.tune import tune
from recsys.errors import exit_on_error


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
        with exit_on_error(debug=ctx.params["debug"]):
            return super().invoke(ctx)


@click.group(
    cls=_Commands,
    commands=(train, evaluate, predict, recommend, index, serve, compress, tune, export, fetch),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(r"""
    recsys train --config configs/ctr/dcn_v2.yaml --run-dir runs/first
    recsys evaluate runs/first
    recsys predict runs/first new_rows.csv -o predictions.parquet
    recsys train --config configs/graph/light_gcn.yaml --run-dir runs/light_gcn
    recsys recommend runs/light_gcn --users 3,17
    recsys serve runs/light_gcn
    recsys train --help
"""),
)
@click.version_option(__version__, prog_name="recsys")
@click.option("--debug", is_flag=True, help="Show the traceback of errors, and debug messages.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line to standard error.")
def main(debug: bool, log_json: bool) -> None:
    """Trains, judges and serves click-through-rate models and collaborative filters.

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
