"""Every model on the shelf gives an Encoder of the right shape; weights, freezing and names do what they say."""

import socket
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils._device import DeviceContext
from torchvision import models

from instar import plugins, testing
from instar.errors import ConfigError, WeightsError
from instar.models import _weights
from instar.networks import train_mode

# The butterfly project's list: 41 of torchvision, 4 of timm.
TORCHVISION = """
    resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 resnext101_32x8d resnext50_32x4d resnext101_64x4d
    regnet_y_16gf regnet_y_32gf regnet_y_128gf regnet_y_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf regnet_x_3_2gf
    densenet121 densenet169 densenet201 densenet161 vgg19 vgg19_bn vgg16_bn efficientnet_v2_s efficientnet_v2_m
    efficientnet_v2_l vit_b_16 vit_b_32 vit_l_32 vit_l_16 vit_h_14 swin_v2_t swin_v2_s swin_v2_b maxvit_t
    convnext_tiny convnext_small convnext_base convnext_large mobilenet_v3_small mobilenet_v3_large
""".split()
TIMM = [f"timm/maxvit_{size}_tf_224.in1k" for size in ("tiny", "small", "base", "large")]
FAMILIES = """
    resnet50 regnet_x_3_2gf densenet121 vgg19_bn efficientnet_v2_s vit_b_32 swin_v2_t maxvit_t convnext_tiny
    mobilenet_v3_small
""".split()
SMALL = {"timm": "test_resnet", "torchvision": "shufflenet_v2_x0_5"}
# What answers once an image; the rest, and some names of torchvision, answer each pixel.
OF_IMAGES = ["resnet9", "timm", "torchvision", "vit"]
OF_PIXELS = [
    *((kind, {}) for kind in ("deeplab_xception", "smp")),
    *(("smp", {"name": name, "encoder": "test_resnet"}) for name in ("unet", "fpn", "deeplabv3plus")),
    *(
        ("torchvision", {"name": name})
        for name in ("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")
    ),
]
LAST = {"timm": "layer4", "torchvision": "conv5"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks on a busy machine: threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Hollow(DeviceContext):
    """Networks without numbers: all weights on the meta device, except what must be real to build a network."""

    def __init__(self, *real):
        super().__init__("meta")
        self.real = real

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.real:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def hollow(name):
    # RegNet computes the widths of its layers with tensors.
    return Hollow(torch.arange, torch.tensor) if name.startswith("regnet") else Hollow()


def settings_of(kind, **given):
    settings = plugins.load("models", kind).Settings
    small = {"name": SMALL[kind]} if kind in SMALL else {}
    return settings.model_validate({"kind": kind, **small, **given})


def built(kind, *, channels=3, classes=5, size=32, load=True, **given):
    more = {} if load else {"load": False}
    module = plugins.load("models", kind)
    return module.build(settings_of(kind, **given), channels=channels, classes=classes, size=size, **more)


# --- shapes --------------------------------------------------------------------------------------------------------


def test_every_model_on_the_shelf_says_what_it_answers():
    found = {kind: plugins.load("models", kind).answers(settings_of(kind)) for kind in plugins.kinds("models")}
    assert {kind for kind, what in found.items() if what == "image"} == set(OF_IMAGES)
    assert {kind for kind, what in found.items() if what == "pixels"} == {kind for kind, _ in OF_PIXELS} - {
        "torchvision"
    }


@pytest.mark.parametrize(("kind", "given"), OF_PIXELS)
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_every_model_of_pixels_reads_any_channels_and_gives_a_logit_a_class_and_pixel(kind, given, channels):
    with Hollow():
        encoder = built(kind, channels=channels, classes=7, **given)
        side = 3 * encoder.stride if encoder.stride > 1 else 50
        logits_BKHW = encoder.network(torch.empty(2, channels, side, 2 * side))
    assert logits_BKHW.shape == (2, 7, side, 2 * side)
    assert len(encoder.mean) == len(encoder.std) == channels
    assert encoder.network.get_submodule(encoder.head).out_channels == 7


def test_the_deepcam_network_has_the_numbers_of_the_benchmark_in_every_part():
    with Hollow():
        network = built("deeplab_xception", channels=16, classes=3).network
        assert network(torch.empty(1, 16, 768, 1152)).shape == (1, 3, 768, 1152)

    def numbers(part):
        return sum(weight.numel() for weight in part.parameters())

    parts = {name: numbers(part) for name, part in network.named_children()}
    assert numbers(network) == 56_454_720
    assert parts == {
        "xception": 37_778_400, "bottleneck": 15_535_104, "conv2": 6_144, "bn2": 96, "upsample": 3_134_976
    }  # fmt: skip
    assert sum(one.numel() for name, one in network.named_buffers() if "running" in name) == 97_760


def test_the_deepcam_network_learns_on_small_fields():
    network = built("deeplab_xception", channels=4, classes=3).network.train()
    logits_BKHW = network(torch.randn(2, 4, 96, 144))
    assert logits_BKHW.shape == (2, 3, 96, 144)
    logits_BKHW.mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_a_pixel_model_starts_from_weights_and_lists_what_does_not_fit(tmp_path):
    source = built("smp", encoder="test_resnet", classes=9).network
    file = saved(tmp_path, {"module." + key: value for key, value in source.state_dict().items()})
    encoder = built("smp", encoder="test_resnet", classes=5, weights=str(file))
    assert [line.partition(":")[0] for line in encoder.unmatched] == [
        "segmentation_head.0.weight",
        "segmentation_head.0.bias",
    ]
    assert torch.equal(encoder.network.encoder.model.conv1[0].weight, source.encoder.model.conv1[0].weight)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"name": "unett"}, "did you mean 'unet'"),
        ({"encoder": "resnet_18"}, "did you mean 'resnet18'"),
        ({"args": {"classes": 3}}, "decided by the data"),
        ({"args": {"no_such_thing": 3}}, "no_such_thing"),
    ],
)
def test_a_decoder_or_encoder_that_is_unknown_is_an_error_with_its_near_miss(given, hint):
    with pytest.raises(ConfigError, match=hint):
        built("smp", **given)


