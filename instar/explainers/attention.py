"""Where a vision transformer looks: attention of its last block, head by head, and what flows through all blocks.

For the ViTs of timm (with or without rotary positions) and torchvision. The last block's weights are those of the
class token to each patch; a network without one is shown by what all patches look at, on average. Rollout multiplies
the mean attention of all blocks, each half of it the block's input itself: Abnar & Zuidema 2020, arXiv 2005.00928.

    instar explain RUN worst:8 method=attention

Legend: B batch, T tokens, H heads, L blocks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from instar.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from instar.explainers._maps import Maps
    from instar.networks import Learner

_MOST_PREFIX = 16  # class, distillation and register tokens before the patches


def reason_against(module: "nn.Module") -> str:
    """Why this network cannot be explained by its attention; '' where it can."""
    if _attentions(module):
        return ""
    return "this network has no block in which every patch looks at every other one (a ViT has)"


def explain(
    learner: "Learner", batch: Mapping[str, Any], *, layer: str | None, classes: "list[tuple[int, ...]] | None"
) -> "list[list[Maps]]":
    """Maps of each row, one set a branch.

    layer     no choice here;  classes   says nothing here: attention is the same whatever it is looked for
    Raises ConfigError where the network has no such attention, or its tokens are no grid of patches.
    """
    import torch

    from instar.explainers._maps import asking

    if layer is not None:
        raise ConfigError("layer= chooses a layer for method=gradcam; attention is that of the last block and of all.")
    calls: list[tuple[str, Tensor]] = []
    with asking(learner.module), torch.no_grad(), _read(learner.module, calls):
        branches = list(learner.embed(batch))
    parts = _by_branch(calls)
    if len(parts) != len(branches):
        raise ConfigError(
            f"the network looked {len(parts)} times at a row of {' and '.join(branches)}, so its attention cannot be "
            "told apart. Use method=gradcam."
        )
    found: list[list[Maps]] = [[] for _ in range(len(parts[0][0]))]
    for branch, weights_LBHTT in zip(branches, parts, strict=True):
        height, width = batch[branch].shape[1:3]
        for row in range(len(found)):
            weights_LHTT = [weights_BHTT[row].float().cpu().numpy() for weights_BHTT in weights_LBHTT]
            found[row].append(_maps(branch, weights_LHTT, height=int(height), width=int(width)))
    return found


def rollout(weights_LHTT: "list[np.ndarray]") -> "np.ndarray":
    """How much of each token (columns) reaches each other one (rows) through all blocks; rows sum to 1."""
    import numpy as np

    tokens = weights_LHTT[0].shape[-1]
    flow_TT = np.eye(tokens)
    for weights_HTT in weights_LHTT:
        step_TT = 0.5 * weights_HTT.mean(axis=0) + 0.5 * np.eye(tokens)
        flow_TT = (step_TT / step_TT.sum(axis=1, keepdims=True)) @ flow_TT
    return flow_TT


def grid(tokens: int, *, height: int, width: int) -> tuple[int, int, int]:
    """Rows and columns of patches, and how many tokens stand before them, for an image of that height and width.

    Raises ConfigError where no square patch gives that many.
    """
    for patch in range(1, max(height, width) + 1):  # the finest that fits: fewest tokens before the patches
        rows, columns = height // patch, width // patch
        if rows and columns and 0 <= tokens - rows * columns <= _MOST_PREFIX and not (height % patch or width % patch):
            return rows, columns, tokens - rows * columns
    raise ConfigError(
        f"{tokens} tokens are no grid of square patches of an image of {height}x{width} pixels, so they cannot be laid "
        "over it. Use method=gradcam."
    )


def _maps(branch: str, weights_LHTT: "list[np.ndarray]", *, height: int, width: int) -> "Maps":
    import numpy as np

    from instar.explainers._maps import Maps

    last_HTT = weights_LHTT[-1]
    rows, columns, before = grid(last_HTT.shape[-1], height=height, width=width)
    # A network with a class token answers from it; one without answers from the mean of its patches.
    of = (lambda seen_xTT: seen_xTT[..., 0, :]) if before else (lambda seen_xTT: seen_xTT.mean(axis=-2))
    heads_HT = of(last_HTT)
    whole_LT = np.stack([heads_HT.mean(axis=0), of(rollout(weights_LHTT)), *heads_HT])
    names = ("mean of heads", "rollout", *(f"head {number + 1}" for number in range(len(heads_HT))))
    value_LHW = whole_LT[:, before:].reshape(-1, rows, columns).astype(np.float32)
    asked = "the class token" if before else "all patches, on average,"
    note = f"Attention of {asked} in the last of {len(weights_LHTT)} blocks, {columns}x{rows} patches"
    return Maps(branch, names, value_LHW, note)


def _attentions(module: "nn.Module") -> dict[str, "nn.Module"]:
    """The attentions in which every patch looks at every other one, by name."""
    from timm.layers import attention
    from timm.models import beit, eva
    from torchvision.models import vision_transformer

    kinds = (attention.Attention, attention.AttentionRope, eva.EvaAttention, beit.Attention)
    found: dict[str, nn.Module] = {name: part for name, part in module.named_modules() if isinstance(part, kinds)}
    blocks = (vision_transformer.EncoderBlock,)
    found |= {
        f"{name}.self_attention": part.self_attention
        for name, part in module.named_modules()
        if isinstance(part, blocks)
    }
    return found


@contextmanager
def _read(module: "nn.Module", calls: "list[tuple[str, Tensor]]") -> Iterator[None]:
    """Inside, each attention adds its name and weights_BHTT to `calls`; fused ones never form them, so they are not."""
    from torch import nn

    with ExitStack() as stack:
        for name, part in _attentions(module).items():
            if isinstance(part, nn.MultiheadAttention):
                hooks = [
                    part.register_forward_pre_hook(_with_weights, with_kwargs=True),
                    part.register_forward_hook(_adding(calls, name, lambda given, answer: answer[1])),
                ]
            else:
                attention: Any = part
                stack.callback(setattr, attention, "fused_attn", attention.fused_attn)
                attention.fused_attn = False
                # In evaluation this dropout gives on what it is given: the weights after softmax.
                hooks = [attention.attn_drop.register_forward_hook(_adding(calls, name, lambda given, answer: answer))]
            for hook in hooks:
                stack.callback(hook.remove)
        yield


def _with_weights(module: "nn.Module", given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return given, {**named, "need_weights": True, "average_attn_weights": False}


def _adding(
    calls: "list[tuple[str, Tensor]]", name: str, weights: Callable[[Any, Any], "Tensor"]
) -> Callable[..., None]:
    def hook(module: "nn.Module", given: Any, answer: Any) -> None:
        calls.append((name, weights(given, answer).detach()))

    return hook


def _by_branch(calls: "list[tuple[str, Tensor]]") -> "list[list[Tensor]]":
    """The weights of each look at a row: a new one begins where an attention is asked again, or another network is."""
    parts: list[list[Tensor]] = []
    seen: set[str] = set()
    network = ""
    for name, weights in calls:
        owner = name.rpartition("blocks")[0] or name.rpartition("layers")[0]
        if not parts or name in seen or owner != network:
            parts.append([])
            seen, network = set(), owner
        parts[-1].append(weights)
        seen.add(name)
    return parts
