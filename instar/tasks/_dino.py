"""DINO's head, loss and schedules. Caron et al. 2021, https://arxiv.org/abs/2104.14294, algorithm 1 and appendix.

Legend: B rows, D features, P prototypes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Head(nn.Module):
    """Three layers, vectors of length 1, and prototypes they are compared with.

    unit   whether the prototypes keep length 1 too (`norm_last_layer` of the original)
    """

    def __init__(self, features: int, prototypes: int, *, hidden: int, bottleneck: int, layers: int, unit: bool):
        super().__init__()
        sides = [features, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for place in range(layers):
            parts += [nn.Linear(sides[place], sides[place + 1])]
            parts += [nn.GELU()] if place < layers - 1 else []
        self.layers = nn.Sequential(*parts)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Weight normalisation written out: its direction, and a length that only learns where prototypes have any.
        self.direction = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.kaiming_uniform_(self.direction, a=math.sqrt(5))
        self.length = nn.Parameter(torch.ones(prototypes, 1), requires_grad=not unit)

    def forward(self, feature_BD: Tensor, *, frozen: bool = False) -> Tensor:
        """logits_BP. frozen: the prototypes get a gradient of zero."""
        unit_BD = functional.normalize(self.layers(feature_BD), dim=-1)
        prototype_PD = self.length * functional.normalize(self.direction, dim=-1)
        if frozen:  # a gradient of zero, and not none: DDP waits for every one
            prototype_PD = prototype_PD.detach() + 0.0 * prototype_PD
        return functional.linear(unit_BD, prototype_PD)


def cross_entropy(
    student: Sequence[Tensor], teacher: Sequence[Tensor], centre_P: Tensor, *, warmth: float, teacher_warmth: float
) -> Tensor:
    """The mean over rows and over pairs of different views of H(teacher, student).

    student   logits_BP of each view, the teacher's views first
    teacher   logits_BP of its views
    warmth    temperature of the student, and `teacher_warmth` of the teacher, whose logits are centred
    """
    target = [functional.softmax((one.float() - centre_P) / teacher_warmth, dim=-1).detach() for one in teacher]
    guess = [functional.log_softmax(one.float() / warmth, dim=-1) for one in student]
    terms = [
        -(target_BP * guess_BP).sum(-1).mean()
        for at, target_BP in enumerate(target)
        for view, guess_BP in enumerate(guess)
        if view != at
    ]
    return torch.stack(terms).mean()


def rising(begin: float, end: float, share: float) -> float:
    """From `begin` to `end` along half a cosine, `share` of the way; the teacher's momentum."""
    return end + 0.5 * (begin - end) * (1 + math.cos(math.pi * min(1.0, share)))


def warmed(begin: float, end: float, done: float, length: float) -> float:
    """From `begin` to `end` in a straight line over `length`, of which `done` is behind us: the temperature."""
    return end if done >= length else begin + (end - begin) * done / length


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher towards the student: weights by the momentum. Running statistics are each one's own."""
    own: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    torch._foreach_lerp_(own, theirs, 1 - momentum)


def keep_everything(module: nn.Module) -> None:
    """Let nothing be dropped in the module any more, features or blocks: a teacher does not guess."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif type(part).__name__ == "DropPath":  # timm's, which is imported in models/ only
            part.drop_prob = 0.0  # type: ignore[assignment]