def test_a_pixel_model_has_no_features_of_images():
    with pytest.raises(ConfigError, match="answers pixels"):
        built("smp", encoder="test_resnet", classes=None)


@pytest.mark.parametrize("kind", OF_IMAGES)
def test_every_model_keeps_the_contract_that_outsiders_test_theirs_by(kind):
    testing.check_model({"kind": kind, **({"name": SMALL[kind]} if kind in SMALL else {})})


@pytest.mark.parametrize("kind", OF_IMAGES)
def test_every_model_says_where_its_head_is(kind):
    encoder = built(kind, channels=16, classes=7)
    head = encoder.network.get_submodule(encoder.head)
    assert (head.in_features, head.out_features) == (encoder.num_features, 7)
    assert encoder.unmatched == []
    assert built(kind, classes=None).head == ""


def test_the_same_seed_gives_the_same_weights_of_a_decoder():
    def weights():
        torch.manual_seed(5)
        return torch.cat([weight.detach().flatten() for weight in built("smp").network.parameters()])

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_butterfly_list_of_torchvision_builds_with_its_own_head(name):
    with hollow(name):
        encoder = built("torchvision", name=name, classes=163, size=224)
    assert encoder.network.get_submodule(encoder.head).out_features == 163


@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_is_the_librarys_own_for_that_many_classes(name):
    with hollow(name):
        networks = [built("torchvision", name=name, classes=7, size=224).network, models.get_model(name, num_classes=7)]
    ours, theirs = ({key: value.shape for key, value in network.state_dict().items()} for network in networks)
    assert ours == theirs


@pytest.mark.parametrize("name", TIMM)
def test_the_butterfly_list_of_timm_builds_with_its_own_head(name):
    with hollow(name):
        encoder = built("timm", name=name, classes=163, size=224)
    assert encoder.head == "head.fc"
    assert encoder.network.get_submodule(encoder.head).out_features == 163


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "squeezenet1_1"])
def test_networks_of_torchvision_with_more_than_one_output_or_no_linear_head_give_logits(name):
    with hollow(name):
        encoder = built("torchvision", name=name, classes=11, size=96, channels=4)
    answer = encoder.network(torch.empty(2, 4, 96, 96, device="meta"))
    assert answer.shape == (2, 11)


@pytest.mark.parametrize(("kind", "name"), [("timm", "test_vit"), ("torchvision", "vit_b_32")])
def test_networks_that_need_the_size_are_given_it(kind, name):
    with hollow(name):
        encoder = built(kind, name=name, size=64)
    assert encoder.network(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 5)


def test_a_size_that_does_not_go_through_is_named():
    with pytest.raises(ConfigError, match=r"vit_b_32.*[Pp]atch"):
        built("torchvision", name="vit_b_32", size=100)
    with hollow("inception_v3"), pytest.raises(ConfigError, match=r"inception_v3 with images of 32x32.*augment\.size"):
        built("torchvision", name="inception_v3", size=32)


