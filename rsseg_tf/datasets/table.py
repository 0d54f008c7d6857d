"""The table of known datasets: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rsseg_tf.datasets.dubai import DUBAI_RECIPE
from rsseg_tf.datasets.isaid import ISAID_RECIPE
from rsseg_tf.datasets.isprs import POTSDAM_RECIPE, VAIHINGEN_RECIPE
from rsseg_tf.datasets.loveda import LOVEDA_RECIPE
from rsseg_tf.datasets.recipe import Recipe
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.synthetic import SYNTHETIC_RECIPE
from rsseg_tf.datasets.unlabelled import DOTA_RECIPE, IMAGES_RECIPE, MILLION_AID_RECIPE
from rsseg_tf.errors import DataError, did_you_mean

__all__ = ["RECIPES", "SPECS", "UNLABELLED", "dataset_recipe", "dataset_spec"]

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            DUBAI_RECIPE,
            ISAID_RECIPE,
            LOVEDA_RECIPE,
            POTSDAM_RECIPE,
            SYNTHETIC_RECIPE,
            VAIHINGEN_RECIPE,
            MILLION_AID_RECIPE,
            DOTA_RECIPE,
            IMAGES_RECIPE,
        )
    }
)
"""Recipes by dataset name. The command `prepare`, the configs and the data checks know the datasets from here."""

SPECS: Mapping[str, DatasetSpec] = MappingProxyType(
    {name: recipe.dataset for name, recipe in RECIPES.items() if isinstance(recipe.dataset, DatasetSpec)}
)
"""Specs of the datasets with labels. A user's own data are not here: see `custom_spec`."""

UNLABELLED = tuple(name for name in RECIPES if name not in SPECS)
"""Names of the datasets without labels."""


def dataset_recipe(name: str) -> Recipe:
    """Returns the recipe of a known dataset.

    Raises:
        DataError: When the name is unknown.
    """
    if name not in RECIPES:
        raise DataError(_unknown(name, RECIPES))
    return RECIPES[name]


def dataset_spec(name: str) -> DatasetSpec:
    """Returns the spec of a known dataset with labels.

    Raises:
        DataError: When the name is unknown.
    """
    if name not in SPECS:
        raise DataError(_unknown(name, SPECS))
    return SPECS[name]


def _unknown(name: str, table: Mapping[str, object]) -> str:
    return f"There is no dataset '{name}'; known are {', '.join(sorted(table))}.{did_you_mean(name, table)}"
