"""What every CTR model has to do, as one suite to inherit.

Example::

    class TestDeepFM(CTRConformance):
        model = DeepFM
        config = DeepFM.Config(embedding_dim=4, mlp=MLPConfig(hidden_units=(8,)))

pytest collects the inherited tests with the class. Choose a small config: the suite builds some
forty models.

Stability: testing
"""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.base import CTRModel, FlatInputs
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import SchemaError
from recsys.losses.pointwise import weighted_mean
from recsys.schema import PAD_INDEX
from recsys.testing.data import (
    SCHEMA_KINDS,
    SchemaKind,
    fill_weights,
    is_table,
    random_batch,
    select_rows,
    tiny_schema,
)
from recsys.testing.training import dense_parameters, train_steps
from recsys.types import Batch


class CTRConformance:
    """Inherit, name the model and a small config, and run pytest.

    Subclasses set ``model`` and ``config``; the rest is optional.
    """

    model: ClassVar[type[CTRModel]]
    """The class under test."""
    config: ClassVar[CTRModel.Config]
    """A small config of it, without dropout."""
    golden: ClassVar[Path | None] = None
    """Where the loss after 20 steps is kept; written with ``--update-golden``."""
    unreached: ClassVar[tuple[str, ...]] = ()
    """Names in the state dict that a training step may leave as they are."""
    backends: ClassVar[bool] = True
    """Whether to compare backends; a second config of a model may leave it out (6 s each)."""
    tolerance: ClassVar[float] = 1e-5
    """Largest difference of logits between equal forms of the model."""

    # ------------------------------------------------------------------------------- helpers

    def build(self, kind: SchemaKind = "mixed", **changes: object) -> CTRModel:
        """The model with deterministic weights, in eval mode.

        Args:
            kind: Of `tiny_schema`.
            **changes: Fields of the config to replace.
        """
        config = self.config.model_copy(update=changes)
        model = self.model(config, tiny_schema(kind))
        fill_weights(model)
        return model.eval()

    def close(self, got: Tensor, expected: Tensor) -> None:
        """Asserts equal logits."""
        torch.testing.assert_close(got, expected, atol=self.tolerance, rtol=self.tolerance)

    # ------------------------------------------------------------------------------- config

    def test_config_survives_json_and_yaml(self) -> None:
        """A saved config loads back equal."""
        kind = type(self.config)
        assert kind.model_validate_json(self.config.model_dump_json()) == self.config
        text = yaml.safe_dump(self.config.model_dump(mode="json"))
        assert kind.model_validate(yaml.safe_load(text)) == self.config

    def test_unknown_config_key_is_refused(self) -> None:
        """A misspelt setting never passes silently."""
        options = {**self.config.model_dump(), "embeding_dimension": 3}
        with pytest.raises(ValidationError, match="embeding_dimension"):
            self.model.Config.model_validate(options)

    def test_unknown_table_is_refused(self) -> None:
        """Exceptions for a table that does not exist name the nearest one."""
        config = {**self.config.model_dump(), "tables": {"usr": {"pooling": "sum"}}}
        with pytest.raises(SchemaError, match=r"no table `usr`. Did you mean `user`\?"):
            self.model(self.model.Config.model_validate(config), tiny_schema())

    # ------------------------------------------------------------------------------- inputs

    @pytest.mark.parametrize("numeric", ["embed", "dense"])
    @pytest.mark.parametrize("kind", SCHEMA_KINDS)
    def test_every_kind_of_schema(self, kind: SchemaKind, numeric: str) -> None:
        """Every mix of feature types gives logits that depend on every row, and trains."""
        model = self.build(kind, numeric=numeric).train()
        batch = random_batch(model.schema, batch_size=16, seed=1)
        logits = model(batch)
        assert logits.shape == (16, model.schema.num_tasks)
        assert logits.isfinite().all() and len(logits[:, 0].unique()) > 1
        losses = train_steps(model, [batch] * 5, EmbeddingOptimizerConfig(learning_rate=0.01))
        assert losses[-1] < losses[0]

    def test_tasks_have_logits_of_their_own(self) -> None:
        """Two labels get two different columns."""
        model = self.build("two_tasks")
        logits = model(random_batch(model.schema))
        assert not torch.allclose(logits[:, 0], logits[:, 1])

    def test_rows_do_not_see_each_other(self) -> None:
        """A batch of one row, its bags maybe empty, gives that row's logits."""
        model = self.build()
        batch = random_batch(model.schema, batch_size=6, seed=2)
        assert (batch.lengths == 0).any()
        whole = model(batch)
        for row in range(6):
            self.close(model(select_rows(batch, [row])), whole[row : row + 1])

    def test_a_training_batch_of_one_row(self) -> None:
        """The last batch of an epoch may have one row."""
        model = self.build().train()
        batch = random_batch(model.schema, batch_size=1)
        assert model.loss(model(batch), batch).isfinite().all()

    def test_permuted_rows_permute_logits(self) -> None:
        """Row order carries no meaning."""
        model = self.build()
        batch, order = random_batch(model.schema, batch_size=5), [3, 1, 4, 0, 2]
        self.close(model(select_rows(batch, order)), model(batch)[order])

    def test_empty_bags_only(self) -> None:
        """A batch where no bag has an index is an ordinary batch."""
        model = self.build("bags")
        batch = random_batch(model.schema, batch_size=3)
        empty = _without_indices(batch)
        logits = model(empty)
        assert logits.isfinite().all()
        self.close(logits[1:], logits[:-1])

    def test_index_out_of_range_is_refused(self) -> None:
        """An index that the table does not have is an error that names feature and table."""
        model = self.build("categorical")
        batch = random_batch(model.schema, batch_size=3)
        batch.values[0] = 12
        with pytest.raises(SchemaError, match=r"`user`: index 12 is outside table `user`"):
            model(batch)

    # ------------------------------------------------------------------------------- loss

    def test_a_weight_counts_like_repetition(self) -> None:
        """A row of weight 3 is three rows; a row of weight 0 is none."""
        model = self.build()
        batch = random_batch(model.schema, batch_size=4)
        weights = torch.tensor([1.0, 3.0, 0.0, 2.0])
        repeated = select_rows(batch, [0, 1, 1, 1, 3, 3])
        weighted = weighted_mean(model.loss(model(batch), batch), weights)
        self.close(weighted, model.loss(model(repeated), repeated).mean())

    def test_step_reaches_every_parameter(self) -> None:
        """One step moves every tensor; the PAD rows of tables stay zero."""
        model = self.build().train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        batch = random_batch(model.schema, batch_size=64, seed=4)
        sgd = torch.optim.SGD(dense_parameters(model), lr=1.0)
        train_steps(model, [batch], EmbeddingOptimizerConfig(kind="sgd", learning_rate=1.0), sgd)
        after = model.state_dict()
        still = [name for name in before if torch.equal(before[name], after[name])]
        assert sorted(still) == sorted(self.unreached)
        for name in filter(is_table, after):
            assert not after[name][PAD_INDEX].any(), name

    def test_overfits_32_rows(self) -> None:
        """Any model can learn 32 rows by heart."""
        model = self.model(self.config, tiny_schema())
        model.reset_parameters(seed=1)
        batch = random_batch(model.schema, batch_size=32, seed=5)
        tables = EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.3)
        dense = torch.optim.Adam(dense_parameters(model), lr=0.03)
        losses = train_steps(model, [batch] * 300, tables, dense)
        assert losses[0] > 0.6 and min(losses) < 0.03

    def test_golden_loss(self, request: pytest.FixtureRequest) -> None:
        """The loss after 20 steps is what it was when the golden file was written."""
        if self.golden is None:
            return
        model = self.model(self.config, tiny_schema())
        model.reset_parameters(seed=1)
        batch = random_batch(model.schema, batch_size=128, seed=6)
        tables = EmbeddingOptimizerConfig(learning_rate=0.05)
        loss = train_steps(model, [batch] * 21, tables)[-1]
        if request.config.getoption("--update-golden", default=False):
            made = {"hardware": "cpu", "torch": str(torch.__version__)}
            content = {"seed": 1, "steps": 20, "loss": loss, "tolerance": 2e-5, "made_with": made}
            self.golden.write_text(json.dumps(content, indent=2) + "\n")
        golden = json.loads(self.golden.read_text())
        assert loss == pytest.approx(golden["loss"], abs=golden["tolerance"])

    # ------------------------------------------------------------------------------- forms

    def test_builds_on_meta(self) -> None:
        """A model built without memory and filled later equals one built at once."""
        with torch.device("meta"):
            model = self.model(self.config, tiny_schema())
        assert all(parameter.is_meta for parameter in model.parameters())
        model = model.to_empty(device="cpu")
        model.reset_parameters(seed=3)
        expected = self.model(self.config, tiny_schema())
        expected.reset_parameters(seed=3)
        batch = random_batch(expected.schema)
        self.close(model.eval()(batch), expected.eval()(batch))

    def test_start_values_depend_on_the_seed_alone(self) -> None:
        """The global random state does not matter."""
        states = []
        for global_seed, seed in ((0, 7), (1, 7), (1, 8)):
            torch.manual_seed(global_seed)
            model = self.model(self.config, tiny_schema())
            model.reset_parameters(seed)
            states.append(torch.cat([t.flatten() for t in model.state_dict().values()]))
        assert torch.equal(states[0], states[1]) and not torch.equal(states[1], states[2])

    def test_state_dict_survives_a_file(self, tmp_path: Path) -> None:
        """Weights saved as safetensors give equal logits in another instance."""
        model = self.build()
        state = {name: t.contiguous().clone() for name, t in model.state_dict().items()}
        save_file(state, tmp_path / "model.safetensors")
        other = self.model(self.config, tiny_schema()).eval()
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        batch = random_batch(model.schema)
        assert torch.equal(other(batch), model(batch))

    def test_bf16_autocast_is_close(self) -> None:
        """Half precision keeps logits within its rounding, and every gradient finite."""
        model = self.build().train(mode=False)
        batch = random_batch(model.schema, batch_size=32)
        exact = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch)
            model.loss(logits, batch).mean().backward()
        assert (logits.float() - exact).abs().max() <= 0.05 * (1 + exact.abs().max())
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    def test_eval_is_deterministic(self) -> None:
        """Two passes give the same bits."""
        model = self.build()
        batch = random_batch(model.schema)
        assert torch.equal(model(batch), model(batch))

    def test_pickles_by_module_path(self) -> None:
        """The class is found by its path, and an instance survives a pickle."""
        found = getattr(importlib.import_module(self.model.__module__), self.model.__qualname__)
        assert found is self.model
        model = self.build()
        batch = random_batch(model.schema)
        assert torch.equal(pickle.loads(pickle.dumps(model))(batch), model(batch))

    @pytest.mark.parametrize("kind", ["mixed", "weighted", "dense"])
    def test_exported_program_agrees(self, kind: SchemaKind) -> None:
        """``torch.export`` with a dynamic batch size gives eager's logits at another size."""
        model = FlatInputs(self.build(kind))
        schema = model.model.schema
        program = model.export(random_batch(schema, batch_size=8, seed=1))
        for size in (1, 13):
            batch = model.flatten(random_batch(schema, batch_size=size, seed=2))
            self.close(program.module()(*batch), model(*batch))

    def test_fx_traced_form_agrees(self) -> None:
        """A symbolic trace gives eager's logits."""
        model = FlatInputs(self.build())
        traced = torch.fx.symbolic_trace(model, concrete_args={"value_weights": None})
        batch = model.flatten(random_batch(model.model.schema, batch_size=7))
        self.close(traced(*batch), model(*batch))

    @pytest.mark.distributed
    def test_torchrec_equals_local(self) -> None:
        """Five steps on one torchrec rank give the local backend's weights and losses."""
        if not self.backends:
            return
        command = [sys.executable, "-m", "recsys.testing.torchrec_parity"]
        command += [f"{self.model.__module__}.{self.model.__qualname__}"]
        command += [self.config.model_dump_json()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]


def _without_indices(batch: Batch) -> Batch:
    """The same rows with all bags empty."""
    return Batch(
        dense=batch.dense,
        values=batch.values[:0],
        lengths=torch.zeros_like(batch.lengths),
        labels=batch.labels,
        keys=batch.keys,
        value_counts=(0,) * len(batch.keys),
    )
