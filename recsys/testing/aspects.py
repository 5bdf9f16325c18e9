"""What every model of aspects has to do, as one suite to inherit.

Example::

    class TestAspectEmbedding(AspectModelConformance):
        model = AspectEmbedding
        config = AspectEmbedding.Config(embedding_dim=8)

Stability: testing
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from recsys.aspect_config import AspectEvaluationConfig, AspectExperiment, AspectTrainConfig
from recsys.aspect_model import AspectModel
from recsys.config import class_path
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.errors import DataError
from recsys.evaluate.aspects import AspectOptions, evaluate_aspects
from recsys.fit_config import DenseEmbeddingConfig
from recsys.graph.aspect_batches import AspectLoader
from recsys.graph.aspects import AspectRule, AspectTable, aspect_table
from recsys.serving.aspect_folder import load_aspects, save_aspects
from recsys.train.aspect_task import AspectTask
from recsys.train.ranks import Ranks
from recsys.train.run import RunOptions, run
from recsys.train.step import TrainStep

_DATASET = {
    "class": "recsys.datasets.planted_aspects.PlantedAspects",
    "num_items": 60, "num_aspects": 2, "num_labels": 3, "noise_words": 2, "words_of_label": 3,
}  # fmt: skip
NUM_ITEMS = 48


def tiny_aspects() -> AspectTable:
    """A colour and a kind of every item, each with words in its text and an entry of a vector.

    The last item has neither text nor label.
    """
    random = np.random.default_rng(4)
    texts, rows = {}, []
    for number in range(NUM_ITEMS - 1):
        colour, kind = number % 3, number // 3 % 3
        words = [f"c{colour}{random.integers(2)}" for _ in range(3)]
        words += [f"k{kind}{random.integers(2)}", f"n{random.integers(9)}"]
        texts[f"i{number:02}"] = " ".join(words)
        rows += [(f"i{number:02}", "colour", str(colour)), (f"i{number:02}", "kind", str(kind))]
    texts[f"i{NUM_ITEMS - 1}"] = ""
    items, aspects, labels = zip(*rows)
    table = aspect_table(texts, items, aspects, labels, AspectRule(valid=0.2, test=0.3, seed=1))
    brought = random.normal(size=(NUM_ITEMS, 7)).astype(np.float32)
    for number in range(NUM_ITEMS - 1):
        brought[number, number % 3] += 2
        brought[number, 3 + number // 3 % 3] += 2
    brought[-1] = 0
    return dataclasses.replace(table, vectors={"made": brought})


class AspectModelConformance:
    """Inherit, name the model and a small config, and run pytest."""

    model: ClassVar[type[AspectModel]]
    """The class under test."""
    config: ClassVar[AspectModel.Config]
    """A small config of it."""
    learning_rate: ClassVar[float] = 0.02
    """Of training."""

    def build(self, seed: int = 1, table: AspectTable | None = None) -> AspectModel:
        """With start values of a seed; in eval mode."""
        model = cast(Any, self.model)(self.config, table or tiny_aspects())
        model.reset_parameters(seed)
        return model.eval()

    def train_some(self, model: AspectModel, epochs: int) -> list[float]:
        """The mean loss of every epoch."""
        torch.manual_seed(3)
        tables = None
        if model.embeddings.groups:
            options = DenseEmbeddingConfig(learning_rate=self.learning_rate)
            tables = model.embeddings.attach_optimizer(options)
        config = AspectTrainConfig(learning_rate=self.learning_rate)
        task = AspectTask(model, config, AspectEvaluationConfig(), tables)
        step, losses = TrainStep(task, tables, Ranks.current()), []
        loader = AspectLoader(model.table, 16, 5)
        model.train()
        for _ in range(epochs):
            losses.append(float(np.mean([float(step(batch, 1.0)) for batch in loader])))
        model.eval()
        return losses

    def test_config_survives_json_and_yaml(self) -> None:
        """A saved config loads back equal."""
        kind = type(self.config)
        assert kind.model_validate_json(self.config.model_dump_json()) == self.config
        text = yaml.safe_dump(self.config.model_dump(mode="json"))
        assert kind.model_validate(yaml.safe_load(text)) == self.config

    def test_config_is_frozen_and_a_typo_is_named(self) -> None:
        """A misspelt setting never passes silently."""
        with pytest.raises(ValidationError, match="unknown_thing"):
            self.model.Config.model_validate({**self.config.model_dump(), "unknown_thing": 3})

    def test_vectors_of_all_items_in_every_aspect(self) -> None:
        """Finite, of length 1 where anything is known, the same at every pass."""
        model = self.build()
        for aspect in model.aspects:
            found = model.vectors(aspect)
            assert len(found) == NUM_ITEMS and found.isfinite().all() and not found.requires_grad
            torch.testing.assert_close(found[:-1].norm(dim=1), torch.ones(NUM_ITEMS - 1))
            few = np.array([3, 40, 9])
            torch.testing.assert_close(self.build().vectors(aspect, few), found[few])
            assert torch.equal(model.vectors(aspect, few), found[few])
            assert torch.equal(self.build().vectors(aspect), found)
        with pytest.raises(DataError, match="expected one of the aspects"):
            model.vectors("smell")

    def test_one_seed_one_model(self) -> None:
        """The global random state does not matter."""
        found: list[Tensor] = []
        for global_seed in (0, 1):
            torch.manual_seed(global_seed)
            found.append(self.build(7).vectors("kind"))
        assert torch.equal(found[0], found[1])

    def test_new_items_are_like_known_ones(self) -> None:
        """The text and the vectors of a known item give its vector, where it has no id."""
        model = self.build()
        table, few = model.table, np.arange(5)
        brought = {name: rows[few] for name, rows in table.vectors.items()}
        found = model.vectors_of("kind", [table.texts[item] for item in few], brought)
        if self.config.use_ids:
            assert found.shape == model.vectors("kind")[:5].shape
        else:
            torch.testing.assert_close(found, model.vectors("kind")[:5])
        with pytest.raises(DataError, match=r"expected vectors of 2 items with the widths"):
            model.features_of(["a", "b"], {"other": np.zeros((2, 3))})

    def test_training_lowers_the_loss(self) -> None:
        """And labels of items that were held out are not used."""
        table = tiny_aspects()
        keep = np.isin(table.item, table.members("train"))
        other = dataclasses.replace(table, item=table.item[keep], label=table.label[keep])
        models = [self.build(table=each) for each in (table, other)]
        losses = [self.train_some(model, 12) for model in models]
        assert losses[0] == losses[1]
        assert np.isfinite(losses[0]).all() and np.mean(losses[0][-3:]) < losses[0][0]
        assert torch.equal(models[0].vectors("kind"), models[1].vectors("kind"))
        found = evaluate_aspects(models[0], "train", AspectOptions(ks=(5,), generic=False))
        assert 0 < found.metrics["map@5"] <= 1

    def test_a_folder_gives_equal_vectors(self, tmp_path: Path) -> None:
        """Bit for bit, with its items, and without the data set."""
        model = self.build()
        save_aspects(tmp_path / "model", model)
        loaded = load_aspects(tmp_path / "model", self.model)
        assert loaded.config == self.config and loaded.aspects == model.aspects
        assert loaded.table.texts == model.table.texts
        for aspect in model.aspects:
            assert torch.equal(loaded.vectors(aspect), model.vectors(aspect))

    @pytest.mark.parametrize("scheme", ["hash", "unified"])
    def test_compressed_tables(self, scheme: str) -> None:
        """Half of the bytes, trained; a state dict brings the vectors back."""
        full = self.build()
        if not full.embeddings.groups:
            pytest.skip("has no tables")
        compression = CompressionConfig.model_validate(
            {"scheme": {"kind": scheme}, "ratio": 0.5, "exact_rows": 0}
        )
        config = self.config.model_copy(update={"compression": compression})
        models = [cast(Any, self.model)(config, tiny_aspects()) for _ in range(2)]
        models[0].reset_parameters(1)
        rows = models[0].embeddings.num_rows_parameters()
        assert rows < 0.75 * full.embeddings.num_rows_parameters()
        losses = self.train_some(models[0], 6)
        assert losses[-1] < losses[0]
        models[1].load_state_dict(models[0].state_dict())
        assert torch.equal(models[1].eval().vectors("kind"), models[0].vectors("kind"))

    def experiment(self, **train: Any) -> AspectExperiment:
        """A small job with the model."""
        config = self.config.model_dump(mode="json", exclude_defaults=True)
        return AspectExperiment.parse({
            "dataset": _DATASET,
            "model": {"class": class_path(self.model), **config},
            "embedding": {"learning_rate": self.learning_rate},
            "train": {"num_epochs": 3, "num_threads": 1, "batch_size": 16,
                      "learning_rate": self.learning_rate, **train},
            "evaluation": {"bootstrap_samples": 0},
        })  # fmt: skip

    def test_a_resumed_run_equals_one_that_never_stopped(self, tmp_path: Path) -> None:
        """Through the whole job, within an epoch."""
        options = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False)
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        run(self.experiment(), whole, options)
        run(self.experiment(max_steps=7), cut, options)
        again = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False, resume=True)
        run(self.experiment(), cut, again)
        first, second = (load_aspects(folder, self.model) for folder in (whole, cut))
        for aspect in first.aspects:
            assert torch.equal(first.vectors(aspect), second.vectors(aspect))
