import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from instar import evaluate, explain, manifest, plugins
from instar.engine.chosen import choose
from instar.errors import ConfigError, DataError
from instar.explain import Question
from instar.machine import Machine
from instar.networks import Learner
from instar.tasks import classification
from tests.fakes.training import train

HERE = Machine(workers=0, device="cpu", devices=1)
attention = plugins.load("explainers", "attention")
gradcam = plugins.load("explainers", "gradcam")


class Two(Learner):
    """Two encoders, one a branch; or one encoder for both."""

    def __init__(self, image, other):
        self.module = torch.nn.ModuleDict({"first": image, "second": other})
        self.counts = {}

    def losses(self, batch, progress):
        return {}

    def predict(self, batch):
        return {}

    def summary(self, counts):
        return {}

    def embed(self, batch):
        seen = {branch: batch[branch].permute(0, 3, 1, 2).float() / 255 for branch in ("image", "other")}
        return {"image": self.module["first"](seen["image"]), "other": self.module["second"](seen["other"])}


def encoder_of(kind, name, *, size, classes=5, channels=3, **args):
    shelf = plugins.load("models", kind)
    settings = shelf.Settings(kind=kind, **({"name": name, "args": args} if name else {"width": 8}))
    torch.manual_seed(0)
    return shelf.build(settings, channels=channels, classes=classes, size=size)


class _Plan:
    classes = tuple("abcde")
    class_weights_K = None
    channels_last = False
    seed, batch = 0, 4


def learner_of(kind, name, *, size, **args):
    return classification.learner(classification.Settings(), encoder_of(kind, name, size=size, **args), _Plan())


def batch_of(size, rows=2, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (rows, size, size, channels), dtype=torch.uint8, generator=generator)
    return {"image": image, "label": torch.zeros(rows, dtype=torch.int64)}


def looked(learner, batch):
    return attention.explain(learner, batch, layer=None, classes=None)


# --- attention ------------------------------------------------------------------------------------------------------


