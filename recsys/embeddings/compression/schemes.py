"""The typed union of all schemes: what a configuration may name.

Stability: caller
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.mixed_dimension import MixedDimension
from recsys.embeddings.compression.tt_rec import TTRec
from recsys.embeddings.scheme import Full

AnyScheme = Annotated[
    Full | Hash | MixedDimension | TTRec,
    Field(discriminator="kind"),
]
"""A scheme as configuration: ``{kind: hash, num_buckets: 1000}``."""
