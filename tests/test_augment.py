"""The draws are torchvision's in distribution, and a function of their generator alone."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import ks_2samp

from instar.augment import PRESETS, Augment
from instar.readers import _views

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchvision import transforms

DRAWS = 1500


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def alike(ours, theirs) -> bool:
    """Whether two samples may come from one distribution, at one in ten thousand, for each column."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    return all(ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-4 for i in range(ours.shape[1]))


@pytest.mark.parametrize("width, height", [(500, 375), (40, 300)])
def test_random_areas_are_torchvisions_random_resized_crops(width, height):
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    draw, image = generator(), torch.empty(3, height, width)
    ours = [_views.random_area(width, height, scale=scale, ratio=ratio, draw=draw) for _ in range(DRAWS)]
    torch.manual_seed(0)
    theirs = [transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(DRAWS)]
    assert alike(ours, [(left, top, left + w, top + h) for top, left, h, w in theirs])
    assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in ours)


def test_a_random_area_that_never_fits_is_the_largest_centre_of_allowed_aspect():
    box = _views.random_area(10, 1000, scale=(1.0, 1.0), ratio=(0.5, 2.0), draw=generator())
    assert box == (0, 490, 10, 510)


def test_random_corners_are_torchvisions_random_perspective():
    draw = generator()
    ours = [_views.random_corners(224, 200, distortion=0.4, draw=draw) for _ in range(DRAWS)]
    torch.manual_seed(0)
    theirs = [transforms.RandomPerspective.get_params(224, 200, 0.4)[1] for _ in range(DRAWS)]
    assert alike(np.reshape(ours, (DRAWS, 8)), np.reshape(theirs, (DRAWS, 8)))


def test_colour_adjustments_come_in_every_order_with_torchvisions_factors():
    settings, draw = Augment(brightness=0.4, contrast=0.3, saturation=1.5, hue=0.1), generator()
    drawn = [_views.random_colour(settings, draw) for _ in range(DRAWS)]
    assert len({tuple(name for name, _ in colour) for colour in drawn}) == 24
    torch.manual_seed(0)
    jitter = transforms.ColorJitter(0.4, 0.3, 1.5, 0.1)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs = [transforms.ColorJitter.get_params(*ranges)[1:] for _ in range(DRAWS)]
    names = ("brightness", "contrast", "saturation", "hue")
    assert alike([[dict(colour)[name] for name in names] for colour in drawn], theirs)


def test_mirrors_perspectives_and_angles_come_as_often_as_the_preset_says():
    settings, draw = Augment(kind="butterflies"), generator()
    views = [_views.training(settings, 300, 200, draw) for _ in range(DRAWS)]
    share = {
        "hflip": np.mean([view.hflip for view in views]),
        "vflip": np.mean([view.vflip for view in views]),
        "perspective": np.mean([view.corners is not None for view in views]),
    }
    assert share == pytest.approx({"hflip": 0.3, "vflip": 0.3, "perspective": 0.4}, abs=0.05)
    assert ks_2samp([view.angle for view in views], np.linspace(-50, 50, DRAWS)).pvalue > 1e-4
    assert not any(view.colour or view.smooth or view.shift != (0, 0) for view in views)


@pytest.mark.parametrize("kind", PRESETS)
def test_the_same_generator_gives_the_same_view(kind):
    settings = Augment(kind=kind)
    views = [_views.training(settings, 90, 70, generator(seed)) for seed in (1, 1, 2)]
    assert views[0] == views[1]
    assert (views[0] == views[2]) == (kind in ("none", "food_v1"))


def test_one_after_the_other_of_two_views_differs_in_a_moved_crop():
    draw, settings = generator(), Augment(kind="cifar")
    offsets = {_views.training(settings, 32, 32, draw).offset for _ in range(2000)}
    assert offsets == {(x, y) for x in range(-4, 5) for y in range(-4, 5)}


def test_training_without_variation_sees_what_evaluation_sees():
    settings = Augment(kind="none")
    assert _views.training(settings, 640, 480, generator()) == _views.evaluation(settings, 640, 480)


@pytest.mark.parametrize("width, height", [(500, 375), (333, 500), (256, 256), (100, 80), (9, 400), (1, 1)])
@pytest.mark.parametrize("resize, size", [(256, 224), (224, 224), (40, 33)])
def test_the_centre_lies_in_the_image_whatever_its_size(width, height, resize, size):
    left, top, right, bottom = _views.centre(width, height, resize=resize, size=size)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize("kind", PRESETS)
def test_what_is_saved_reads_back_the_same(kind):
    settings = Augment(kind=kind, rotation=None, fill=(1, 2, 3))
    assert Augment.model_validate_json(settings.model_dump_json(), strict=True) == settings


def test_a_key_overrides_its_preset_and_null_keeps_it():
    changed = Augment(kind="butterflies", hflip=0.0, rotation=None)
    assert (changed.hflip, changed.vflip, changed.rotation) == (0.0, 0.3, 50.0)


@pytest.mark.parametrize(
    "given, resize",
    [
        ({}, 256),
        ({"size": 112}, 128),
        ({"kind": "butterflies"}, 224),
        ({"kind": "butterflies", "size": 112}, 112),
        ({"kind": "cifar", "size": 64}, 64),
        ({"size": 112, "resize": 200}, 200),
    ],
)
def test_evaluation_resizes_in_proportion_to_the_size(given, resize):
    assert Augment.model_validate(given).resize == resize


@pytest.mark.parametrize(
    "given, says",
    [
        ({"size": 224, "resize": 200}, "must fit in it"),
        ({"scale": [1.0, 0.5]}, "the smaller number comes first"),
        ({"kind": "none", "hflip": 0.5}, "kind is none, but hflip"),
        ({"kind": "nothing"}, "Input should be 'standard'"),
        ({"hflip": 1.5}, "less than or equal to 1"),
        ({"mirror": 1}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_settings_are_refused(given, says):
    with pytest.raises(ValidationError, match=says):
        Augment.model_validate(given)


def test_reading_the_settings_loads_nothing_heavy():
    code = "import sys, instar.augment; print({'numpy', 'torch', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
