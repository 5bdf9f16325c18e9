"""Methods that train several times, through the whole job."""

import copy
import json
import os
import signal

import pytest
import torch

from recsys.config import Experiment, TrainConfig
from recsys.embeddings.compression.auto_dim import AutoDim
from recsys.embeddings.compression.opt_embed import OptEmbed
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full, Phase
from recsys.errors import ConfigError
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dcn_v2 import DCNv2
from recsys.serving.artefact import load_artefact
from recsys.serving.predictor import Predictor
from recsys.train import phases
from recsys.train.checkpoint import CheckpointStore
from recsys.train.click_task import ClickTask
from recsys.train.phases import folder_of, in_phases, phase_config, phases_of
from recsys.train.ranks import Ranks
from recsys.train.run import RunOptions, run
from recsys.train.step import TrainStep
from recsys.train.tracking import read_metrics
from recsys.train.trainer import Trainer
from tests.train.conftest import SCHEMA, MemoryLoader

SCHEMES = {
    "auto_dim": "{kind: auto_dim, architecture_every: 3, architecture_learning_rate: 1.0}",
    "opt_embed": "{kind: opt_embed, alpha: 0.01, threshold_learning_rate: 1.0, "
    "evolution: {generations: 1, mutations: 2, crossovers: 2}}",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def experiment(kind: str, *settings: str) -> Experiment:
    return Experiment.parse(
        {
            "dataset": {
                "class": "recsys.datasets.synthetic.Synthetic",
                "num_rows": 3000, "valid_rows": 800, "test_rows": 700,
            },
            "model": {
                "class": "recsys.models.ctr.dcn_v2.DCNv2",
                "embedding_dim": 8,
                "mlp": {"hidden_units": [8], "dropout": 0.2},
                "compression": {"ratio": 0.6, "exact_rows": 8},
            },
            "train": {
                "batch_size": 256, "learning_rate": 0.02, "num_epochs": 1, "log_every": 4,
                "evaluations_per_epoch": 2, "bootstrap_samples": 0,
            },
            "embedding": {"learning_rate": 0.1},
        },
        [f"model.compression.scheme={SCHEMES[kind]}", *settings],
    )  # fmt: skip


def options(cache, resume: bool = False, ranks: int = 1) -> RunOptions:
    return RunOptions(cache_dir=cache, show="none", resume=resume, ranks=ranks)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_artefact(folder).model.state_dict()


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: run(experiment(kind), folder / kind, options(cache)) for kind in SCHEMES}


# ------------------------------------------------------------------------------- which phases


def test_most_schemes_train_once():
    assert [p.name for p in phases_of({"g.a": Full()})] == ["train"]
    assert phases_of({}) == (Phase("train"),)
    several = {"g.a": Full(), "g.b": AutoDim(), "g.c": AutoDim(width=2)}
    assert [p.name for p in phases_of(several)] == ["search", "retrain"]
    assert in_phases(several) == {"g.b"}


def test_two_methods_in_one_model_are_refused():
    with pytest.raises(ConfigError, match=r"`auto_dim` .table `g.a`. and `opt_embed` .table `g.b"):
        phases_of({"g.a": AutoDim(), "g.b": OptEmbed()})
    with pytest.raises(ConfigError, match=r"`auto_dim`.*same settings"):
        phases_of({"g.a": AutoDim(), "g.b": AutoDim(architecture_every=9)})


def test_a_phase_has_its_share_of_the_epochs():
    train = TrainConfig(num_epochs=10, max_steps=7)
    found = phase_config(train, Phase("x", epochs=0.3))
    assert (found.num_epochs, found.max_steps) == (3, 3)
    assert phase_config(train, Phase("x", epochs=0.01)).num_epochs == 1
    assert phase_config(train, Phase("x")) == train


def test_a_phase_that_prunes_is_not_stopped_before_it_is_through():
    train = TrainConfig(num_epochs=10, early_stop_patience=3)
    assert phase_config(train, Phase("prune", keeps="last")).early_stop_patience is None
    assert phase_config(train, Phase("prune", keeps="settled")).early_stop_patience is None
    assert phase_config(train, Phase("retrain")).early_stop_patience == 3


def test_the_last_phase_has_the_run_folder(tmp_path):
    both = (Phase("search"), Phase("retrain"))
    assert folder_of(tmp_path, both, 0).name == "phase-1-search"
    assert folder_of(tmp_path, both, 1) == tmp_path


# ------------------------------------------------------------------------------- single steps


