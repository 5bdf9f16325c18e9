"""Retrieval, then ranking: two towers find candidates among all items, a ranker orders them.

    python examples/retrieve_and_rank.py                     # generated clicks, under a minute
    python examples/retrieve_and_rank.py --out runs/stages   # keeps both runs and the index
    python examples/retrieve_and_rank.py --movielens .data/ml100k_recbole --set 'seeds=[1,2,3]'
    python examples/retrieve_and_rank.py --movielens .data/ml100k_recbole --teacher 0.1

Generated: users like some topics, items are more or less popular, and a topic is clicked more at
some hours. TwoTower learns vectors from the clicks, items go into an index by columns of their own,
DeepFM ranks the best hundred. Recall of the held-out clicks is shown beside that of the most
clicked items. ``--teacher`` trains the ranker first and writes what it says of every row into
the log, where the towers learn to repeat it (DSE). ``--cut`` shows what first values of vectors
find alone, beside main directions (PCA) of as many values.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional

from recsys.base import RecModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.data.source import RandomSplits
from recsys.datasets.movielens import MovieLens
from recsys.errors import exit_on_error
from recsys.evaluate.retrieval import RetrievalEvaluation, RetrievalOptions
from recsys.evaluate.stored_retrieval import evaluate_lists
from recsys.models.ctr.two_tower import TwoTower
from recsys.schema import Numeric
from recsys.serving.predictor import Predictor
from recsys.serving.towers import Towers
from recsys.serving.two_stage import TwoStage
from recsys.train.run import RunOptions, RunResult, run

NUM_USERS, NUM_ITEMS, NUM_TOPICS, NUM_ROWS = 500, 600, 12, 150_000
CANDIDATES, LISTED = 100, 20
TOWERS = {
    "class": "recsys.models.ctr.two_tower.TwoTower",
    "item_id": "item",
    "item_features": ["item", "topic"],
    "user_mlp": {"hidden_units": [64]},
    "item_mlp": {"hidden_units": [64]},
    "output_dim": 32,
    "temperature": 0.2,
}
RANKER = {"class": "recsys.models.ctr.deep_fm.DeepFM", "mlp": {"hidden_units": [64]}}
SCHEMA = {
    "features": [
        {"kind": "categorical", "name": "user"},
        {"kind": "categorical", "name": "hour", "dtype": "int"},
        {"kind": "categorical", "name": "item"},
        {"kind": "categorical", "name": "topic"},
    ],
    "labels": [{"name": "click"}],
    "group": "user",
    "timestamp": "time",
}
TRAIN = {"batch_size": 1024, "num_epochs": 6, "learning_rate": 0.002, "early_stop_patience": 3}
TABLES = {"kind": "rowwise_adagrad", "mode": "sparse", "learning_rate": 0.05}
FILMS = {  # found on the validation split; what is shown is the test split
    "class": "recsys.models.ctr.two_tower.TwoTower",
    "item_id": "item_id",
    "item_features": ["item_id", "release_year", "genres"],
    "embedding_dim": 32,
    "user_mlp": {"hidden_units": [128]},
    "item_mlp": {"hidden_units": [128]},
    "output_dim": 128,
    "temperature": 0.2,
}

FILM_CHANGES = [
    "train.learning_rate=0.001",
    "embedding.learning_rate=0.02",
    "train.monitor=recall@20",
]


def clicks(path: Path, seed: int = 0) -> pa.Table:
    """A log with planted tastes, written as Parquet; gives the items with their columns."""
    random = np.random.default_rng(seed)
    topic = random.integers(0, NUM_TOPICS, NUM_ITEMS)
    popularity = random.permutation(np.arange(1, NUM_ITEMS + 1) ** -0.6)
    likes = np.exp(random.normal(0, 2.0, (NUM_USERS, NUM_TOPICS)))
    peak = random.integers(0, 24, NUM_TOPICS)
    user, hour = random.integers(0, NUM_USERS, NUM_ROWS), random.integers(0, 24, NUM_ROWS)
    item = random.integers(0, NUM_ITEMS, NUM_ROWS)
    near = 1 + np.cos((hour - peak[topic[item]]) * np.pi / 12)
    odds = 2 * popularity[item] * likes[user, topic[item]] * near
    columns = {
        "user": [f"u{number}" for number in user],
        "hour": hour,
        "item": [f"i{number}" for number in item],
        "topic": [f"t{number}" for number in topic[item]],
        "click": (random.random(NUM_ROWS) < odds / (1 + odds)).astype(np.int64),
        "time": np.arange(NUM_ROWS),
    }
    pq.write_table(pa.table(columns), path)
    shown = np.unique(item)
    return pa.table(
        {
            "item": [f"i{number}" for number in shown],
            "topic": [f"t{number}" for number in topic[shown]],
        }
    )


def trained(
    model: dict,
    dataset: dict,
    folder: Path,
    cache: Path,
    changes: Sequence[str] = (),
) -> RunResult:
    """One model on the rows."""
    config = {"dataset": dataset, "model": model, "embedding": TABLES, "train": TRAIN}
    experiment = Experiment.parse(config, changes)
    result = run(experiment, folder, RunOptions(cache_dir=cache, show="none"))
    name = model["class"].rpartition(".")[2]
    steps = ", ".join(f"{seed.fit.best_step:,}" for seed in result.seeds)
    print(f"trained   {name}: steps {steps}, AUC {result.metrics('test')['auc']:.4f}")
    return result


def judged(prepared: Prepared | None, towers: Towers) -> RetrievalEvaluation:
    """All items ranked for every user of the test split; what training saw is left out."""
    assert prepared is not None  # as of every model of clicks
    return evaluate_lists(towers.model, prepared, "test", options=RetrievalOptions(ks=(LISTED,)))


def show(
    found: Sequence[RetrievalEvaluation], title: str = "two towers", baseline: bool = True
) -> None:
    """Lists of every seed, maybe beside the most clicked items: means, and spread over seeds."""
    lines = {title: [one.metrics for one in found]}
    if baseline:
        counts = found[0].counts
        print(f"\n{counts['questions']:,} users, {counts['items']:,} items, without those seen")
        lines["most clicked"] = [found[0].popular]
    for name, metrics in lines.items():
        line = f"{name:<18}"
        for metric in (f"recall@{LISTED}", f"ndcg@{LISTED}"):
            values = [one[metric] for one in metrics]
            spread = f" +- {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            line += f" {metric} {statistics.fmean(values):.4f}{spread}"
        print(line)


def staged(log: Path, folder: Path, towers: Towers, ranker: Predictor, items: pa.Table) -> None:
    """Clicks of the test part, each a question of its own: in the list, and at which rank?"""
    # What the ranker reads of an item comes from the index.
    index = towers.items(items).index(items.select(["topic"]))
    index.save(folder / "index")
    service = TwoStage(ranker, index, id_column="item")
    rows = pq.read_table(log).slice(int(NUM_ROWS * 0.9)).to_pylist()
    rows = [row for row in rows if row["click"]][:2000]
    asked = [{name: row[name] for name in ("user", "hour")} for row in rows]
    lists = service.rank(
        towers.queries(asked), asked, CANDIDATES, CANDIDATES, version=towers.version
    )
    hits = {"candidates": 0, "by towers": 0, "by ranker": 0}
    for row, ranked in zip(rows, lists):
        assert ranked.scores is not None  # as of every search
        by_score = ranked.ids[np.argsort(-ranked.scores, kind="stable")]
        hits["candidates"] += row["item"] in ranked.ids
        hits["by towers"] += row["item"] in by_score[:LISTED]
        hits["by ranker"] += row["item"] in ranked.ids[:LISTED]
    print(f"\n{len(rows)} clicks of the test part, each with its hour, nothing left out")
    for title, count in hits.items():
        size = CANDIDATES if title == "candidates" else LISTED
        print(f"{title:<14} recall@{size:<3} {count / len(rows):.4f}")


def generated(folder: Path) -> None:
    """Both stages on generated clicks."""
    folder.mkdir(parents=True, exist_ok=True)
    log, cache = folder / "clicks.parquet", folder / "data"
    items = clicks(log)
    source = {"files": [str(log)], "format": "parquet"}
    splits = {"kind": "time", "source": source, "valid": 0.1, "test": 0.1}
    dataset = {
        "class": "recsys.datasets.click_log.ClickLog",
        "splits": splits,
        "schema": SCHEMA,
    }
    print(f"clicks    {NUM_ROWS:,} rows, {NUM_USERS:,} users, {len(items):,} items")
    retrieval = trained(TOWERS, dataset, folder / "towers", cache)
    ranking = trained(RANKER, dataset, folder / "ranker", cache)
    towers = Towers.load(retrieval.seeds[0].directory)
    show([judged(retrieval.prepared, towers)])
    staged(log, folder, towers, Predictor.load(ranking.seeds[0].directory), items)


def films(args: argparse.Namespace, folder: Path) -> None:
    """MovieLens-100K, ratings from 4 as clicks, a random tenth for validation and for the test."""
    cache, changes = folder / "data", [*FILM_CHANGES, *args.set]
    config = MovieLens.Config(edition="recbole", path=str(args.movielens), split="random")
    dataset = {"class": "recsys.datasets.movielens.MovieLens", **config.model_dump(mode="json")}
    if args.teacher:
        data = MovieLens(config)
        dataset = taught(data, trained(RANKER, dataset, folder / "ranker", cache), folder)
        changes = ["model.teacher=teacher", f"model.teacher_weight={args.teacher}", *changes]
    result = trained(FILMS, dataset, folder / "films", cache, changes)
    assert result.prepared is not None  # as of every model of clicks
    loaded = [Towers.load(seed.directory) for seed in result.seeds]
    show([judged(result.prepared, towers) for towers in loaded])
    for width in args.cut:
        for title in ("first values", "PCA"):
            loaded = [Towers.load(seed.directory) for seed in result.seeds]
            for towers in loaded:
                shorten(towers.model, width, result.prepared, title == "PCA")
            found = [judged(result.prepared, towers) for towers in loaded]
            show(found, f"{title}, {width}", baseline=False)


def shorten(model: RecModel, width: int, prepared: Prepared, main: bool) -> None:
    """Vectors become their main directions over all items, or their first values."""
    assert isinstance(model, TwoTower)
    users, items = model.user_vectors, model.item_vectors
    if main:
        every: dict[int, Tensor] = {}
        with torch.inference_mode():
            for batch in BatchLoader(prepared, "train", LoaderConfig()):
                every |= dict(zip(batch.key_values("item_id").tolist(), items(batch)))
            vectors = torch.stack(list(every.values()))
            basis = torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, :width]
        model.user_vectors = lambda batch: users(batch) @ basis
        model.item_vectors = lambda batch: items(batch) @ basis
    else:  # trained as cosines, so the length of the tail must not count
        model.user_vectors = lambda batch: users(batch)[:, :width]
        model.item_vectors = lambda batch: functional.normalize(items(batch)[:, :width], dim=1)


def taught(data: MovieLens, ranker: RunResult, folder: Path) -> dict:
    """The same log, cut alike, with the logits of a trained ranker as a column."""
    splits = data.splits(folder / "data")
    assert isinstance(splits, RandomSplits)
    rows = pq.read_table(splits.source.files[0])
    predictor = Predictor.load(ranker.seeds[0].directory)
    chances = predictor.predict(rows.select(list(predictor.columns))).astype(np.float64)
    chances = chances.clip(1e-6, 1 - 1e-6)
    log = folder / "taught.parquet"
    pq.write_table(rows.append_column("teacher", pa.array(np.log(chances / (1 - chances)))), log)
    schema = data.schema()
    features = (*schema.features, Numeric(name="teacher"))
    source = splits.source.model_copy(update={"files": (str(log),)})
    return {
        "class": "recsys.datasets.click_log.ClickLog",
        "schema": schema.model_copy(update={"features": features}).model_dump(mode="json"),
        "splits": splits.model_copy(update={"source": source}).model_dump(mode="json"),
    }


def main() -> None:
    """Reads the command line, trains, retrieves, ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="keep runs and index here")
    parser.add_argument("--movielens", type=Path, help="folder with RecBole's ml-100k files")
    parser.add_argument("--teacher", type=float, default=0.0, metavar="WEIGHT", help="of a ranker")
    parser.add_argument("--cut", type=int, nargs="*", default=[], metavar="WIDTH", help="and PCA")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PLACE=VALUE", help="of --movielens"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch)
        if args.movielens:
            films(args, folder)
        else:
            generated(folder)


if __name__ == "__main__":
    with exit_on_error():
        main()