# --- names and arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("timm", "resnet_50", "resnet50"),
        ("timm", "resnet18.a1_in2k", "resnet18.a1_in1k"),
        ("timm", "zzzzzz", "no name is close"),
        ("timm", "hf-hub:somebody/else", "no name is close"),
        ("torchvision", "resnet_50", "resnet50"),
        ("torchvision", "zzzzzz", "no name is close"),
    ],
)
def test_a_name_that_is_unknown_is_an_error_with_its_near_miss(kind, name, hint):
    with pytest.raises(ConfigError, match=hint) as found:
        built(kind, name=name)
    assert len(str(found.value)) < 300


def test_arguments_go_to_the_library_and_wrong_ones_come_back_as_an_error():
    with hollow("densenet121"):
        narrow, usual = (built("torchvision", name="densenet121", args=args) for args in ({"bn_size": 2}, {}))
    sizes = [sum(weight.numel() for weight in one.network.parameters()) for one in (narrow, usual)]
    assert sizes[0] < sizes[1]
    assert built("timm", args={"output_stride": 32}).num_features
    for kind in SMALL:
        with pytest.raises(ConfigError, match="no_such_thing"):
            built(kind, args={"no_such_thing": 3})
        with pytest.raises(ConfigError, match=r"num_classes is decided by the data"):
            built(kind, args={"num_classes": 3})


def test_arguments_cannot_smuggle_in_weights():
    for name in ("checkpoint_path", "pretrained_cfg_overlay", "pretrained_cfg"):
        with pytest.raises(ConfigError, match=f"{name} is decided by model"):
            built("timm", args={name: "evil.pth"})


@pytest.mark.parametrize("kind", SMALL)
def test_dropout_stands_before_the_head_and_only_in_training(kind):
    network = built(kind, dropout=0.9).network
    image_BCHW = torch.randn(4, 3, 32, 32)
    network.eval()
    assert torch.equal(network(image_BCHW), network(image_BCHW))
    network.train()
    assert not torch.equal(network(image_BCHW), network(image_BCHW))
    assert network.state_dict().keys() == built(kind).network.state_dict().keys()


@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v3_small", 1), ("vgg11", 2)])
def test_dropout_that_a_network_has_takes_the_share(name, layers):
    with hollow(name):
        network = built("torchvision", name=name, dropout=0.35, size=64).network
    drops = [part.p for part in network.modules() if isinstance(part, torch.nn.Dropout)]
    assert drops == [0.35] * layers


# --- weights -------------------------------------------------------------------------------------------------------