def make_step() -> tuple[TrainStep, MemoryLoader]:
    config = DCNv2.Config(
        embedding_dim=4,
        mlp=MLPConfig(hidden_units=(8,)),
        compression=CompressionConfig(scheme=AutoDim(temperature_decay=0.1), exact_rows=0),
    )
    model = DCNv2(config, SCHEMA)
    model.reset_parameters(seed=3)
    tables = model.embeddings.attach_optimizer(EmbeddingOptimizerConfig(kind="adam"))
    step = TrainStep(ClickTask(model, TrainConfig(), tables, Ranks()), tables, Ranks())
    return step, MemoryLoader(64, 32)


def everything(step: TrainStep) -> dict[str, torch.Tensor]:
    assert step.tables is not None
    parameters = {f"p:{n}": p for n, p in step.model.state_dict().items()}
    states = {f"t:{n}": s for n, s in step.tables.state_dict().items()}
    states |= {f"d:{n}": s for n, s in step.dense.state_dict().items()}
    return {name: value.detach().clone() for name, value in {**parameters, **states}.items()}


def test_an_architecture_step_trains_the_architecture_alone():
    step, loader = make_step()
    first, second = list(loader)
    step(first, 1.0)
    before = everything(step)
    torch.manual_seed(0)
    loss = step.train_architecture(second, 0.5)
    after = everything(step)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    alphas = {name for name in before if name.endswith(".alpha")}
    assert changed == alphas and len(alphas) == 2
    assert step.model.embeddings.trains_tables
    # Plain SGD: minus half of the gradient that autograd gives for the same loss.
    for name in alphas:
        dict(step.model.named_parameters())[name.removeprefix("p:")].data.copy_(before[name])
    torch.manual_seed(0)
    again = step.model.loss(step.model(second), second).mean() + step.model.auxiliary_loss()
    assert again.item() == pytest.approx(loss.item())
    parameters = [dict(step.model.named_parameters())[n.removeprefix("p:")] for n in alphas]
    for name, grad in zip(alphas, torch.autograd.grad(again, parameters)):
        assert grad.any()
        torch.testing.assert_close(after[name], before[name] - 0.5 * grad)


def test_an_ordinary_step_leaves_the_architecture_and_adapts():
    step, loader = make_step()
    before = everything(step)
    step(next(iter(loader)), 1.0)
    after = everything(step)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(name.endswith(".alpha") for name in moved)
    state = step.model.state_dict()
    assert state["embeddings.decoders.embedding/user.steps"] == 1
    step(next(iter(loader)), 1.0)
    assert step.model.state_dict()["embeddings.decoders.embedding/user.steps"] == 2


# ------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("kind", "first"), [("auto_dim", "search"), ("opt_embed", "supernet")])
def test_every_phase_is_kept_and_the_model_is_served(finished, kind, first):
    folder = finished[kind].directory
    before = folder / f"phase-1-{first}"
    assert (before / "checkpoints" / "best.json").is_file()
    goes_on = kind == "auto_dim"  # then what it starts from is judged too
    for place, expected in ((before, [6, 12]), (folder, [0, 6, 12] if goes_on else [6, 12])):
        steps = [line["step"] for line in read_metrics(place) if line["kind"] == "valid"]
        assert steps == expected
    seed = finished[kind].seeds[0]
    assert list(seed.phases) == [first] and seed.phases[first].steps == 12
    assert seed.fit.steps == 12
    content = json.loads((folder / "model" / "model.json").read_text())
    planned = content["config"]["compression"]["planned"]
    assert kind in {scheme["kind"] for scheme in planned.values()}
    assert all(s.get("width", 1) is not None for s in planned.values())
    predictor = Predictor.load(folder)
    assert predictor is not None
    names = weights(folder)
    assert not any("supernet" in name or "alpha" in name for name in names)
    assert f"training before, {first}" in (folder / "MODEL_CARD.md").read_text()
    assert 0.5 < finished[kind].metrics("valid")["auc"] < 1


def test_the_bytes_of_the_result_are_those_of_the_artefact(finished):
    for result in finished.values():
        embeddings = load_artefact(result.directory).model.embeddings
        tables = result.seeds[0].table_bytes
        assert embeddings.bytes("train").total == tables["total"] - tables["optimizer"]


def stop_at(monkeypatch, step: int) -> None:
    """SIGTERM in the given batch, counted over all phases."""
    seen, inner = [0], DCNv2.loss

    def loss(self, logits, batch):
        seen[0] += 1
        if seen[0] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, logits, batch)

    monkeypatch.setattr(DCNv2, "loss", loss)


