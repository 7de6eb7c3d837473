"""What in an image speaks for a class: Grad-CAM, on the last map of features a network makes.

For convolutional networks and others that keep features in a map (ResNet, ConvNeXt, MaxViT, Swin). The features of
that map are added up, each weighed by how much the class would gain from more of it, and what speaks against the class
is left out. Selvaraju et al. 2017, arXiv 1610.02391. A run without classes is asked what makes the two images of a
pair alike, or what makes the features of one image large.

    instar explain RUN worst:8 method=gradcam layer=layer3

Legend: B batch, C channels, H W of the map, K classes, D features.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from instar import plugins
from instar.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from instar.explainers._maps import Maps
    from instar.networks import Learner

_LEAST = 4  # places a side that a map should have to say where; a coarser one is taken where there is no other


def reason_against(module: "nn.Module") -> str:
    """Nothing: whether a network keeps its features in a map shows when an image goes through."""
    return ""


def explain(
    learner: "Learner", batch: Mapping[str, Any], *, layer: str | None, classes: "list[tuple[int, ...]] | None"
) -> "list[list[Maps]]":
    """Maps of each row: one for each of its classes; or one a branch, where there are no classes.

    layer     name of the module whose map is taken; None for the last
    classes   of each row the number of the answer, then that of the true class where it is another; None where the
              task knows no classes
    Raises ConfigError where the network has no such map.
    """
    import torch

    from instar.explainers._maps import asking

    outputs: list[tuple[str, Tensor]] = []
    with asking(learner.module), torch.enable_grad(), _watched(learner.module, outputs, layer):
        if classes is None:
            return _of_features(learner, batch, outputs, layer)
        return _of_classes(learner, batch, outputs, layer, classes)


def _of_classes(
    learner: "Learner",
    batch: Mapping[str, Any],
    outputs: "list[tuple[str, Tensor]]",
    layer: str | None,
    classes: "list[tuple[int, ...]]",
) -> "list[list[Maps]]":
    import torch

    from instar.explainers._maps import Maps

    learner.predict(batch)
    logits_BK = outputs[-1][1]  # the network itself answers last
    outputs = [(name, answer) for name, answer in outputs if answer.shape[:1] == (len(classes),)]
    found: list[list[Any]] = [[] for _ in classes]
    used = ""
    for turn in range(max(map(len, classes))):
        number_B = torch.tensor([own[min(turn, len(own) - 1)] for own in classes], device=logits_BK.device)
        target = logits_BK.gather(1, number_B[:, None]).sum()  # rows do not touch: the gradient of a sum is each one's
        used, map_BHW = _map(target, outputs, layer)
        for row, own in enumerate(classes):
            if turn < len(own):
                found[row].append(map_BHW[row].cpu().numpy())
    return [
        [Maps("image", ("for the answer", "for the true class")[: len(maps)], _stacked(maps), f"Grad-CAM on {used}")]
        for maps in found
    ]


def _of_features(
    learner: "Learner", batch: Mapping[str, Any], outputs: "list[tuple[str, Tensor]]", layer: str | None
) -> "list[list[Maps]]":
    from torch.nn import functional

    from instar.explainers._maps import Maps

    feature = learner.embed(batch)
    branches = list(feature)
    alike = len(branches) == 2 and feature[branches[0]].shape == feature[branches[1]].shape
    rows = len(feature[branches[0]])
    found: list[list[Maps]] = [[] for _ in range(rows)]
    for branch in branches:
        if not feature[branch].requires_grad:
            raise ConfigError("this task gives features without gradients, so nothing can be traced back to the image.")
        if alike:
            target = functional.cosine_similarity(feature[branches[0]], feature[branches[1]]).sum()
            name = f"alike with {branches[1 - branches.index(branch)]}"
        else:
            target, name = feature[branch].square().sum(1).sqrt().sum(), "large features"
        # Only what this branch's own features came from: the other one hangs on the same target.
        own = _behind(feature[branch].sum(), outputs)
        used, map_BHW = _map(target, own, layer)
        for row in range(rows):
            value_LHW = _stacked([map_BHW[row].cpu().numpy()])
            found[row].append(Maps(branch, (name,), value_LHW, f"Grad-CAM on {used}"))
    return found


def weighed(features_BCHW: "Tensor", gradient_BCHW: "Tensor") -> "Tensor":
    """map_BHW: each feature weighed by the mean of its gradient, added up, and what is negative left out."""
    return (features_BCHW * gradient_BCHW.mean((2, 3), keepdim=True)).sum(1).relu().float().detach()


def _map(target: "Tensor", outputs: "list[tuple[str, Tensor]]", layer: str | None) -> "tuple[str, Tensor]":
    """The name of the module whose map was taken, and the map of each row."""
    import torch

    name, features = _chosen(_behind(target, outputs), layer)
    (gradient,) = torch.autograd.grad(target, features, retain_graph=True)
    first = _channels_first(features)
    assert first is not None, "only maps are chosen"
    order = (0, 1, 2, 3) if first else (0, 3, 1, 2)
    return name, weighed(features.detach().permute(order), gradient.permute(order))


def _behind(target: "Tensor", outputs: "list[tuple[str, Tensor]]") -> "list[tuple[str, Tensor]]":
    """What of the outputs `target` was made from, in the order in which they were made."""
    import torch

    candidates = [(name, answer) for name, answer in outputs if answer.requires_grad]
    gradients = torch.autograd.grad(target, [answer for _, answer in candidates], retain_graph=True, allow_unused=True)
    return [one for one, gradient in zip(candidates, gradients, strict=True) if gradient is not None]


def _chosen(outputs: "list[tuple[str, Tensor]]", layer: str | None) -> "tuple[str, Tensor]":
    """The last map that is not too coarse to say where."""
    maps = [(at, name, answer) for at, (name, answer) in enumerate(outputs) if _channels_first(answer) is not None]
    if layer is not None:
        named = [(name, answer) for _, name, answer in maps if name == layer]
        if not named:
            known = list(dict.fromkeys(name for _, name, _ in maps))
            raise ConfigError(f"layer: {plugins.unknown(layer, known, what='map of features')}")
        return named[-1]
    late = [one for one in maps if one[0] >= 0.4 * len(outputs)]
    least = min(_LEAST, max((min(_sides(answer)) for _, _, answer in late), default=0))
    fine = [one for one in late if min(_sides(one[2])) >= least]
    if not fine:
        raise ConfigError(
            "this network keeps no map of features near its answer, so Grad-CAM has nothing to lay over the image. "
            "Name a layer with layer=NAME, or use method=attention for a ViT."
        )
    _, name, answer = fine[-1]
    return name or "the network", answer


def _channels_first(answer: "Tensor") -> bool | None:
    """Whether a map is CHW or HWC, for square images; None for what is no map of more than one place."""
    if answer.ndim != 4 or not answer.is_floating_point():
        return None
    _, first, second, third = answer.shape
    if second == third and second > 1:
        return True
    return False if first == second and first > 1 else True if min(second, third) > 1 and first >= third else None


def _sides(answer: "Tensor") -> tuple[int, int]:
    return (answer.shape[2], answer.shape[3]) if _channels_first(answer) else (answer.shape[1], answer.shape[2])


def _stacked(maps: list[Any]) -> Any:
    import numpy as np

    return np.stack(maps).astype(np.float32)


@contextmanager
def _watched(module: "nn.Module", outputs: "list[tuple[str, Tensor]]", layer: str | None) -> Iterator[None]:
    """Inside, every part of the module adds its name and what it gives to `outputs`.

    A convolution alone only where it is asked for: what it gives is no feature before it is normalised and bent.
    """
    from torch import Tensor, nn

    def hook(name: str) -> Any:
        def added(part: "nn.Module", given: Any, answer: Any) -> None:
            if isinstance(answer, Tensor):
                outputs.append((name, answer))

        return added

    names = [name for name, _ in module.named_modules()]
    if layer is not None and layer not in names:
        raise ConfigError(f"layer: {plugins.unknown(layer, names, what='part of the network')}")
    with ExitStack() as stack:
        for name, part in module.named_modules():
            if name == layer or not isinstance(part, nn.Conv2d):
                stack.callback(part.register_forward_hook(hook(name)).remove)
        yield
