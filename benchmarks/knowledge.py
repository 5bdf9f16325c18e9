"""What a knowledge graph is worth: KGAT and KGIN on Last.FM against models of pairs alone.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/knowledge.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/knowledge.py --seeds 1,2,3
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/knowledge.py --only kgat,kgat_no_triples
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/knowledge.py --report   # what was run before

Data: `kg_music_mcclk` (see ../shared/data), split 6 : 2 : 2 at random by the seed, as KGCN does.
Epochs are chosen by NDCG@20 on the validation part; the test part is judged once. Three measures:

- ranking: every item that the user was not seen with before, Recall@20 and NDCG@20;
- labels: AUC over the test pairs of the file with their drawn negatives, of all pairs together (as
  KGCN reports) and of each user's pairs (gauc). KGCN published .794 to .796;
- cold: test pairs about items that no user of the training part has, and the mean share of the
  other such items that score less. 0.5 is chance.

``kgat_no_triples`` is KGAT without a triple, so that only the knowledge differs. ``kgat_started``
begins with the vectors of ``light_gcn`` of the same seed, which has to be run before it. Seconds
are CPU seconds of the whole job. A run that is complete is kept, one that is not begins anew.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from printing import machine, say, spread, table
from recsys.cf import CFModel
from recsys.cf_config import CFExperiment
from recsys.datasets.knowledge_folder import KnowledgeFolder
from recsys.errors import exit_on_error
from recsys.folders import write_json
from recsys.graph.interactions import Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.metrics.auc import auc
from recsys.metrics.grouped_auc import grouped_auc
from recsys.serving.recommender_folder import load_recommender
from recsys.train.run import RunOptions, run

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("recall@20", "ndcg@20", "cold", "auc", "gauc")


class WithoutTriples(KnowledgeFolder):
    """The same interactions, of which nothing is known."""

    class Config(KnowledgeFolder.Config):
        """As of the whole data set."""

    def knowledge(self, cache_dir: Path) -> KnowledgeGraph:
        """Items as entities, and no triple."""
        items, none = self.splits(cache_dir).train.items, np.zeros(0, np.int64)
        return KnowledgeGraph(Names(items.values), Names(["none"]), len(items), none, none, none)


_KGAT = {"class": "kgat.KGAT", "layers": [64], "l2": 0.05, "rates": (0.001, 0.005)}
MODELS: dict[str, dict[str, Any]] = {
    "most_pop": {"class": "most_pop.MostPop"},
    "ease": {"class": "ease.EASE", "l2": 100.0},
    "light_gcn": {"class": "light_gcn.LightGCN", "num_layers": 2, "rates": (0.005, 0.005)},
    "kgat_no_triples": {**_KGAT, "knowledge_phase": False, "dataset": "knowledge.WithoutTriples"},
    "kgat_static": {**_KGAT, "attention": "static"},
    "kgat": _KGAT,
    "kgat_started": {**_KGAT, "start_vectors": "light_gcn", "rates": (0.001, 0.0002)},
    "kgin": {"class": "kgin.KGIN", "num_layers": 2, "l2": 0.01, "rates": (0.005, 0.005)},
}
"""By name: class, options, learning rates of weights and of tables, another data set."""


def experiment_of(name: str, seed: int, options: argparse.Namespace) -> CFExperiment:
    """The job of a model."""
    model = dict(MODELS[name])
    dataset = model.pop("dataset", "recsys.datasets.knowledge_folder.KnowledgeFolder")
    rate, table_rate = model.pop("rates", (0.001, 0.001))
    if "start_vectors" in model:
        model["start_vectors"] = str(options.out / model["start_vectors"] / f"seed-{seed}")
    model["class"] = f"recsys.models.graph.{model['class']}"
    train = {
        "learning_rate": rate, "batch_size": options.batch_size, "num_epochs": options.epochs,
        "epochs_per_evaluation": 2, "early_stop_patience": 5, "num_threads": options.threads,
    }  # fmt: skip
    split = {"kind": "random", "valid": 0.2, "test": 0.2, "seed": seed}
    return CFExperiment.parse(
        {
            "dataset": {"class": dataset, "path": str(options.path), "split": split},
            "model": model, "embedding": {"learning_rate": table_rate}, "train": train,
            "seeds": [seed],
        },
        options.set,
    )  # fmt: skip


def labels(experiment: CFExperiment, model: CFModel, cache: Path) -> dict[str, float]:
    """AUC over the labelled test pairs."""
    dataset = experiment.dataset.build()
    assert isinstance(dataset, KnowledgeFolder)
    pairs = dataset.labelled(cache)["test"]
    users = torch.from_numpy(pairs.user)
    scores = torch.cat([
        model.scores(block).gather(1, items[:, None])[:, 0]
        for block, items in zip(users.split(2048), torch.from_numpy(pairs.item).split(2048))
    ]).numpy()  # fmt: skip
    return {
        "auc": auc(pairs.label, scores),
        "gauc": grouped_auc(pairs.label, scores, pairs.user).value,
    }


def cold(experiment: CFExperiment, model: CFModel, cache: Path) -> dict[str, float]:
    """Where test pairs about items without a training user lie among all those items."""
    splits = experiment.dataset.build().splits(cache)
    assert splits.test is not None
    new = np.bincount(splits.train.item, minlength=splits.train.num_items) == 0
    pairs = splits.test.take(new[splits.test.item])
    users, at = np.unique(pairs.user, return_inverse=True)
    scores = model.scores(torch.from_numpy(users)).numpy()
    own, others = scores[at, pairs.item][:, None], scores[at][:, new]
    below = (others < own).sum(1) + ((others == own).sum(1) - 1) / 2
    return {"cold": float(np.mean(below / (new.sum() - 1))), "cold_pairs": float(len(pairs))}


def run_one(name: str, seed: int, options: argparse.Namespace) -> None:
    """Trains and judges, unless that was done before."""
    folder = options.out / name / f"seed-{seed}"
    record = folder / "knowledge.json"
    if record.is_file() and not options.again:
        say(f"{name}, seed {seed}: kept")
        return
    say(f"{name}, seed {seed}")
    if folder.is_dir():
        shutil.rmtree(folder)  # broken off, or to be run again
    experiment = experiment_of(name, seed, options)
    start = time.process_time()
    chosen = RunOptions(cache_dir=options.out, show="lines" if options.verbose else "none",
                        device="cpu", report=False)  # fmt: skip
    (result,) = run(experiment, folder, chosen).seeds
    seconds = time.process_time() - start
    model = load_recommender(folder).model
    found = {
        **result.metrics["test"],
        **cold(experiment, model, options.out),
        **labels(experiment, model, options.out),
    }
    write_json(record, {
        "model": name, "seed": seed, "cpu_seconds": seconds, "steps": result.fit.steps,
        "best_step": result.fit.best_step, "valid": dict(result.fit.best), "test": found,
        "experiment": experiment.model_dump(mode="json"), "machine": machine(),
    })  # fmt: skip
    say(f"{name}, seed {seed}: " + "  ".join(f"{k} {found[k]:.4f}" for k in SHOWN))


def report(out: Path) -> dict[str, Any]:
    """A table of all that was run; means and ranges over seeds."""
    rows, summary = [["", "seeds", *SHOWN, "valid ndcg@20", "CPU s"]], {}
    for name in MODELS:
        found = [json.loads(p.read_text()) for p in sorted(out.glob(f"{name}/*/knowledge.json"))]
        if not found:
            continue
        values = {key: [record["test"][key] for record in found] for key in SHOWN}
        valid = [record["valid"].get("ndcg@20", float("nan")) for record in found]
        seconds = [record["cpu_seconds"] for record in found]
        form = (lambda v: spread(v, ".4f")) if len(found) > 1 else (lambda v: f"{v[0]:.4f}")
        cells = [form(values[key]) for key in SHOWN]
        rows.append([name, str(len(found)), *cells, form(valid), f"{np.mean(seconds):.0f}"])
        summary[name] = {**values, "valid_ndcg@20": valid, "cpu_seconds": seconds}
    table(rows)
    return summary


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a knowledge graph is worth.")
    parser.add_argument("--path", type=Path, default=ROOT / ".data" / "kg_music_mcclk")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "knowledge")
    parser.add_argument("--only", default=",".join(MODELS), help="models, with commas")
    parser.add_argument("--seeds", default="1", help="of split, start and order; with commas")
    parser.add_argument("--epochs", type=int, default=60, help="at most; validation stops earlier")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="PLACE=VALUE, as recsys train")
    parser.add_argument("--again", action="store_true", help="run what is complete once more")
    parser.add_argument("--verbose", action="store_true", help="progress of every training")
    parser.add_argument("--report", action="store_true", help="only the table of what was run")
    options = parser.parse_args()
    unknown = [name for name in options.only.split(",") if name not in MODELS]
    if unknown:
        parser.error(f"--only: expected some of {', '.join(MODELS)}; got {', '.join(unknown)}")
    return options


def main() -> None:
    options = arguments()
    print(machine())
    for seed in [] if options.report else map(int, options.seeds.split(",")):
        for name in options.only.split(","):
            with exit_on_error():
                run_one(name, seed, options)
    summary = report(options.out)
    write_json(options.out / "knowledge.json", {"machine": machine(), "models": summary})


if __name__ == "__main__":
    sys.exit(main())
