"""Which widths are worth their bytes? A search with a front to show, two minutes, no download.

    python examples/search_embeddings.py
    python examples/search_embeddings.py --trials 60 --workers 2
    python examples/search_embeddings.py --limit 400kB           # the best that fits
    python examples/search_embeddings.py --sweep configs/sweeps/tune_movielens.yaml

Trains one model with other widths in every trial, some chosen by how important the fields are, and
stops trials that lag behind. Then it writes ``report.html`` with the front, and ``best.yaml``,
which ``recsys train --config`` takes. Stop it whenever you like: the same command goes on. The
same without the extras is ``recsys tune --sweep ...``.
"""

import argparse
import sys
from pathlib import Path

from recsys.errors import exit_on_error
from recsys.tune.report import report_text, write_report
from recsys.tune.sweep import load_sweep
from recsys.tune.tune import TuneOptions, tune

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Reads the command line, searches, reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweep", type=Path, default=ROOT / "configs/sweeps/tune_synthetic.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=VALUE")
    parser.add_argument("--trials", type=int, help="by default what the sweep says")
    parser.add_argument("--limit", help="most bytes of the tables, say 400kB")
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--out", type=Path, help="by default runs/<name of the sweep>")
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"), help="prepared data")
    args = parser.parse_args()
    changes = list(args.set)
    changes += [f"trials={args.trials}"] if args.trials else []
    changes += [f"limits.bytes={args.limit}"] if args.limit else []
    sweep = load_sweep(args.sweep, tuple(changes))
    options = TuneOptions(workers=args.workers, cache_dir=args.cache_dir)
    out = args.out or Path("runs") / args.sweep.stem
    study = tune(sweep, sweep.experiment(args.sweep.parent), out, options)
    files = write_report(study)
    print(report_text(study))
    page = next(path for path in files if path.name == "report.html")
    print(f"look at {page}; train the best by: recsys train --config {out}/best.yaml")


if __name__ == "__main__":
    try:
        with exit_on_error():
            main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
