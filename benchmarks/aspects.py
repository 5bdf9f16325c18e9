"""Heads of aspects against the generic vector and the baselines: MAP by aspect, and leakage.

    DATA="{class: recsys.datasets.scirex.SciREX, path: .data/scirex_train}"
    python benchmarks/aspects.py "$DATA" --splits 0,1,2,3,4 --valid 0.15 --test 0.3

Every model is trained on every split of the items; validation picks the epoch, test is reported:
mean and standard deviation over splits. Leakage is the mean matrix of the last model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from recsys.aspect_config import AspectExperiment
from recsys.config_text import parse
from recsys.evaluate.aspects import GENERIC, AspectEvaluation
from recsys.evaluate.stored_aspects import evaluate_aspect_run
from recsys.evaluate.summary import text_table
from recsys.train.run import RunOptions, run

_FIXED = {"trained": False, "axes": 128}
_LEAF = "recsys.models.aspect"
MODELS: dict[str, dict[str, Any]] = {
    "retrofitting": {"class": f"{_LEAF}.retrofitting.Retrofitting", "text": _FIXED},
    "classifier": {
        "class": f"{_LEAF}.pairwise_classifier.PairwiseClassifier", "text": _FIXED,
        "embedding_dim": 128,
    },
    "one head": {
        "class": f"{_LEAF}.aspect_embedding.AspectEmbedding", "text": _FIXED, "heads": "shared",
        "embedding_dim": 128,
    },
    "residual heads": {
        "class": f"{_LEAF}.aspect_embedding.AspectEmbedding", "text": _FIXED, "residual": True,
        "embedding_dim": 128, "vector_dim": 128,
    },
    "attention over grams": {
        "class": f"{_LEAF}.aspect_embedding.AspectEmbedding", "heads": "attention",
        "text": {"axes": 128}, "init_std": 0.5,
    },
    "heads over grams": {"class": f"{_LEAF}.aspect_embedding.AspectEmbedding", "text": {}},
    "heads over axes": {
        "class": f"{_LEAF}.aspect_embedding.AspectEmbedding", "text": _FIXED, "embedding_dim": 128,
    },
}  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="block of an experiment, as YAML")
    parser.add_argument("--splits", default="0,1,2", help="seeds of the splits")
    parser.add_argument("--valid", type=float, default=0.1)
    parser.add_argument("--test", type=float, default=0.2)
    parser.add_argument("--max-items", type=int, help="labels of more items are left out")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--candidates", default="split", choices=["split", "all"])
    return parser.parse_args()


def judged(args: argparse.Namespace, name: str, split: int, folder: Path) -> AspectEvaluation:
    """One model on one split."""
    rule = {"valid": args.valid, "test": args.test, "seed": split, "max_items": args.max_items}
    dataset = parse(f"block: {args.dataset}", "dataset")["block"]
    experiment = AspectExperiment.parse({
        "dataset": {**dataset, "rule": rule},
        "model": MODELS[name],
        "embedding": {"learning_rate": args.rate},
        "train": {"num_epochs": args.epochs, "early_stop_patience": 4, "num_threads": 1,
                  "learning_rate": args.rate, "batch_size": 128},
        "evaluation": {"candidates": args.candidates, "bootstrap_samples": 0},
    })  # fmt: skip
    place = folder / f"{name}-{split}"
    run(experiment, place, RunOptions(show="none", device="cpu", report=False))
    return evaluate_aspect_run(place)


def main() -> None:
    """Trains, judges and prints."""
    args = arguments()
    splits, names = [int(seed) for seed in args.splits.split(",")], args.models.split(",")
    found: dict[str, list[AspectEvaluation]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            start = time.process_time()
            found[name] = [judged(args, name, split, Path(folder)) for split in splits]
            seconds[name] = time.process_time() - start
            print(f"{name}: {seconds[name]:.0f} CPU s", file=sys.stderr, flush=True)
    last = found[names[-1]][0]
    values = {GENERIC: np.stack([each.leakage[-1] for each in found[names[-1]]])}
    values |= {n: np.stack([np.diag(each.leakage) for each in runs]) for n, runs in found.items()}
    rows = []
    for name, maps in values.items():
        off = [each.metrics[f"off_aspect.map@{last.k}"] for each in found.get(name, ())]
        cells = [f"{mean:.3f} +- {sd:.3f}" for mean, sd in zip(maps.mean(0), maps.std(0, ddof=1))]
        cells += [f"{np.mean(off):.3f}" if off else None, f"{seconds.get(name, 0):.0f}"]
        rows.append([name, *cells])
    columns = [f"test, map@{last.k}", *last.aspects, "off aspect", "CPU s"]
    print(text_table(columns, rows))
    print(f"\nqueries of the first split: {dict(last.queries)}\n")
    matrix = np.mean([each.leakage for each in found[names[-1]]], axis=0)
    leaks = [[name, *map(float, row)] for name, row in zip(last.rows, matrix)]
    print(text_table([f"{names[-1]}: vectors of", *(f"by {a}" for a in last.aspects)], leaks))


if __name__ == "__main__":
    main()
