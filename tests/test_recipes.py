"""Every shipped recipe is one, and what the READMEs say one may change in it can be changed."""

from pathlib import Path

import pytest

from instar.experiment import load

ROOT = Path(__file__).parent.parent
SPACES = {"tune.yaml", "models.yaml"}  # what a search varies, beside a recipe
RECIPES = sorted(file for file in (ROOT / "recipes").glob("*/*.yaml") if file.name not in SPACES)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_shipped_recipe_is_read_and_has_a_page(file):
    assert load(file, ["data.root=somewhere"]).data.root == Path("somewhere").absolute()
    page = (file.parent / "README.md").read_text()
    assert file.name in page or file.name in ("recipe.yaml", "leeds.yaml")


@pytest.mark.parametrize("strategy", ["image", "other", "alternate", "image_teaches", "other_teaches"])
@pytest.mark.parametrize("name", ["dino", "merra-dino"])
def test_each_strategy_of_the_log_is_one_word(name, strategy):
    words = ["data.root=somewhere", f"task.strategy={strategy}"]
    assert load(ROOT / "recipes" / "sky-pairs" / f"{name}.yaml", words).task.strategy == strategy
