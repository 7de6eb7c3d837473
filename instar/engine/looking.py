"""What mattered in one image to a learner, by the first explainer that fits its network."""

from typing import Any

import numpy as np

from instar import plugins
from instar.engine.trained import Trained
from instar.errors import ConfigError


def maps(trained: Trained, image_HWC: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Name, note and value_HW of each map, the most telling first; nothing where no explainer fits.

    image_HWC   the pixels that the network sees
    """
    import torch

    learner, device = trained.learner, trained.plan.device
    batch: dict[str, Any] = {
        "image": torch.from_numpy(np.array(image_HWC)[None]).to(device),
        "label": torch.full((1,), -1, device=device),
    }
    with torch.inference_mode():
        answer = learner.answer(batch["image"])
    classes = [(int(answer["probability"].argmax()),)] if answer.get("probability", batch["label"]).ndim == 2 else None
    for kind in plugins.kinds("explainers"):
        explainer = plugins.load("explainers", kind)
        if explainer.reason_against(learner.module):
            continue
        try:
            (found,) = explainer.explain(learner, batch, layer=None, classes=classes)
        except ConfigError:  # a network of which this explainer knows no map
            continue
        return [(name, one.note, value) for one in found for name, value in zip(one.names, one.value_LHW, strict=True)]
    return []
