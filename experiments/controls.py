"""The control whose EXIF is shuffled among its photos."""

from exiflang.models.model import ExifLang
from exiflang.pipeline.parameters import project_path
from exiflang.training.__main__ import read_parameters
from exiflang.training.recipe import Recipe
from experiments.ablation_data import data_set

#: The shuffled control is the packaged recipe, but each photo has another's sentence, and a quarter of the steps.
CONTROL = {"exif": "shuffled", "steps": 1350, "validate_every": 1_000_000, "tracker": "none"}
CONTROL_DIR = "data/models/shuffled"


def shuffled_control() -> ExifLang:
    """The packaged recipe on sentences of other photos, trained unless it is there (a quarter of an hour).

    It trains on the preset "base"'s data set, which is made as well.
    """
    data_set("real")
    parameters = read_parameters(project_path("notebooks/params/base.yaml")) | CONTROL | {"model_dir": CONTROL_DIR}
    recipe = Recipe.of(**parameters)
    recipe.run(recipe.dataset())
    return ExifLang.from_pretrained(str(recipe.folder))
