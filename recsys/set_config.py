"""Blocks of experiment files that name data sets of bundles, of aspects and of concepts.

Stability: experimental
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from recsys.config import ClassBlock, resolve_class
from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.concept_dataset import ConceptDataset


class BundleDatasetBlock(ClassBlock):
    """Which data set of bundles, with its options."""

    base: ClassVar[type] = BundleDataset

    def build(self) -> BundleDataset:
        """The data set; nothing is read or fetched yet."""
        return cast(Any, resolve_class(self.class_path, BundleDataset))(self.config)


class AspectDatasetBlock(ClassBlock):
    """Which data set of aspects, with its options."""

    base: ClassVar[type] = AspectDataset

    def build(self) -> AspectDataset:
        """The data set; nothing is read or fetched yet."""
        return cast(Any, resolve_class(self.class_path, AspectDataset))(self.config)


class ConceptDatasetBlock(ClassBlock):
    """Which data set of queries and items with concepts, with its options."""

    base: ClassVar[type] = ConceptDataset

    def build(self) -> ConceptDataset:
        """The data set; nothing is read or fetched yet."""
        return cast(Any, resolve_class(self.class_path, ConceptDataset))(self.config)
