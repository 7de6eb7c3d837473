"""Previews: small pictures of what a network was shown, for pages that never ask for the images again.

Legend: H W pixels, C channels.
"""

import io

import numpy as np
from PIL import Image

QUALITY = 78
# From dark to light, for numbers that are no colours: as readable in grey and to the colour-blind.
_SCALE = np.array([[13, 27, 62], [30, 92, 130], [92, 160, 150], [214, 216, 160], [252, 250, 232]], np.float32)


def jpeg(image_HWC: np.ndarray, *, side: int) -> bytes:
    """A JPEG of an image, of at most `side` pixels; of a field, its first channel from dark to light."""
    if image_HWC.dtype == np.uint8 and image_HWC.shape[2] in (1, 3):
        image = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else np.ascontiguousarray(image_HWC))
    else:
        image = Image.fromarray(_coloured(image_HWC[..., 0].astype(np.float32)))
    image.thumbnail((side, side), reducing_gap=2.0)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _coloured(value_HW: np.ndarray) -> np.ndarray:
    """Numbers as colours, from the 1st to the 99th of a hundred; uint8 HW3."""
    low, high = np.percentile(value_HW, (1, 99))
    place_HW = ((value_HW - low) / (high - low if high > low else 1)).clip(0, 1) * (len(_SCALE) - 1)
    below_HW = place_HW.astype(int).clip(max=len(_SCALE) - 2)
    share_HW1 = (place_HW - below_HW)[..., None]
    return np.rint(_SCALE[below_HW] * (1 - share_HW1) + _SCALE[below_HW + 1] * share_HW1).astype(np.uint8)
