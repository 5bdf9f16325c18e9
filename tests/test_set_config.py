import pytest

from recsys.config import validate
from recsys.errors import ConfigError
from recsys.set_config import AspectDatasetBlock, BundleDatasetBlock, ConceptDatasetBlock


@pytest.mark.parametrize(
    ("block", "path"),
    [
        (BundleDatasetBlock, "planted_bundles.PlantedBundles"),
        (AspectDatasetBlock, "planted_aspects.PlantedAspects"),
        (ConceptDatasetBlock, "skill2vec.Skill2vec"),
    ],
)
def test_each_block_builds_its_kind_alone(block, path):
    found = validate(block, {"class": f"recsys.datasets.{path}"}, (), "here").build()
    assert isinstance(found, block.base) and type(found).__name__ == path.split(".")[1]
    other = {"class": "recsys.datasets.planted_communities.PlantedCommunities"}
    with pytest.raises(ConfigError, match=f"not a {block.base.__name__}"):
        validate(block, other, (), "here").build()
