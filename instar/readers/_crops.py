"""Crops: the views of a row that a task learns from. Each is a function of (seed, epoch, row, view) and nothing else.

Legend: V views, H W pixels, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from PIL import Image

from instar.augment import Augment, Crops
from instar.readers import _halves, _views
from instar.readers._halves import Region, Scale
from instar.readers._pixels import Form
from instar.readers._views import View

_LOCAL = 1 << 8  # views before the first local one
_BRANCH = 1 << 9  # views of one branch, where each branch is cropped by itself


@dataclass(frozen=True)
class Whole:
    """One picture or array of a row, as it is in its file, and what is to become of it.

    bounds   temperatures that part it into three channels; None for none
    """

    one: "Image.Image | np.ndarray"
    region: Region
    form: Form
    scale: Scale = field(default_factory=Scale)
    bounds: Sequence[float] | None = None

    @cached_property
    def is_picture(self) -> bool:
        return isinstance(self.one, Image.Image) or self.one.dtype == np.uint8

    def seen(self, views: Sequence[View], size: int) -> np.ndarray:
        """The views of it, V x size x size x C: uint8 of a picture, float32 of numbers."""
        if self.is_picture:
            return _halves.shown(self.one, views, replace(self.form, size=size))
        assert isinstance(self.one, np.ndarray), "what is no picture is an array"
        return np.stack([_halves.measured(self.one, view, size, self.scale, self.bounds) for view in views])


def of_view(draw: np.random.Generator, view: int) -> np.random.Generator:
    """The generator of one view of a showing: the same whatever the other views drew."""
    state = draw.bit_generator.state["state"]
    counter, key = state["counter"].copy(), state["key"]
    counter[0] = view << 32
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def training(
    wholes: Mapping[str, Whole], crops: Crops, augment: Augment, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """The views of a row by branch: `image` HWC, or VHWC where there are several; and `image_local` VHWC."""
    made = {}
    for name, number, settings in (
        ("", crops.views, augment),
        ("_local", crops.local, augment.model_copy(update={"crop": "area", "scale": crops.local_scale})),
    ):
        first = _LOCAL if name else 0
        by_branch = _views_of(wholes, settings, draw, range(first, first + number), together=crops.together)
        for branch, views in by_branch.items() if number else ():
            size = wholes[branch].form.size
            size = max(8, round(crops.local_size * size / augment.size)) if name else size
            seen = wholes[branch].seen(views, size)
            made[branch + name] = seen if name or number > 1 else seen[0]
    return made


def evaluation(wholes: Mapping[str, Whole], crops: Crops | None, augment: Augment, row: int) -> dict[str, np.ndarray]:
    """What evaluation sees of a row; where there is one branch only, also how it looks in training (`again`)."""
    first = next(iter(wholes.values())).region
    base = _halves.drawn(augment, first, None)
    made = {
        branch: whole.seen([_halves.carried(base, first, whole.region, ratio=1)], whole.form.size)[0]
        for branch, whole in wholes.items()
    }
    if crops is not None and len(wholes) == 1:
        # Of no epoch of a training, and the same at every evaluation.
        fixed = np.random.Generator(np.random.Philox(counter=[0, 0, row, 0], key=np.array([0, 2**64 - 1], np.uint64)))
        (branch,) = wholes
        made["again"] = training(wholes, replace(crops, views=1, local=0), augment, fixed)[branch]
    return made


def _views_of(
    wholes: Mapping[str, Whole], augment: Augment, draw: np.random.Generator, numbers: range, *, together: bool
) -> dict[str, list[View]]:
    """The views of every branch. Where branches move together, what one shows of the scene the other does."""
    found: dict[str, list[View]] = {branch: [] for branch in wholes}
    for number in numbers:
        first: tuple[View, Region] | None = None
        for at, (branch, whole) in enumerate(wholes.items()):
            own = of_view(draw, number + _BRANCH * at)
            if first is None or not together:
                view = _halves.drawn(augment, whole.region, own)
                first = (view, whole.region)
                ratio = whole.form.size / augment.size
                found[branch].append(_halves.carried(view, whole.region, whole.region, ratio=ratio))
            else:
                ratio = whole.form.size / augment.size
                view = _halves.carried(first[0], first[1], whole.region, ratio=ratio)
                found[branch].append(replace(view, colour=_views.random_colour(augment, own)))
    return found
