"""KGIN against its equations, written out with dense matrices."""

from recsys.models.graph.kgin import KGIN
from recsys.testing.cf import CFModelConformance


class TestSuite(CFModelConformance):
    model = KGIN
    config = KGIN.Config(embedding_dim=8, num_layers=2, node_dropout=0.0, message_dropout=0.0)
