"""The page to drop an image on, and what it is told about one; in the design of the run page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instar.contract import CLASSES, PIXELS, Contract
from instar.report import explainpage, html
from instar.report.overlays import colour_of, css, overlay
from instar.report.pixels import address

_MOST = 10  # classes that are shown
_TINY = 64  # pixels a side up to which a picture is shown with its pixels


def page(contract: Contract) -> tuple[str, str]:
    """The page, and the content policy it goes with: it may speak to its own server and to nobody else."""
    number = len(contract.labels)
    what = {
        CLASSES: f"Tells {number} classes apart.",
        PIXELS: f"Gives each pixel one of {number} classes.",
    }.get(contract.answers, "Gives an image a vector.")
    facts = {
        "contract": contract,
        "lead": f"{what} Images stay on this machine, and nothing is kept of them.",
        "foot": f"{contract.made_by or 'Instar'}, weights {contract.checkpoint}, stored as {contract.stored}.",
    }
    return html.standalone("serve", facts, connects=True)


def told(
    contract: Contract,
    image_HWC: np.ndarray,
    answer: Mapping[str, Any],
    *,
    maps: Sequence[tuple[str, str, np.ndarray]] = (),
    seconds: float,
) -> dict[str, Any]:
    """What the page shows of an answer, as plain values.

    image_HWC   what the model looked at
    answer      ranking or shares as pairs, and mask_HW where there is one
    maps        name, note and value_HW of what mattered
    """
    image_HW3 = np.repeat(image_HWC[..., :1], 3, axis=2) if image_HWC.shape[2] != 3 else image_HWC
    mask_HW, rows = answer.get("mask"), []
    for name, share in answer["pairs"][:_MOST]:
        number = contract.labels.index(name)
        colour = css(colour_of(number)) if mask_HW is not None and number else ""
        rows.append({"name": html.harmless(name), "share": share, "colour": colour})
    if mask_HW is not None:
        image_HW3 = overlay(image_HW3, mask_HW)
    return {
        "picture": address(image_HW3),
        "overlay": address(explainpage.overlay(image_HW3, maps[0][2])) if maps else "",
        "note": html.harmless(maps[0][1]) if maps else "",
        "tiny": max(image_HW3.shape[:2]) <= _TINY,
        "rows": rows,
        "title": answer.get("title", ""),
        "how": f"In {1000 * seconds:.0f} ms. Beside it is what the model saw: {image_HWC.shape[1]} x "
        f"{image_HWC.shape[0]} pixels.",
    }