def saved(folder, tensors, name="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    tensors = {key: value.clone().contiguous() for key, value in tensors.items()}
    save_file(tensors, file) if file.suffix == ".safetensors" else torch.save(tensors, file)
    return file


def bits(network):
    return torch.cat([value.detach().flatten().float() for value in network.state_dict().values()])


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.model.", "model.", "net.model."])
def test_names_lose_what_wrappers_put_before_them(prefix):
    own = {"model.weight": None, "layer.0.bias": None}
    assert _weights.unwrap({prefix + name: 1 for name in own}, own) == dict.fromkeys(own, 1)


def test_a_network_compiled_in_parts_keeps_its_names():
    assert _weights.unwrap({"module.layer._orig_mod.bias": 1}, {"layer.bias": None}) == {"layer.bias": 1}


@pytest.mark.parametrize("kind", SMALL)
def test_weights_of_a_wrapped_network_load_whole(kind, tmp_path):
    source = built(kind).network
    file = saved(tmp_path / "some 'run'", {"module." + key: value for key, value in source.state_dict().items()})
    encoder = built(kind, weights=str(file))
    assert torch.equal(bits(encoder.network), bits(source))
    assert encoder.unmatched == []


def test_weights_of_an_earlier_run_are_those_of_its_best_checkpoint(tmp_path):
    run, source = tmp_path / "runs" / "flowers mossy-lynx", built("timm").network
    saved(run / "checkpoints" / "00000640", source.state_dict())
    saved(run / "checkpoints" / "00001280", built("timm").network.state_dict())
    (run / "checkpoints" / "best").write_text("00000640\n")
    assert torch.equal(bits(built("timm", weights=str(run)).network), bits(source))
    averaged = built("timm").network
    saved(run / "checkpoints" / "00000640", averaged.state_dict(), "ema.safetensors")
    assert torch.equal(bits(built("timm", weights=str(run)).network), bits(averaged))


def test_what_does_not_fit_is_listed_and_the_rest_is_loaded(tmp_path):
    source = built("timm", classes=9).network.state_dict()
    del source["layer1.0.bn1.weight"]
    file = saved(tmp_path, {**source, "extra.weight": torch.zeros(3)})
    encoder = built("timm", classes=5, weights=str(file))
    width = encoder.num_features
    assert encoder.unmatched == [
        "layer1.0.bn1.weight: not in the weights",
        f"fc.weight: 9x{width} in the weights, 5x{width} in the network",
        "fc.bias: 9 in the weights, 5 in the network",
        "extra.weight: not in the network",
    ]
    assert torch.equal(encoder.network.conv1[0].weight, source["conv1.0.weight"])


@pytest.mark.parametrize("channels", [1, 16])
def test_a_first_convolution_of_three_channels_is_averaged_or_repeated(channels, tmp_path):
    source = built("torchvision").network.state_dict()
    encoder = built("torchvision", channels=channels, weights=str(saved(tmp_path, source)))
    assert encoder.unmatched == []
    weight_OCHW, source_OCHW = encoder.network.conv1[0].weight, source["conv1.0.weight"]
    if channels == 1:
        assert torch.allclose(weight_OCHW, source_OCHW.sum(1, keepdim=True), atol=1e-6)
    else:
        assert torch.allclose(weight_OCHW[:, 7], source_OCHW[:, 7 % 3] * 3 / 16, atol=1e-6)


def test_weights_of_another_network_are_an_error(tmp_path):
    file = saved(tmp_path, {"whatever.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"none of its 1 tensors fits.*whatever\.weight"):
        built("timm", weights=str(file))


def test_a_pickle_is_read_only_when_it_is_trusted(tmp_path):
    source = built("timm").network
    file = saved(tmp_path, {"module." + key: value for key, value in source.state_dict().items()}, "best_model2.pt")
    torch.save({"epoch": 3, "model_state_dict": torch.load(file, weights_only=True)}, file)
    with pytest.raises(WeightsError, match=r"model\.trust"):
        built("timm", weights=str(file))
    assert torch.equal(bits(built("timm", weights=str(file), trust=True).network), bits(source))


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_a_pickle_with_code_in_it_is_refused_even_when_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth cannot be read as weights"):
        _weights.read(Path("evil.pth"), trust=True)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\xff" * 64])
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model"])
def test_damaged_weights_are_an_error_with_the_name_of_the_file(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        _weights.read(tmp_path / name, trust=True)


def test_weights_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        _weights.read(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="without a saved checkpoint"):
        _weights.read(tmp_path)


def test_a_caller_with_weights_of_its_own_reads_none(tmp_path):
    assert built("timm", weights=str(tmp_path / "gone.safetensors"), load=False).unmatched == []
    assert built("torchvision", pretrained=True, load=False).unmatched == []


# --- the library's weights -----------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and caches that are empty."""

    def unreachable(*_args, **_kwargs):
        raise AssertionError("something asks the network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "name", "missing"),
    [("timm", "resnet18.a1_in1k", "timm/resnet18.a1_in1k"), ("torchvision", "resnet18", "resnet18-f37072fd.pth")],
)
def test_pretrained_weights_that_are_not_here_are_an_error_that_names_file_and_command(kind, name, missing, offline):
    with pytest.raises(WeightsError, match=f"Where there is network: instar fetch {kind}/{name}") as found:
        built(kind, name=name, pretrained=True)
    assert missing in str(found.value)
    assert str(offline) in str(found.value)


@pytest.mark.parametrize("channels", [3, 1])
def test_pretrained_weights_of_torchvision_come_from_the_cache(channels, offline):
    theirs = models.shufflenet_v2_x0_5().state_dict()
    file = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    saved(offline / "torch" / "hub" / "checkpoints", theirs, file)
    encoder = built("torchvision", pretrained=True, channels=channels)
    assert torch.equal(encoder.network.conv5[0].weight, theirs["conv5.0.weight"])
    assert torch.allclose(encoder.network.conv1[0].weight.sum(1), theirs["conv1.0.weight"].sum(1), atol=1e-6)
    assert encoder.unmatched == ["fc: new, for your classes"]


@pytest.mark.parametrize("channels", [3, 1])
def test_pretrained_weights_of_timm_come_from_the_cache(channels, offline):
    theirs = timm.create_model("test_resnet").state_dict()
    declared = timm.get_pretrained_cfg("test_resnet")
    repository = offline / "hub" / f"models--{declared.hf_hub_id.replace('/', '--')}"
    saved(repository / "snapshots" / "abc", theirs)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    encoder = built("timm", pretrained=True, channels=channels)
    assert torch.equal(encoder.network.layer4[0].conv1.weight, theirs["layer4.0.conv1.weight"])
    assert encoder.unmatched == ["fc: new, for 5 classes"]


def test_a_copy_on_the_hub_of_weights_in_another_format_is_read_as_what_it_is(offline):
    """Not by the reader of the original, a NumPy archive, which timm declares for this name."""
    name = "vit_tiny_patch16_224.augreg_in21k"
    declared = timm.get_pretrained_cfg(name)
    assert declared.custom_load is True
    theirs = timm.create_model(name, depth=1, num_classes=21843).state_dict()
    repository = offline / "hub" / f"models--{declared.hf_hub_id.replace('/', '--')}"
    saved(repository / "snapshots" / "main", theirs)
    encoder = built("timm", name=name, pretrained=True, args={"depth": 1}, size=224)
    assert torch.equal(encoder.network.blocks[0].attn.qkv.weight, theirs["blocks.0.attn.qkv.weight"])


def test_a_network_without_weights_in_its_library_cannot_be_pretrained():
    name = next(name for name in timm.list_models("resnet*") if not timm.get_pretrained_cfg(name).has_weights)
    with pytest.raises(ConfigError, match="no weights"):
        built("timm", name=name, pretrained=True)
    with pytest.raises(ConfigError, match="did you mean 'IMAGENET1K_V1'"):
        built("torchvision", pretrained="IMAGENET1K_V11")


@pytest.mark.parametrize(
    ("name", "size", "chosen"),
    [
        ("resnet50", 224, "IMAGENET1K_V2"),
        ("vit_h_14", 224, "IMAGENET1K_SWAG_LINEAR_V1"),
        ("vit_h_14", 518, "IMAGENET1K_SWAG_E2E_V1"),
        ("vit_b_16", 224, "IMAGENET1K_V1"),
        ("efficientnet_v2_s", 224, "IMAGENET1K_V1"),
    ],
)
def test_of_several_weights_the_default_or_those_for_this_size_are_taken(name, size, chosen):
    module = plugins.load("models", "torchvision")
    assert module._choose_weights(settings_of("torchvision", name=name, pretrained=True), size=size).name == chosen


# --- freezing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path):
    """Makes a network that starts from a file, as one must to freeze anything."""

    def make(kind, **given):
        file = tmp_path / kind / "model.safetensors"
        if not file.exists():
            saved(file.parent, built(kind).network.state_dict())
        return built(kind, weights=str(file), **given).network

    return make


@pytest.mark.parametrize("kind", SMALL)
def test_only_the_named_parts_learn(kind, ready):
    network = ready(kind, train_only=[LAST[kind], "head"])
    learning = {name.split(".")[0] for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {LAST[kind], "fc"}


def test_named_parts_are_frozen_and_the_rest_learns(ready):
    network = ready("timm", freeze=["conv1", "layer1.0"])
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith(("conv1", "layer1.0."))}
    assert frozen


@pytest.mark.parametrize("kind", SMALL)
def test_statistics_of_frozen_normalisation_stand_still(kind, ready):
    network = ready(kind, train_only=[LAST[kind], "head"])
    before = {name: value.clone() for name, value in network.named_buffers() if "running" in name}
    assert network.training
    network(torch.randn(4, 3, 32, 32))
    moved = {name for name, value in network.named_buffers() if "running" in name and not value.equal(before[name])}
    assert moved == {name for name in before if name.startswith(LAST[kind])}
    train_mode(network, False)
    assert not any(part.training for part in network.modules())


def test_a_part_that_is_not_there_is_an_error_with_its_near_miss(ready):
    with pytest.raises(ConfigError, match=r"train_only.*layr4.*did you mean 'layer4'"):
        ready("timm", train_only=["layr4"])
    with pytest.raises(ConfigError, match="leaves nothing that learns"):
        ready("timm", freeze=["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"])


@pytest.mark.parametrize("kind", SMALL)
def test_freezing_random_weights_or_saying_both_is_refused(kind):
    for given in ({"freeze": ["conv1"]}, {"freeze": ["a"], "train_only": ["b"], "pretrained": True}):
        with pytest.raises(ValueError, match=r"train_only|freeze"):
            settings_of(kind, **given)
