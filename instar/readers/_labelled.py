"""Labelled: rows of images with one label each, from files or packed, as `image_label` gives them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from instar import packed
from instar.augment import Augment, Crops
from instar.manifest import Manifest
from instar.packed import Packed
from instar.readers import _crops, _halves, _images, _packed, _pixels, _views
from instar.readers._patience import patiently
from instar.readers._pixels import Form, Show
from instar.readers._views import View

Arrays = dict[str, np.ndarray]


class Reader:
    """Rows of a manifest as samples. Holds no open file, so it can go to any number of worker processes.

    form     what every image becomes
    view     how images are varied
    wanted   how many views a task learns from; None for one
    """

    def __init__(self, form: Form, manifest: Manifest, view: Augment, wanted: Crops | None):
        self._form, self._view, self._wanted = form, view, wanted
        # A row's name straight out of Arrow's memory: ten million names are not copied into every worker.
        self._folder = f"{manifest.root}/"
        self._files = manifest.table["file"].combine_chunks()
        self._targets = manifest.targets
        self._pack: Packed | None = None
        if packed.is_packed(manifest.root):
            self._pack = packed.read(manifest.root)
            self._rows = self._pack.rows_of(manifest.table["file"])

    def read(self, row: int, draw: np.random.Generator | None) -> dict[str, Any]:
        """One sample: `image`, uint8 of size x size x channels, and `label`.

        draw   decides how the image is varied; None for what evaluation sees
        Raises BadImage where the file cannot be read.
        """
        label = int(self._targets[row])
        if self._wanted is not None:
            return {**patiently(lambda: self._views(row, draw)), "label": label}
        return {"image": self._image(row, draw, None), "label": label}

    def read_into(self, row: int, draw: np.random.Generator | None, places: Arrays) -> dict[str, Any]:
        """The same with the arrays put into their places; gives the rest of the sample."""
        if self._wanted is not None:
            sample = self.read(row, draw)
            for name, place in places.items():
                place[...] = sample.pop(name)
            return sample
        return self._put(row, partial(self._image, row, draw), places)

    def begin(self, row: int, draw: np.random.Generator | None) -> Callable[[Arrays], dict[str, Any]] | None:
        """What will do as `read_into`, with the view chosen now; None where `read_into` is to do it.

        Raises as `read` does.
        """
        if self._pack is None or self._wanted is not None:
            return None
        show = _packed.begun(self._pack, int(self._rows[row]), self._choice(draw), self._form)
        return None if show is None else partial(self._put, row, show)

    def _put(self, row: int, show: Show, places: Arrays) -> dict[str, Any]:
        place_HWC = places["image"]
        image_HWC = show(place_HWC)
        if image_HWC is not place_HWC:
            place_HWC[...] = image_HWC
        return {"label": int(self._targets[row])}

    def _choice(self, draw: np.random.Generator | None) -> Callable[[int, int], View]:
        return partial(_views.evaluation if draw is None else partial(_views.training, draw=draw), self._view)

    def _image(self, row: int, draw: np.random.Generator | None, into_HWC: np.ndarray | None) -> np.ndarray:
        choose = _views.once(self._choice(draw))
        pack = self._pack
        if pack is None:
            return patiently(lambda: _pixels.read(self.name(row), choose, self._form, into_HWC))
        stored = int(self._rows[row])
        return patiently(lambda: _packed.viewed(pack, stored, choose, self._form, into_HWC))

    def _views(self, row: int, draw: np.random.Generator | None) -> dict[str, Any]:
        """The views that a task learns from, by the names it looks for."""
        assert self._wanted is not None, "the caller looked"
        data = _images.bytes_of(self.name(row)) if self._pack is None else self._pack.checked(int(self._rows[row]))
        one = _images.of_bytes(data) if bytes(data[:6]) != b"\x93NUMPY" else self._array(row, data)
        width, height = one.shape[1::-1] if isinstance(one, np.ndarray) else _images.upright_size(one)
        wholes = {"image": _crops.Whole(one, _halves.Region(0, 0, width, height), self._form)}
        if draw is None:
            return _crops.evaluation(wholes, self._wanted, self._view, row)
        return _crops.training(wholes, self._wanted, self._view, draw)

    def _array(self, row: int, data: bytes | memoryview) -> np.ndarray:
        assert self._pack is not None, "only packed samples are arrays"
        return self._pack.array(int(self._rows[row]), data)

    def name(self, row: int) -> str:
        """The file of a row, for messages."""
        return self._folder + self._files[row].as_py()
