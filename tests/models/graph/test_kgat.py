"""KGAT against its equations, written out with dense matrices."""

from recsys.models.graph.kgat import KGAT
from recsys.testing.cf import CFModelConformance


class TestSuite(CFModelConformance):
    model = KGAT
    config = KGAT.Config(embedding_dim=8, layers=(8, 4), message_dropout=0.0)