@pytest.mark.parametrize("kind", list(SCHEMES))
@pytest.mark.parametrize("step", [4, 17])
def test_a_stop_within_a_phase_changes_nothing(finished, kind, step, tmp_path, cache, monkeypatch):
    stop_at(monkeypatch, step)
    cut = run(experiment(kind), tmp_path / "run", options(cache))
    monkeypatch.undo()
    assert cut.interrupted and cut.seeds[0].fit.steps == step - 12 * (step > 12)
    trained = []
    inner = TrainStep.__init__

    def count(self, *arguments):
        trained.append(1)
        inner(self, *arguments)

    monkeypatch.setattr(TrainStep, "__init__", count)
    rest = run(experiment(kind), tmp_path / "run", options(cache, resume=True))
    assert len(trained) == (2 if step < 12 else 1)  # no phase is repeated
    assert_same(finished[kind], rest)


@pytest.mark.parametrize("kind", list(SCHEMES))
@pytest.mark.parametrize("place", ["advance", "next_model"])
def test_a_crash_between_phases_changes_nothing(
    finished, kind, place, tmp_path, cache, monkeypatch
):
    def crash(*arguments, **named):
        raise MemoryError

    monkeypatch.setattr(f"recsys.train.click_job.{place}", crash)
    with pytest.raises(MemoryError):
        run(experiment(kind), tmp_path / "run", options(cache))
    monkeypatch.undo()
    rest = run(experiment(kind), tmp_path / "run", options(cache, resume=True))
    assert_same(finished[kind], rest)


@pytest.mark.parametrize("kind", list(SCHEMES))
def test_a_crash_at_the_start_of_a_phase_changes_nothing(
    finished, kind, tmp_path, cache, monkeypatch
):
    inner = phases.PhaseStarts.save

    def crash(self, *arguments):
        inner(self, *arguments)
        raise MemoryError

    monkeypatch.setattr(phases.PhaseStarts, "save", crash)
    with pytest.raises(MemoryError):
        run(experiment(kind), tmp_path / "run", options(cache))
    monkeypatch.undo()
    rest = run(experiment(kind), tmp_path / "run", options(cache, resume=True))
    assert_same(finished[kind], rest)


def assert_same(one, two) -> None:
    assert not two.interrupted
    assert one.seeds[0].metrics == two.seeds[0].metrics
    first, second = weights(one.directory), weights(two.directory)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for name, fit in one.seeds[0].phases.items():
        assert fit.best == two.seeds[0].phases[name].best


def test_initial_means_the_start_values_of_the_seed(finished):
    """OptEmbed trains dense weights anew, AutoDim goes on with those of the search."""
    for kind, first, inherits in (("auto_dim", "search", True), ("opt_embed", "supernet", False)):
        folder = finished[kind].directory
        start = phases.PhaseStarts(folder).load()
        assert start is not None and start.number == 1
        fresh = experiment(kind).model.build(finished[kind].prepared.schema)
        fresh.reset_parameters(1)
        store = CheckpointStore(folder / f"phase-1-{first}" / "checkpoints")
        best = store.load("best").tensors["model"]
        dense = [name for name in start.model if not name.startswith("embeddings.")]
        assert dense
        expected = best if inherits else fresh.state_dict()
        for name in dense:
            assert torch.equal(start.model[name], expected[name]), name


def test_tables_of_other_schemes_go_on(tmp_path, cache):
    table = experiment("auto_dim").dataset.build().schema().keyed[-1].table_name
    made = experiment("auto_dim", f"model.compression.tables={{{table}: {{kind: full}}}}")
    result = run(made, tmp_path / "run", options(cache))
    start = phases.PhaseStarts(result.directory).load()
    assert start is not None and start.planned[f"embedding.{table}"] == Full()
    store = CheckpointStore(result.directory / "phase-1-search" / "checkpoints")
    best = store.load("best").tensors["model"]
    key = f"embeddings.embedding.{table}.weight"
    assert torch.equal(start.model[key], best[key])


def test_progress_names_the_phase_and_shows_the_search(tmp_path, cache, capsys):
    settings = ["train.max_steps=6", "train.evaluations_per_epoch=1"]
    made = experiment("opt_embed", *settings)
    result = run(made, tmp_path / "run", RunOptions(cache_dir=cache, show="lines"))
    text = capsys.readouterr().err
    for line in ("epoch 1/1 of supernet", "phase `supernet` is done, preparing `retrain`",
                 "search 0/1: best 0.", "search 1/1: best 0.", "epoch 1/1 of retrain"):  # fmt: skip
        assert line in text, line
    assert result.seeds[0].fit.steps == result.seeds[0].phases["supernet"].steps == 6