def weights_by_hand(network, image_BCHW):
    """softmax(Q K^T / sqrt d) of every block of a timm ViT, from the weights alone."""
    found, x = [], network._pos_embed(network.patch_embed(image_BCHW))
    for block in network.blocks:
        part = block.attn
        x_BTD = block.norm1(x)
        B, T, D = x_BTD.shape
        q, k, _ = (
            (x_BTD @ part.qkv.weight.T + part.qkv.bias).reshape(B, T, 3, part.num_heads, -1).permute(2, 0, 3, 1, 4)
        )
        found.append((q @ k.transpose(-2, -1) / (D // part.num_heads) ** 0.5).softmax(-1))
        x = block(x)
    return found


@pytest.mark.parametrize("patch", [8, 16])
def test_attention_is_softmax_of_queries_and_keys(patch):
    learner = learner_of("timm", "vit_tiny_patch16_224", size=32, patch_size=patch, depth=3)
    learner.module.eval()
    batch = batch_of(32)
    with torch.no_grad():
        by_hand = weights_by_hand(learner.module, learner._seen(batch["image"]))
    for row, (maps,) in enumerate(looked(learner, batch)):
        heads = by_hand[-1][row, :, 0, 1:].reshape(3, 32 // patch, 32 // patch).numpy()
        assert maps.names == ("mean of heads", "rollout", "head 1", "head 2", "head 3")
        np.testing.assert_allclose(maps.value_LHW[2:], heads, atol=1e-6)
        np.testing.assert_allclose(maps.value_LHW[0], heads.mean(axis=0), atol=1e-6)
        flow = torch.eye(by_hand[0].shape[-1])
        for weights in by_hand:  # Abnar & Zuidema 2020, equation 1
            step = weights[row].mean(0) + torch.eye(len(flow))
            flow = (step / step.sum(-1, keepdim=True)) @ flow
        np.testing.assert_allclose(maps.value_LHW[1].ravel(), flow[0, 1:].numpy(), atol=1e-6)


def test_asking_leaves_the_network_as_it_was():
    learner = learner_of("timm", "vit_tiny_patch16_224", size=32, patch_size=8, depth=2)
    learner.module.blocks[0].requires_grad_(False)
    learner.module.train()
    fused = [block.attn.fused_attn for block in learner.module.blocks]
    looked(learner, batch_of(32))
    gradcam_of(learner, batch_of(32), layer="patch_embed.proj")
    assert [block.attn.fused_attn for block in learner.module.blocks] == fused and learner.module.training
    assert not learner.module.blocks[0].attn.qkv.weight.requires_grad
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in learner.module.modules())


def test_torchvision_and_rotary_transformers_are_read_too():
    for kind, name, args in (
        ("torchvision", "vit_b_16", {}),
        ("timm", "vit_base_patch16_rope_reg1_gap_256", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
        ("timm", "eva02_tiny_patch14_224", {"depth": 2, "patch_size": 16}),
    ):
        learner = learner_of(kind, name, size=32, **args)
        (maps,) = looked(learner, batch_of(32, rows=1))[0]
        assert maps.value_LHW.shape[1:] == (2, 2) and np.isfinite(maps.value_LHW).all()
        assert (maps.value_LHW.sum(axis=(1, 2)) <= 1 + 1e-5).all()  # shares of one, the rest goes to other tokens


def test_each_branch_has_its_own_patches_and_one_encoder_may_serve_both():
    import timm

    fine, coarse = (
        timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=patch, depth=2, num_classes=0)
        for patch in (4, 16)
    )
    batch = batch_of(32) | {"other": batch_of(32, seed=1)["image"]}
    maps = looked(Two(coarse, fine), batch)
    assert [one.branch for one in maps[0]] == ["image", "other"]
    assert [one.value_LHW.shape for one in maps[0]] == [(5, 2, 2), (5, 8, 8)]
    both = looked(Two(fine, fine), batch)
    alone = looked(Two(fine, coarse), batch)
    np.testing.assert_allclose(both[0][0].value_LHW, alone[0][0].value_LHW, atol=1e-6)
    assert np.abs(both[0][0].value_LHW - both[0][1].value_LHW).max() > 1e-6


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        (197, (224, 224), (14, 14, 1)),
        (5, (32, 32), (2, 2, 1)),
        (64, (32, 32), (8, 8, 0)),
        (201, (224, 224), (14, 14, 5)),
        (589, (252, 336), (21, 28, 1)),
    ],
)
def test_tokens_become_a_grid_of_patches(tokens, size, expected):
    assert attention.grid(tokens, height=size[0], width=size[1]) == expected


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(ConfigError, match="1000 tokens are no grid"):
        attention.grid(1000, height=224, width=224)


# --- Grad-CAM -------------------------------------------------------------------------------------------------------


def gradcam_of(learner, batch, *, layer=None, classes=((1, 3), (2,))):
    return gradcam.explain(learner, batch, layer=layer, classes=list(classes))


def test_gradcam_is_the_class_activation_map_where_a_mean_and_a_matrix_follow():
    """The identity of Selvaraju et al. 2017, section 3.1: the weights are then those of the matrix, over the places."""
    learner = learner_of("timm", "resnet18", size=64)
    batch = batch_of(64)
    learner.module.eval()
    with torch.no_grad():
        features = learner.module.forward_features(learner._seen(batch["image"]))
    first, second = gradcam_of(learner, batch, layer="layer4")
    assert first[0].names == ("for the answer", "for the true class") and second[0].names == ("for the answer",)
    for maps, row, number in ((first, 0, (1, 3)), (second, 1, (2,))):
        weight = learner.module.fc.weight[list(number)] / (features.shape[2] * features.shape[3])
        expected = torch.einsum("kc,chw->khw", weight, features[row]).relu().detach().numpy()
        np.testing.assert_allclose(maps[0].value_LHW, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "name", "size", "side", "args"),
    [
        ("resnet9", "", 32, 4, {}),
        ("timm", "resnet18", 128, 4, {}),
        ("timm", "convnext_atto", 128, 4, {}),
        ("timm", "maxvit_rmlp_pico_rw_256", 256, 8, {"depths": [1, 1, 1, 1]}),
        ("timm", "swin_tiny_patch4_window7_224", 224, 7, {"depths": [1, 1, 1, 1], "embed_dim": 48}),
        ("torchvision", "mobilenet_v3_small", 128, 4, {}),
    ],
)
def test_networks_that_keep_maps_are_explained_at_their_last_one(kind, name, size, side, args):
    learner = learner_of(kind, name, size=size, **args)
    maps = gradcam_of(learner, batch_of(size))
    assert maps[0][0].value_LHW.shape == (2, side, side) and maps[1][0].value_LHW.shape == (1, side, side)
    assert (maps[0][0].value_LHW >= 0).all() and np.isfinite(maps[0][0].value_LHW).all()


def test_a_transformer_without_maps_and_an_unknown_layer_are_refused_by_gradcam():
    learner = learner_of("timm", "vit_tiny_patch16_224", size=32, patch_size=8, depth=2)
    with pytest.raises(ConfigError, match="keeps no map of features near its answer"):
        gradcam_of(learner, batch_of(32))
    with pytest.raises(ConfigError, match="did you mean 'layer4'"):
        gradcam_of(learner_of("timm", "resnet18", size=64), batch_of(64), layer="layer5")


