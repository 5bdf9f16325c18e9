"""Blocks of experiment files that name data sets of bundles, of aspects and of concepts.

Stability: experimental
"""

from __future__ import annotations

from recsys.config import AnyDatasetBlock
from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.concept_dataset import ConceptDataset


class BundleDatasetBlock(AnyDatasetBlock[BundleDataset]):
    """Which data set of bundles, with its options."""


class AspectDatasetBlock(AnyDatasetBlock[AspectDataset]):
    """Which data set of aspects, with its options."""


class ConceptDatasetBlock(AnyDatasetBlock[ConceptDataset]):
    """Which data set of queries and items with concepts, with its options."""
