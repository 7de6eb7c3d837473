"""Pixels become what the classic transforms make of them, whatever they come as."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as classic

from instar.networks import pixels, train_mode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image_BHWC(dtype=torch.uint8):
    return torch.randint(0, 256, (3, 5, 7, 3), generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_are_those_of_torchvision_to_float_and_normalize(channels_last):
    ours = pixels(image_BHWC(), MEAN, STD, channels_last=channels_last)
    theirs = classic.normalize(classic.to_dtype(image_BHWC().permute(0, 3, 1, 2), scale=True), MEAN, STD)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.uint8, 255), (torch.int16, 32767), (torch.uint16, 65535), (torch.float32, 1.0)]
)
def test_the_largest_number_of_a_type_is_white(dtype, largest):
    white_BHWC = torch.full((1, 2, 2, 3), largest, dtype=torch.float64).to(dtype)
    white_BCHW = pixels(white_BHWC, (0.0,) * 3, (1.0,) * 3)
    assert white_BCHW.dtype == torch.float32
    assert torch.allclose(white_BCHW, torch.ones(()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_batch_is_left_as_it_was(dtype):
    batch = image_BHWC(dtype)
    pixels(batch, MEAN, STD, channels_last=True)
    assert torch.equal(batch, image_BHWC(dtype))


@pytest.mark.parametrize("channels", [1, 16])
def test_any_number_of_channels_has_its_own_mean_and_deviation(channels):
    image = torch.randint(0, 256, (2, 4, 4, channels), dtype=torch.uint8)
    mean = [0.01 * channel for channel in range(channels)]
    seen = pixels(image, torch.tensor(mean), [2.0] * channels)
    last = channels - 1
    assert torch.allclose(seen[:, last], (image[..., last] / 255 - mean[last]) / 2)


def test_only_frozen_normalisation_stays_in_evaluation_mode():
    module = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False), nn.Dropout())
    module[0].requires_grad_(False)
    train_mode(module)
    assert [part.training for part in module] == [False, True, True, True]
    train_mode(module, False)
    assert not any(part.training for part in module)


def test_the_contracts_load_without_torch():
    code = "import sys, instar.networks; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
