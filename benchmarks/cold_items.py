"""Items that no user has yet: LightGCN's vectors guessed from the triples about them, on Last.FM.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/cold_items.py --seeds 1,2,3

Data, splits and the measure ``cold`` are those of `knowledge.py`, and its runs of ``light_gcn`` are
used where there are any: .5 is chance, and KGAT and KGIN, which propagate over the triples, are in
its table. The content of an item is a row with a 1 for every relation with a tail that two items or
more share, weighted by rarity and of length 1; some items have none. The vectors of known items
stay as they are, and with them all lists of known items.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from knowledge import ROOT, experiment_of
from printing import machine, say, spread, table
from recsys.datasets.knowledge_folder import KnowledgeFolder
from recsys.errors import exit_on_error
from recsys.graph.interactions import Interactions
from recsys.graph.knowledge import KnowledgeGraph
from recsys.retrieval.content_vectors import ContentVectors
from recsys.serving.recommender import Recommender
from recsys.train.run import RunOptions, run

WAYS: dict[str, dict[str, Any]] = {
    "linear": {},
    "contrast": {"epochs": 40},
    "contrast, no hard negatives": {"epochs": 40, "hard_negatives": False},
    "contrast and sequences": {"epochs": 40, "sequence_weight": 1.0},
}


def content_of(knowledge: KnowledgeGraph) -> np.ndarray:
    """What the triples say of every item."""
    about = knowledge.head < knowledge.num_items
    facts = knowledge.relation[about] * len(knowledge.entities) + knowledge.tail[about]
    _, column, count = np.unique(facts, return_inverse=True, return_counts=True)
    found = np.zeros((knowledge.num_items, len(count)), np.float32)
    found[knowledge.head[about], column] = 1
    found = found[:, count > 1]
    found *= np.log(len(found) / found.sum(0))
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(min=1e-9)


def place(users: np.ndarray, new: np.ndarray, test: Interactions, at: np.ndarray) -> float:
    """Mean share of the other new items that score less than the one of a test pair."""
    scores = users[test.user] @ new.T
    own = scores[np.arange(len(test)), at[test.item]][:, None]
    below = (scores < own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return float(np.mean(below / (len(new) - 1)))


def judged(seed: int, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """By way: the measure, and CPU seconds of learning."""
    experiment = experiment_of("light_gcn", seed, options)
    folder = options.out / "light_gcn" / f"seed-{seed}"
    if not (folder / "model").is_dir():
        run(experiment, folder, RunOptions(cache_dir=options.out, show="none", device="cpu",
                                           report=False))  # fmt: skip
    dataset = experiment.dataset.build()
    assert isinstance(dataset, KnowledgeFolder)
    splits, content = dataset.splits(options.out), content_of(dataset.knowledge(options.out))
    assert splits.test is not None
    recommender = Recommender.load(folder)
    users, items = (recommender.vectors(kind).values for kind in ("user", "item"))
    new = np.bincount(splits.train.item, minlength=len(items)) == 0
    test, at = splits.test.take(new[splits.test.item]), np.cumsum(new) - 1
    rows = np.cumsum(~new) - 1
    pairs = (splits.train.user, rows[splits.train.item])
    say(f"seed {seed}: {len(test):,} test pairs of {new.sum():,} items without a user, "
        f"{np.mean(~content[new].any(1)):.0%} of them without content")  # fmt: skip
    found = {"as started": (place(users, items[new], test, at), 0.0)}
    for name in options.only.split(";"):
        chosen = WAYS[name]
        start, way = time.process_time(), ContentVectors(seed=seed, **chosen)
        way.fit(content[~new], items[~new], pairs)
        guess = way.vectors(content[new])
        found[name] = place(users, guess, test, at), time.process_time() - start
        say(f"{name}: {found[name][0]:.4f}")
    return found


def main() -> None:
    """Runs and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", type=Path, default=ROOT / ".data" / "kg_music_mcclk")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "knowledge")
    parser.add_argument("--seeds", default="1", help="of split, start and order; with commas")
    parser.add_argument("--only", default=";".join(WAYS), help="ways, with semicolons")
    options = parser.parse_args()
    options.epochs, options.batch_size, options.threads, options.set = 60, 1024, 1, []
    torch.set_num_threads(1)
    seeds = [judged(seed, options) for seed in map(int, options.seeds.split(","))]
    print(machine())
    rows = [["", "cold", "CPU s"]]
    for name in seeds[0]:
        values, seconds = zip(*(found[name] for found in seeds))
        rows.append([name, spread(values, ".4f"), f"{np.mean(seconds):.1f}"])
    table(rows)


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main())
