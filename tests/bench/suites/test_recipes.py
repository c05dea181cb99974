"""The suites with a paper's settings against the public code, row by row: `docs/recipes.md`.

Every row says what the code has and where; a suite that differs must say so in its row.
`python -m tests.bench.suites.test_recipes` writes the page anew.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.suites.loading import compose, load_scenarios, load_suite
from bench.suites.schema import Recipe
from bench.training.loop import LEAST

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"
CODE = "https://github.com/TencentARC/OpenCompatible/blob/6eb549984044d08b2471ebf60619bc2daf72e685"
SUITES = ("gldv2", "revisited")
RELATIVES = ("cub", "sop", "market1501")


@dataclass(frozen=True)
class Row:
    """One setting: its recipe key, what the code has, where, and what differs and why."""

    what: str
    published: Any
    source: str
    key: str | None = None
    ours: str = ""
    difference: str = ""


BUILD, LOADERS, LISTS = "model/build.py", "data_loader/data_loaders.py", "data_loader/GLDv2.py"
SPLITS, COMMAND = "utils/process_gldv2_dataset.py", "docs/train_test.md"
ROWS = (
    Row("backbone", "resnet50.tv_in1k", COMMAND, "backbone"),
    Row("starts from ImageNet weights, resnet50-0676ba61", True, COMMAND, "pretrained"),
    Row("pooling", "gem", "model/model.py", "pooling"),
    Row("p of GeM", 3.0, "model/model.py", "gem_power"),
    Row("p of GeM is trained", False, "model/model.py", "gem_learns"),
    Row("dimensions, by a linear layer with bias", 512, "config.json", "width"),
    Row("classifier without bias and temperature", "inner-product", "trainer/trainer.py", "head"),
    Row("optimiser: SGD, not Nesterov's", "momentum", "train_bct.py", "optimizer"),
    Row("learning rate", 0.1, "config.json", "learning_rate"),
    Row("momentum", 0.9, "config.json", "momentum"),
    Row("weight decay", 1e-4, "config.json", "weight_decay"),
    Row("what decays", "everything", "train_bct.py", "decays"),
    Row("epochs", 30, "config.json", "epochs"),
    Row("warm-up, epochs", 1.0, BUILD, "warmup_epochs"),
    Row("warm-up begins at this share of the rate", 1e-3, BUILD, "warmup_from"),
    Row("cosine spans", "whole", BUILD, "cosine_over"),
    Row("cosine ends at this share of the rate", LEAST, BUILD, ours=str(LEAST)),
    Row(
        "images of a batch (128 in config.json, which the command line overrides)",
        192,
        COMMAND,
        "batch_size",
        difference="on each device there, and how many devices is not said; in all here",
    ),
    Row(
        "last short batch of an epoch",
        "trained on",
        LISTS,
        ours="left out",
        difference="a batch here is always whole; at most 191 images of an epoch are not seen",
    ),
    Row("training crops come from", "original", LOADERS, "crop_from"),
    Row("pixels of a crop", 224, "config.json", "image_size"),
    Row("area of a crop, torchvision's default", (0.08, 1.0), LOADERS, "crop_area"),
    Row("aspect ratio of a crop at most, torchvision's default", 4 / 3, LOADERS, "crop_ratio"),
    Row("flips", 0.5, LOADERS, "flip"),
    Row(
        "photographs are turned by their EXIF orientation",
        False,
        LISTS,
        ours="True",
        difference="a camera's pixels as they lie there; upright here, as in every dataset",
    ),
    Row(
        "queries and gallery are stretched to 224 × 224",
        True,
        LOADERS,
        ours="True",
        difference="a JPEG is first decoded at a scale of libjpeg's, at least 448 pixels wide",
    ),
    Row("a share of classes, or of a class's images, is cut", "down", SPLITS, "share_rounding"),
    Row(
        "what chooses the classes and images of a share",
        "seed 666",
        SPLITS,
        ours="the run's seed",
        difference="three seeds are compared, each with a share of its own",
    ),
    Row(
        "rows of the old classifier",
        "81,313, trained or not",
        "utils/util.py",
        ours="those of its classes",
        difference="a method is told which classes the old model knows, and says what it does "
        "with the others",
    ),
    Row(
        "mixed precision",
        "float16, loss scaled",
        "train_bct.py",
        ours="bfloat16, backbone only",
        difference="where the device has it; it needs no scaling, and pooling, classifier and "
        "loss stay in float32",
    ),
    Row(
        "queries of the revisited sets are cut by their box",
        False,
        LISTS,
        ours="True",
        difference="as the sets' own authors evaluate them",
    ),
)


def found(row: Row, recipe: Recipe) -> Any:
    return getattr(recipe, row.key) if row.key else row.ours


def agrees(row: Row, recipe: Recipe) -> bool:
    """What has a key is equal; a difference is declared for what no setting can change."""
    ours = found(row, recipe)
    if row.key is None:
        return bool(ours == str(row.published)) or bool(row.difference)
    if isinstance(row.published, float):
        return bool(ours == pytest.approx(row.published))
    return bool(ours == row.published)


def undeclared(recipe: Recipe) -> list[str]:
    return [row.key or row.what for row in ROWS if not agrees(row, recipe)]


def page(recipe: Recipe) -> str:
    def shown(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [
        "# Settings that follow a paper's public code",
        "",
        "The suites `gldv2` and `revisited` are after Zhang et al., “Hot-Refresh Model Upgrades",
        "with Regression-Free Compatible Training in Image Retrieval”, ICLR 2022: after",
        f"[their code]({CODE}),",
        "read file by file; the paper's text need not agree with it. `cub`, `sop` and `market1501`",
        "have the same settings, which nobody published for those data. A test makes this table",
        "of the suites and fails where a row differs and does not say so.",
        "",
        "| setting | key | public code | in the file | here | difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        cells = [row.what, f"`{row.key}`" if row.key else "–", shown(row.published)]
        cells += [f"`{row.source}`", shown(found(row, recipe)), row.difference or "–"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "No row has `temperature`, which this classifier does not read (backfill orders do), nor",
        "`backbone_options`, `weights` and `embeddings`, which are not used.",
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(params=SUITES)
def recipe(request):
    return compose(load_suite(request.param)).recipe


def test_a_suite_differs_from_the_public_code_only_where_its_page_says_so(recipe):
    assert undeclared(recipe) == []


@pytest.mark.parametrize("key", sorted(row.key for row in ROWS if row.key))
def test_no_change_of_a_setting_goes_unnoticed(key):
    recipe = compose(load_suite("gldv2")).recipe
    value = getattr(recipe, key)
    other = (not value) if isinstance(value, bool) else 2 * value  # also of texts and pairs
    assert undeclared(recipe.model_copy(update={key: other})) == [key]


def test_every_setting_of_a_recipe_has_a_row():
    without = {"backbone_options", "weights", "embeddings", "project", "temperature", "precision"}
    assert {row.key for row in ROWS if row.key} | without == set(Recipe.model_fields)


def test_the_page_is_the_rows():
    assert PAGE.read_text() == page(compose(load_suite("gldv2")).recipe)


@pytest.mark.parametrize("name", [*SUITES, *RELATIVES])
def test_relatives_have_the_same_recipe_and_say_how_far_it_is_published(name):
    suite = compose(load_suite(name))
    assert suite.recipe == compose(load_suite("gldv2")).recipe
    assert " after the " in suite.summary or "published for landmarks" in suite.summary


def test_the_scenarios_are_those_of_the_code():
    """30 % of the classes or of each class's images, then everything; ResNet-50 to 101."""
    scenarios = load_scenarios()
    assert scenarios["extended-class"].old.classes == scenarios["extended-data"].old.images == 0.3
    assert scenarios["larger-resnet"].new.recipe == {"backbone": "resnet101.tv_in1k"}


if __name__ == "__main__":
    PAGE.write_text(page(compose(load_suite("gldv2")).recipe))
