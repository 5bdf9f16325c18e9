import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from recsys.errors import CheckpointError, DataError, TrainingError
from recsys.train.diagnosis import TrainingWarning
from recsys.train.tracking import read_metrics


def stop_at(job, step, action):
    """Runs ``action`` in the middle of a training step."""
    inner, seen = job.model.loss, [0]

    def loss(logits, batch):
        seen[0] += 1
        if seen[0] == step:
            action()
        return inner(logits, batch)

    job.model.loss = loss


def test_learns_and_keeps_the_best(job):
    first = job(num_epochs=6, learning_rate=0.01)
    result = first.fit()
    assert result.stopped == "finished" and not result.interrupted
    assert result.steps == 6 * 13 and result.rows == 6 * 400
    valid = [line for line in read_metrics(first.trainer.run_dir) if line["kind"] == "valid"]
    assert len(valid) == 12
    assert valid[-1]["auc"] > valid[0]["auc"] + 0.03 and valid[-1]["auc"] > 0.75
    assert result.best["auc"] == max(line["auc"] for line in valid)
    assert {"grouped_auc", "ece", "pr_auc", "calibration"} <= set(result.best)
    assert first.trainer.load_best().state["progress"]["step"] == result.best_step


@pytest.mark.parametrize("embedding", [{"kind": "adam"}, {"kind": "adam", "mode": "dense"}, None])
@pytest.mark.parametrize("step", [1, 8, 13, 20])
def test_resumed_run_equals_the_uninterrupted_one(job, assert_same, embedding, step):
    settings = {"embedding": embedding or {"kind": "rowwise_adagrad"}, "schedule": "cosine"}
    whole = job("whole", **settings)
    expected = whole.fit()
    cut = job("cut", **settings)
    stop_at(cut, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = cut.fit()
    assert stopped.stopped == "SIGTERM" and stopped.steps == step
    torch.manual_seed(99)  # whatever another process would have
    rest = job("cut", **settings)
    torch.rand(10)
    found = rest.fit(resume=True)
    assert_same(whole, rest)
    assert found.steps == expected.steps and found.best == expected.best
    keep = ("kind", "step", "loss", "auc", "learning_rate")
    lines = [
        [{k: line.get(k) for k in keep} for line in read_metrics(one.trainer.run_dir)]
        for one in (whole, rest)
    ]
    # The cut adds a look at its step; its neighbours average over fewer steps.
    shared = [line for line in lines[1] if line["kind"] == "valid"]
    assert shared == [line for line in lines[0] if line["kind"] == "valid"]


def test_a_crash_resumes_from_the_last_evaluation(job, assert_same):
    whole = job("whole")
    whole.fit()
    cut = job("cut")

    def crash():
        raise RuntimeError("power is gone")

    stop_at(cut, 17, crash)
    with pytest.raises(RuntimeError, match="power is gone"):
        cut.fit()
    rest = job("cut")
    rest.fit(resume=True)
    assert_same(whole, rest)
    steps = [line["step"] for line in read_metrics(rest.trainer.run_dir) if line["kind"] == "train"]
    assert steps == sorted(set(steps)), "lines after the checkpoint are written once"


def test_more_epochs_go_on_from_the_end(job, assert_same):
    whole = job("whole", num_epochs=3)
    whole.fit()
    job("cut", num_epochs=2).fit()
    rest = job("cut", num_epochs=3)
    assert rest.fit(resume=True).steps == 39
    assert_same(whole, rest)


def test_a_finished_run_resumes_to_itself(job, assert_same):
    first, second = job(), job()
    result = first.fit()
    again = second.fit(resume=True)
    assert_same(first, second)
    assert (again.steps, again.best, again.best_step) == (26, result.best, result.best_step)


def test_second_ctrl_c_stops_at_once(job):
    cut = job()

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    stop_at(cut, 3, twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            cut.fit()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_batch_size_in_the_middle_of_an_epoch_is_refused(job):
    cut = job()
    stop_at(cut, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    cut.fit()
    with pytest.raises(CheckpointError, match=r"batch_size=32 .* cannot go on with batch_size=16"):
        job(batch_size=16).fit(resume=True)


def test_nothing_to_resume(job):
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        job().fit(resume=True)


def test_loss_is_the_weighted_mean(job):
    """A batch with weights 0, 1 and 2 trains like the batch with those rows repeated."""
    results = []
    for weights, rows in (([2.0, 0.0, 1.0], [0, 1, 2]), (None, [0, 0, 2])):
        one = job(optimizer="sgd", learning_rate=0.5, embedding={"kind": "sgd"})
        one.model.eval()  # no dropout
        batch = one.train.batch(np.array(rows))
        if weights is not None:
            object.__setattr__(batch, "weights", torch.tensor(weights))
        loss = one.trainer._train_step(batch, 1.0)
        results.append((float(loss), one.state()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_batch_of_padding_changes_nothing(job):
    one = job(optimizer="sgd", embedding={"kind": "sgd"})
    before = one.state()
    batch = one.train.batch(np.arange(4))
    object.__setattr__(batch, "weights", torch.zeros(4))
    assert float(one.trainer._train_step(batch, 1.0)) == 0.0
    for name, value in one.state().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_clipping_bounds_the_step(job, mode):
    one = job(optimizer="sgd", learning_rate=1.0, clip_norm=1e-3,
              embedding={"kind": "sgd", "mode": mode, "learning_rate": 1.0})  # fmt: skip
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    one.trainer._train_step(one.train.batch(np.arange(32)), 1.0)
    moved = {name: (value - before[name]).norm() for name, value in one.model.state_dict().items()}
    tables = {name for name in moved if name.startswith("embeddings.")}
    dense = math.sqrt(sum(float(moved[name]) ** 2 for name in moved.keys() - tables))
    table = math.sqrt(sum(float(moved[name]) ** 2 for name in tables))
    if mode == "dense":
        assert math.hypot(dense, table) == pytest.approx(1e-3, rel=1e-2)
    else:
        assert dense == pytest.approx(1e-3, rel=1e-2)
        assert table > 1e-2, "tables are not clipped in sparse mode"


def test_tables_follow_the_schedule(job):
    one = job(warmup_steps=4, max_steps=8, embedding={"kind": "sgd", "learning_rate": 0.2})
    seen = []
    inner = one.tables.step
    one.tables.step = lambda: (seen.append(one.tables.learning_rate), inner())
    one.fit()
    assert seen[:5] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2])


def test_bf16_trains_close_to_fp32_with_fp32_logits(job):
    losses = {}
    for precision in ("fp32", "bf16"):
        one = job(precision, precision=precision, num_epochs=6)
        kinds = set()
        inner = one.model.loss
        one.model.loss = lambda logits, batch, kinds=kinds, inner=inner: (
            kinds.add(logits.dtype),
            inner(logits, batch),
        )[1]
        losses[precision] = one.fit().best["logloss"]
        assert kinds == {torch.float32}
    assert losses["fp32"] != losses["bf16"]
    assert losses["fp32"] == pytest.approx(losses["bf16"], abs=0.02)


def test_early_stop_and_plateau(job):
    one = job(num_epochs=50, early_stop_patience=3, schedule="plateau", plateau_patience=2,
              monitor="logloss", learning_rate=0.05, embedding={"learning_rate": 0.5})  # fmt: skip
    result = one.fit()
    assert result.stopped == "early stop" and result.steps < 50 * 13
    lines = read_metrics(one.trainer.run_dir)
    valid = [line["logloss"] for line in lines if line["kind"] == "valid"]
    assert min(valid) == valid[-4], "three evaluations without a new best, then the end"
    assert [line for line in lines if line["kind"] == "train"][-1]["learning_rate"] < 0.05
    again = job(num_epochs=50, early_stop_patience=3, embedding={"learning_rate": 0.5})
    assert again.fit(resume=True).stopped == "early stop"


def test_diverged_loss_names_the_learning_rate(job):
    one = job(optimizer="sgd", learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"finite numbers, got loss .*learning_rate=1e\+30.*lower it"
    ):
        one.fit()


def test_diverged_loss_names_the_unscaled_feature(job):
    one = job(optimizer="sgd", learning_rate=1e6)
    one.train.age *= 1e7
    with pytest.raises(TrainingError, match=r"`age` is not scaled .* `scale: standardize`"):
        one.fit()


def test_nan_in_a_column_is_named(job):
    one = job()
    one.train.age[5] = math.nan
    with pytest.raises(TrainingError, match="Feature `age` holds NaN"):
        one.fit()


def freeze(one):
    """A model that says the same for every row whatever it learns."""
    inner = one.model.forward
    one.model.forward = lambda batch: inner(batch) * 0.0


def test_constant_predictions_warn_then_stop(job):
    one = job()
    freeze(one)
    with (
        pytest.warns(TrainingWarning, match="predicts the same 0.5 for every row of `click`"),
        pytest.raises(TrainingError, match="hidden units died"),
    ):
        one.fit()


def test_constant_labels_are_named(job):
    one = job()
    one.train.labels[:] = 0
    freeze(one)
    with (
        pytest.warns(TrainingWarning, match="All labels of the last training batch are 0"),
        pytest.raises(TrainingError, match="step 13"),
    ):
        one.fit()


def test_monitor_that_the_data_cannot_give(job):
    one = job(monitor="grouped_auc")
    one.valid.batch = lambda rows, inner=one.valid.batch: without_groups(inner(rows))
    with pytest.raises(DataError, match="monitor=grouped_auc needs a group column"):
        one.fit()


def without_groups(batch):
    object.__setattr__(batch, "groups", None)
    return batch


class Short:
    """A loader that ends early."""

    def __init__(self, loader):
        self.loader = loader
        self.set_epoch, self.state_dict = loader.set_epoch, loader.state_dict

    def __len__(self):
        return 20

    def __iter__(self):
        return iter(self.loader)


def test_a_loader_that_lies_about_its_length(job):
    one = job()
    one.train = Short(one.train)
    with pytest.raises(TrainingError, match="promised 20 batches an epoch and ended after 13"):
        one.fit()


def test_no_training_batches(job):
    with pytest.raises(DataError, match="gives no batch"):
        job(rows=0).fit()


def test_without_validation_the_last_weights_are_the_best(job):
    one = job()
    one.valid = None
    result = one.fit()
    assert result.best == {} and one.trainer.load_best().state["progress"]["step"] == 26


def test_checkpoint_state_is_plain_json(job):
    one = job()
    one.fit()
    last = one.trainer.checkpoints.load("last")
    state = json.loads((last.path / "state.json").read_text())
    assert state["progress"]["step"] == 26 and state["progress"]["epoch"] == 2
    assert {p.suffix for p in last.path.iterdir()} == {".json", ".safetensors"}


def test_checkpoint_every(job):
    one = job(num_epochs=3, evaluations_per_epoch=4, checkpoint_every=100)
    one.valid = None
    one.fit()
    assert [p.name for p in one.trainer.checkpoints.directory.glob("step-*")] == ["step-00000039"]


def test_the_task_hears_of_every_epoch_also_when_resuming_within_one(job):
    def told(one):
        heard = []
        one.trainer.task.begin_epoch = heard.append
        return heard

    whole = job("whole", num_epochs=3)
    heard = told(whole)
    whole.fit()
    assert heard == [0, 1, 2]
    cut = job("cut", num_epochs=3)
    stop_at(cut, 20, lambda: os.kill(os.getpid(), signal.SIGTERM))
    heard = told(cut)
    cut.fit()
    assert heard == [0, 1]
    rest = job("cut", num_epochs=3)
    heard = told(rest)
    rest.fit(resume=True)
    assert heard == [1, 2], "20 of 13 batches an epoch: within the second"
