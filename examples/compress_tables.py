"""What do I lose if my embedding tables must fit in less memory? Some minutes, no download.

    python examples/compress_tables.py                          # generated data, four schemes
    python examples/compress_tables.py --schemes all --budget 0.1,0.01,0.001
    python examples/compress_tables.py --config configs/sweeps/compress_movielens.yaml --seeds 1,2,3

Trains one model once in full and once a scheme and budget, freezes each, and writes a table, a
plot of AUC against real bytes and a recommendation. Stop it whenever you like: the same command
goes on. The same without the extras is ``recsys compress --config ...``.
"""

import argparse
import sys
from pathlib import Path

from recsys.config import load
from recsys.errors import exit_on_error
from recsys.tune.compression import CompareOptions, compare, parse_dtypes, parse_schemes
from recsys.tune.compression_report import report_text, write_report

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("dataset.num_rows=200000",)


def main() -> None:
    """Reads the command line, compares, reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="experiment (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=VALUE")
    parser.add_argument("--budget", default="0.1,0.01", help="shares of the full tables' bytes")
    parser.add_argument("--schemes", default="unified, hash, cafe, qat")
    parser.add_argument("--dtypes", default="fp32,int8", help="how trained models are frozen")
    parser.add_argument("--seeds", default="1", help="one training each")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--out", type=Path, help="by default runs/compress-<name of the config>")
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"), help="prepared data")
    args = parser.parse_args()
    config = args.config or ROOT / "configs/sweeps/compress_synthetic.yaml"
    small = () if args.config else SMALL
    experiment = load(config, [*small, *args.set, f"seeds=[{args.seeds}]"])
    budgets = tuple(float(part) for part in args.budget.split(","))
    options = CompareOptions(budgets, parse_dtypes(args.dtypes), args.jobs, args.cache_dir)
    out = args.out or Path("runs") / f"compress-{config.stem}"
    comparison = compare(experiment, parse_schemes(args.schemes), out, options)
    files = write_report(comparison, budgets)
    print(report_text(comparison, budgets))
    print("saved:", ", ".join(str(path) for path in files))


if __name__ == "__main__":
    try:
        with exit_on_error():
            main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
