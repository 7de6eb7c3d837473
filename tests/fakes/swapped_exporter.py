"""An exporter with the oldest mistake there is: red and blue change places."""

from instar.exporters import onnx
from instar.exporters.onnx import *  # noqa: F403 - all of it, with one mistake
from instar.exporters.onnx import describe, open, store  # noqa: F401


def convert(model, example_BHWC, path, contract):
    from torch import nn

    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model

        def forward(self, image):
            return self.network(image.flip(3))

    onnx.convert(Swapped().eval(), example_BHWC, path, contract)