def test_frozen_parts_are_explained_too():
    learner = learner_of("timm", "resnet18", size=64)
    expected = gradcam_of(learner, batch_of(64))[0][0].value_LHW
    learner.module.requires_grad_(False)
    np.testing.assert_array_equal(gradcam_of(learner, batch_of(64))[0][0].value_LHW, expected)


def test_a_pair_without_classes_is_asked_what_makes_it_alike():
    networks = [encoder_of("timm", "resnet18", size=64, classes=None).network for _ in range(2)]
    batch = batch_of(64) | {"other": batch_of(64, seed=1)["image"]}
    maps = gradcam.explain(Two(*networks), batch, layer=None, classes=None)
    assert [(one.branch, one.names) for one in maps[0]] == [
        ("image", ("alike with other",)),
        ("other", ("alike with image",)),
    ]
    assert maps[0][0].value_LHW.shape == (1, 4, 4) or maps[0][0].value_LHW.shape == (1, 2, 2)


# --- of a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = train(
        tmp_path_factory.mktemp("it's a run"), train__epochs=1, model={"kind": "resnet9", "width": 8}, augment__size=16
    ).run
    evaluate.evaluate(made, split="test", machine=HERE)
    return made


def test_rows_are_explained_and_written_as_a_page_and_as_numbers(run):
    rows = manifest.read(run.manifest_file)
    told = explain.explain(run, ["worst:3", rows.ids[0], "1"], machine=HERE)
    assert len(told["rows"]) == 5 and told["method"] == "gradcam" and rows.ids[0] in told["rows"]
    page = Path(told["page"]).read_text(encoding="utf-8")
    assert page.count('<figure class="seen') == 5 and "Only above" in page
    with np.load(told["maps"]) as maps:
        assert maps["rows"].tolist() == told["rows"] and maps["0000 image"].ndim == 3
    again = explain.explain(run, ["worst:3", rows.ids[0], "1"], machine=HERE)
    assert again == told and run.events()[-1]["event"] == "explained"


def test_the_worst_rows_are_those_that_lost_most(run):
    from instar import predictions

    found = predictions.read(run.predictions("test"))
    given = found.probability_NK[np.arange(len(found)), found.label_N]
    told = explain.explain(run, ["worst:2"], machine=HERE)
    assert told["rows"] == [found.ids[row] for row in np.argsort(given, kind="stable")[:2]]


def test_rows_of_a_class_are_of_that_class(run):
    rows = manifest.read(run.manifest_file)
    told = explain.explain(run, ["class:class 1's"], Question(split="train", most=3), machine=HERE)
    assert len(told["rows"]) == 3 and all(name.startswith("class 1's/") for name in told["rows"])
    chosen, files = choose(run, rows, ["test"], task=classification, split="test", most=2, seed=0)
    assert len(chosen) == 2 and set(chosen) <= set(rows.rows("test").tolist()) and not files


def test_every_word_that_nobody_knows_is_named_at_once(run):
    rows = manifest.read(run.manifest_file)
    with pytest.raises(ConfigError) as caught:
        words = ["worst:none", "class:class 1", "class 0's/0000.pn", "99999", "$(x)"]
        choose(run, rows, words, task=classification, split="test", most=16, seed=0)
    first, second, third, fourth, fifth = caught.value.mistakes
    assert "from 1 to 999" in first and 'did you mean "class 1\'s"' in second
    assert (
        'Did you mean "class 0\'s/0000.png"' in third and "there are 60 rows" in fourth and "'$(x)' is no row" in fifth
    )


def test_an_image_file_is_explained_without_being_a_row(run, tmp_path):
    rows = manifest.read(run.manifest_file)
    file = tmp_path / "it's $(x)\n.png"
    shutil.copy(rows.path(0), file)
    told = explain.explain(run, [str(file)], machine=HERE)
    assert told["rows"] == [str(file)]
    same = explain.explain(run, [rows.ids[0]], machine=HERE)
    with np.load(told["maps"]) as loose, np.load(same["maps"]) as row:
        np.testing.assert_array_equal(loose["0000 image"][0], row["0000 image"][0])
    file.write_bytes(b"none")
    with pytest.raises(DataError, match="not an image that is read here"):
        explain.explain(run, [str(file)], machine=HERE)


def test_a_method_nobody_knows_is_refused_and_a_cnn_has_no_attention(run):
    with pytest.raises(ValueError, match="must be auto, attention or gradcam"):
        Question(method="lime")
    with pytest.raises(ConfigError, match="no block in which every patch looks at every other one"):
        explain.explain(run, ["0"], Question(method="attention"), machine=HERE)
