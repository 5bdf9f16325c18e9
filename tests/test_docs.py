"""What the documentation shows must work."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

from recsys.config import Experiment
from recsys.config_text import parse
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.schema import TableSpec

TEXT = (Path(__file__).parent.parent / "docs" / "compression.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
GROUPS = {
    "embedding": tuple(
        TableSpec(name=name, num_embeddings=rows, embedding_dim=16, feature_names=(name,),
                  pooling="sum")
        for name, rows in (("C1", 30), ("C3", 40_000), ("C4", 3000))
    )
}  # fmt: skip


@pytest.mark.parametrize("text", EXAMPLES[1:])
def test_every_example_plans_within_its_budget(text):
    config = CompressionConfig.model_validate(parse(text, "docs")["compression"])
    schemes = config.resolve(GROUPS)
    assert set(schemes) == {"embedding.C1", "embedding.C3", "embedding.C4"}
    assert any(scheme.model_dump()["kind"] == config.scheme.kind for scheme in schemes.values())


def test_the_first_example_is_an_experiment():
    data = parse(EXAMPLES[0], "docs")
    experiment = Experiment.parse(
        {"dataset": {"class": "recsys.datasets.synthetic.Synthetic"}, **data}
    )
    compression = experiment.model.config.compression
    assert compression.ratio == 0.1


def test_every_scheme_that_can_be_trained_has_an_example_and_a_line():
    members = typing.get_args(typing.get_args(AnyScheme)[0])
    kinds = {m.model_fields["kind"].default for m in members if not m.served_only} - {"full"}
    shown = {parse(text, "docs")["compression"]["scheme"]["kind"] for text in EXAMPLES[1:]}
    assert shown == kinds
    assert all(f"`{kind}`" in TEXT for kind in kinds)
