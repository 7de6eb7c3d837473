"""Six architectures through every format, each answer held to PyTorch's. Minutes each: converters are slow and large.

The weights are random, but not as they come: in a fresh ResNet the last batch norm of each block multiplies by 0, in a
fresh ConvNeXt each block by a millionth, so that a file which lost all blocks would answer alike. And batch norm has
seen these images: with other statistics the features of a deep network hardly differ, and what is told apart in the
end is the rounding of its weights.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from instar import contract as contracts
from instar import exported, plugins
from instar.contract import Contract
from instar.engine.exporting import proof
from instar.engine.exporting.whole import Whole
from instar.networks import Encoder, pixels

pytestmark = [pytest.mark.scenario, pytest.mark.filterwarnings("ignore")]
CLASSES = tuple("abcdefghij")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOS = Contract("classes", CLASSES, 3, "uint8", 224, 224, None, False, "area", 256, 224)


def awake(network, image_BCHW):
    """The network with every block counting, and batch norms with the statistics of these images."""
    for part in network.modules():
        if isinstance(part, _BatchNorm):
            part.momentum = None  # the mean of what is seen, and nothing of before
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    for name, weight in network.named_parameters():
        if name.endswith("gamma"):  # ConvNeXt's scale of a block
            nn.init.uniform_(weight, 0.2, 0.6)
    network.train()
    with torch.no_grad():
        network(image_BCHW)
    return network.eval()


def told_apart(network, image_BCHW):
    """The network with a last layer fitted to tell these images apart, and not one image from itself in a little noise.

    A random one would make rounding as large as what lies between images, as no trained network does.
    """
    (last,) = [part for part in network.modules() if isinstance(part, nn.Linear) and part.out_features == len(CLASSES)]
    seen = []
    hook = last.register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    with torch.no_grad():
        for _ in range(4):
            network(image_BCHW + 0.02 * torch.randn(image_BCHW.shape))
        hook.remove()
        feature_ND = torch.cat(seen).double()
        wanted_NK = 4.0 * torch.eye(len(CLASSES), dtype=torch.float64).repeat(2, 1)[: len(image_BCHW)].repeat(4, 1)
        inner_DD = feature_ND.T @ feature_ND
        ridge_DD = 1e-3 * inner_DD.diagonal().mean() * torch.eye(len(inner_DD))
        last.weight.copy_(torch.linalg.solve(inner_DD + ridge_DD, feature_ND.T @ wanted_NK).T)
        if last.bias is not None:
            last.bias.zero_()
    return network


def network_of(name):
    import timm
    import torchvision

    torch.manual_seed(0)
    if name == "maxvit_t":
        return torchvision.models.maxvit_t(num_classes=len(CLASSES))
    return timm.create_model(name, num_classes=len(CLASSES))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve images of many sizes, each of blobs of its own, as files."""
    folder = tmp_path_factory.mktemp("some photos")
    random = np.random.default_rng(1)
    for number in range(12):
        size = (int(random.integers(60, 500)), int(random.integers(60, 500)))
        blobs = random.integers(0, 256, (2 + number, 3 + number, 3), dtype=np.uint8)
        Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", params=["resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto",
                                        "vit_tiny_patch16_224", "maxvit_t"])  # fmt: skip
def learner(request, photos):
    task = plugins.load("tasks", "classification")
    plan = SimpleNamespace(classes=CLASSES, class_weights_K=None, channels_last=False, batch=4, seed=0)
    image_BHWC = torch.from_numpy(np.stack([exported.seen(path, PHOTOS) for path in photos]))
    image_BCHW = pixels(image_BHWC, MEAN, STD)
    network = told_apart(awake(network_of(request.param), image_BCHW), image_BCHW)
    return task.learner(task.Settings(), Encoder(network, 1, MEAN, STD), plan)


@pytest.mark.parametrize("kind", ["onnx", "torch_export", "litert"])
def test_every_format_answers_as_pytorch_does(learner, photos, tmp_path, kind):
    from instar.engine.exporting.convert import example_shape

    exporter = plugins.load("exporters", kind)
    contract = contracts.sized(PHOTOS, any_size=exporter.ANY_SIZE, any_batch=exporter.ANY_BATCH)
    plain = tmp_path / f"plain{exporter.SUFFIX}"
    model = Whole(learner, contract).eval()
    exporter.convert(model, torch.zeros(example_shape(contract), dtype=torch.uint8), plain, contracts.text(contract))
    with torch.inference_mode():
        seen = [torch.from_numpy(exported.seen(path, PHOTOS).copy())[None] for path in photos]
        ours = [{"probability": learner.answer(image)["probability"][0].numpy()} for image in seen]
    for stored in exporter.STORES:
        file = plain
        if stored != "float32":
            file = tmp_path / f"{stored}{exporter.SUFFIX}"
            exporter.store(plain, file, stored, (exported.seen(path, contract)[None] for path in photos))
            exporter.describe(file, contracts.text(contract))
        found = exported.load(file, threads=2, trust=True)
        theirs = [{"probability": found.predict(path).probability_K} for path in photos]
        card = proof.compared(PHOTOS, ours, theirs, [-1] * len(photos))
        assert card["spread"] > 0.2, "answers that are all alike prove nothing"
        share = file.stat().st_size / plain.stat().st_size
        print(f"{kind} {stored}: spread {card['spread']:.2f}, agree {card['agreement']:.2f}, max |dp| {card['dp_max']:.1e}, "
              f"moved {card['moved'] / card['spread']:.4f} of the spread, size {share:.2f}")  # fmt: skip
        if stored != "int8":
            assert proof.failures(card, proof.GATES[stored]) == []
            continue
        assert share < 0.35