def test_a_search_without_a_validation_split_says_so():
    with pytest.raises(ConfigError, match="needs a validation split"):
        phases.validation(DCNv2(DCNv2.Config(), SCHEMA), None, TrainConfig(), Ranks())


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", list(SCHEMES))
def test_two_ranks(kind, tmp_path, cache):
    result = run(experiment(kind), tmp_path / "run", options(cache, ranks=2))
    seed = result.seeds[0]
    assert seed.backend == "torchrec" and len(seed.phases) == 1
    assert load_artefact(result.directory).model is not None
    assert 0.5 < result.metrics("valid")["auc"] < 1


@pytest.mark.parametrize("trained", [False, True])
def test_a_training_that_only_spoils_a_trained_model_keeps_its_start(tmp_path, trained):
    step, train = make_step()
    assert isinstance(step.model, DCNv2)
    valid = MemoryLoader(200, 64, seed=1, shuffle=False)
    settings = {"batch_size": 32, "evaluations_per_epoch": 1, "early_stop_patience": 2}
    config = TrainConfig(**settings, num_epochs=6, learning_rate=0.01)
    first = Trainer(
        ClickTask(step.model, config, step.tables, Ranks()), step.tables, tmp_path / "first", "none"
    )
    best = first.fit(train, valid).best["auc"]
    first.load_best()
    before = copy.deepcopy(step.model.state_dict())
    config = TrainConfig(**settings, num_epochs=9, learning_rate=3.0)
    second = Trainer(
        ClickTask(step.model, config, step.tables, Ranks()),
        step.tables,
        tmp_path / "second",
        "none",
        Phase("retrain"),
        trained,
    )
    fit = second.fit(train, valid)
    assert fit.stopped == "early stop"
    assert (fit.best_step == 0) == trained == (fit.best["auc"] == pytest.approx(best))
    assert second.load_best().state["progress"]["step"] == fit.best_step
    same = [torch.equal(value, before[name]) for name, value in step.model.state_dict().items()]
    assert all(same) == trained
    if trained:  # the start is no evaluation of the training: patience runs from the first one on
        assert fit.steps >= 3 * len(train)


@pytest.mark.parametrize("keeps", ["best", "last"])
def test_a_phase_may_keep_its_last_weights(tmp_path, keeps):
    step, train = make_step()
    torch.manual_seed(0)
    config = TrainConfig(
        batch_size=32, learning_rate=1.0, num_epochs=6, evaluations_per_epoch=1, monitor="logloss"
    )
    valid, phase = MemoryLoader(200, 64, seed=1, shuffle=False), Phase("prune", keeps=keeps)
    assert isinstance(step.model, DCNv2)
    trainer = Trainer(
        ClickTask(step.model, config, step.tables, Ranks()), step.tables, tmp_path, "none", phase
    )
    fit = trainer.fit(train, valid)
    assert fit.best_step < 12
    assert trainer.load_best().state["progress"]["step"] == (
        12 if keeps == "last" else fit.best_step
    )


@pytest.mark.parametrize("settles", [6, None])
def test_a_phase_may_keep_the_best_of_its_settled_weights(tmp_path, monkeypatch, settles):
    step, train = make_step()
    torch.manual_seed(0)
    seen = {}
    config = TrainConfig(
        batch_size=32, learning_rate=1.0, num_epochs=6, evaluations_per_epoch=1, monitor="logloss",
        early_stop_patience=2,
    )  # fmt: skip
    valid, phase = MemoryLoader(200, 64, seed=1, shuffle=False), Phase("prune", keeps="settled")
    assert isinstance(step.model, DCNv2)
    trainer = Trainer(
        ClickTask(step.model, config, step.tables, Ranks()), step.tables, tmp_path, "none", phase,
        on_evaluation=lambda at, values: seen.__setitem__(at, values["logloss"]),
    )  # fmt: skip
    monkeypatch.setattr(
        step.model.embeddings, "settled", lambda: bool(settles and trainer.progress.step >= settles)
    )
    fit = trainer.fit(train, valid)
    assert min(seen, key=seen.__getitem__) < 6  # what a rule without patience for it would keep
    if settles is None:
        assert fit.stopped == "finished" and fit.best_step == fit.steps == 12
    else:
        assert fit.best_step == min((at for at in seen if at >= 6), key=seen.__getitem__)
        assert fit.best["logloss"] == seen[fit.best_step]
        if fit.stopped == "early stop":
            assert fit.steps >= 6 + 2 * len(train)
    assert trainer.load_best().state["progress"]["step"] == fit.best_step
