"""The control experiment with EXIF shuffled among photos."""

from exiflang.models.model import ExifLang
from exiflang.pipeline.parameters import project_path
from exiflang.training.__main__ import read_parameters
from exiflang.training.recipe import Recipe
from experiments.ablation_data import data_set

#: The shuffled control: the packaged recipe with a quarter of the steps, and another photo's sentence for each photo.
CONTROL = {"exif": "shuffled", "steps": 1350, "validate_every": 1_000_000, "tracker": "none"}
CONTROL_DIR = "data/models/shuffled"


def shuffled_control() -> ExifLang:
    """The packaged recipe with shuffled sentences, trained unless it exists (15 minutes).

    It uses the data set of the preset "base", which is created if necessary.
    """
    data_set("real")
    parameters = read_parameters(project_path("notebooks/params/base.yaml")) | CONTROL | {"model_dir": CONTROL_DIR}
    recipe = Recipe.of(**parameters)
    recipe.run(recipe.dataset())
    return ExifLang.from_pretrained(str(recipe.folder))
