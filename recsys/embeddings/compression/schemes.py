"""The typed union of all schemes: what a configuration may name.

Stability: caller
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recsys.embeddings.compression.adapt_emb import AdaptEmb
from recsys.embeddings.compression.alpt import ALPT
from recsys.embeddings.compression.auto_dim import AutoDim
from recsys.embeddings.compression.auto_srh import AutoSrh
from recsys.embeddings.compression.cafe import CAFE
from recsys.embeddings.compression.cce import CCE
from recsys.embeddings.compression.chosen_rows import ChosenRows
from recsys.embeddings.compression.codes import Codes
from recsys.embeddings.compression.dedup import Dedup
from recsys.embeddings.compression.deep_light import DeepLight
from recsys.embeddings.compression.dhe import DHE
from recsys.embeddings.compression.double_hash import DoubleHash
from recsys.embeddings.compression.dpq import DPQ
from recsys.embeddings.compression.grid import Grid
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.hash_embedding import HashEmbedding
from recsys.embeddings.compression.low_precision import LowPrecision
from recsys.embeddings.compression.mgqe import MGQE
from recsys.embeddings.compression.mixed_dimension import MixedDimension
from recsys.embeddings.compression.mixed_precision import MixedPrecision
from recsys.embeddings.compression.opt_embed import OptEmbed
from recsys.embeddings.compression.pep import PEP
from recsys.embeddings.compression.product_hash import ProductHash
from recsys.embeddings.compression.pruned import Pruned
from recsys.embeddings.compression.qat import QAT
from recsys.embeddings.compression.quotient_remainder import QuotientRemainder
from recsys.embeddings.compression.robe import ROBE
from recsys.embeddings.compression.tt_rec import TTRec
from recsys.embeddings.compression.unified import UnifiedEmbedding
from recsys.embeddings.scheme import Full

AnyScheme = Annotated[
    Full
    | AdaptEmb
    | ALPT
    | AutoDim
    | AutoSrh
    | CAFE
    | CCE
    | ChosenRows
    | Codes
    | Dedup
    | DeepLight
    | DoubleHash
    | DPQ
    | Grid
    | Hash
    | HashEmbedding
    | LowPrecision
    | MGQE
    | MixedDimension
    | OptEmbed
    | PEP
    | ProductHash
    | Pruned
    | QAT
    | QuotientRemainder
    | ROBE
    | TTRec
    | UnifiedEmbedding
    | MixedPrecision
    | DHE,
    Field(discriminator="kind"),
]
"""A scheme as configuration: ``{kind: hash, num_buckets: 1000}``."""
