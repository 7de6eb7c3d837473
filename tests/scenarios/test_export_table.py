"""Six architectures through every format, each answer held to PyTorch's. Minutes each: converters are slow and large.

The weights are random, but batch norm has seen images: in a fresh ResNet the last one of each block multiplies by 0,
so that a file which lost all blocks would answer alike.
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


def warmed(network):
    """The network with batch norms that do something, and running statistics of what it sees."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, _BatchNorm) and part.affine:
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 224, 224))
    return network.eval()


def told_apart(network, image_BCHW):
    """The network with a last layer that tells these images apart: random features hardly do."""
    (last,) = [part for part in network.modules() if isinstance(part, nn.Linear) and part.out_features == len(CLASSES)]
    with torch.no_grad():
        logits_BK = network(image_BCHW)
        scale = 2 / logits_BK.std(0).mean()
        last.weight *= scale
        if last.bias is not None:
            last.bias.copy_((last.bias - logits_BK.mean(0)) * scale)
    return network


def network_of(name):
    import timm
    import torchvision

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
    network = told_apart(warmed(network_of(request.param)), pixels(image_BHWC, MEAN, STD))
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
        share = file.stat().st_size / plain.stat().st_size
        print(f"{kind} {stored}: spread {card['spread']:.2f}, agree {card['agreement']:.2f}, max |dp| {card['dp_max']:.1e}, "
              f"moved {card['moved'] / card['spread']:.4f} of the spread, size {share:.2f}")  # fmt: skip
        if stored != "int8":
            assert proof.failures(card, proof.GATES[stored]) == []
            continue
        assert share < 0.35
