"""The page of what mattered in some images: each with its maps laid over it, and sliders.

Legend: H W pixels or places, L maps.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

import instar
from instar.report import html, sprites
from instar.report.blocks import Facts, Note, Overlays, Page, Section, Seen, Text

LEADS = {
    "attention": "Where the network looks. Attention says what a block reads, not what its answer hangs on.",
    "gradcam": "What speaks for a class, as coarse as the network's last map of features.",
}


def seen(
    image_HW3: np.ndarray,
    value_LHW: np.ndarray,
    *,
    names: Sequence[str],
    row: str,
    answer: tuple[str, str],
    truth: str = "",
    branch: str = "",
) -> Seen:
    """An image with its maps."""
    tiny = max(image_HW3.shape[:2]) <= 64
    return Seen(
        image=sprites.address(image_HW3, "PNG" if tiny else "JPEG"),
        over=sprites.address(overlay(image_HW3, value_LHW[0]), "JPEG"),
        name=row,
        answer=answer,
        truth=truth,
        maps=tuple((name, sprites.address(grey(value), "PNG")) for name, value in zip(names, value_LHW, strict=True)),
        peak=tuple(float(value.max()) for value in value_LHW),
        branch=branch,
        tiny=tiny,
    )


def grey(value_HW: np.ndarray) -> np.ndarray:
    """A map as an image, uint8: its largest value is white, and nothing is black."""
    peak = float(value_HW.max())
    share_HW = value_HW / peak if peak > 0 else np.zeros_like(value_HW)
    return np.rint(255 * share_HW.clip(0, 1)).astype(np.uint8)


def overlay(image_HW3: np.ndarray, value_HW: np.ndarray) -> np.ndarray:
    """The image, dark where nothing mattered, for those who see the page without its sliders."""
    height, width = image_HW3.shape[:2]
    large = Image.fromarray(grey(value_HW)).resize((width, height), Image.Resampling.BILINEAR)
    share_HW1 = np.asarray(large, np.float32)[..., None] / 255
    return np.rint(image_HW3 * (0.25 + 0.75 * share_HW1)).astype(np.uint8)


def page(
    name: str, shown: Sequence[Seen], *, method: str, about: Mapping[str, Any], notes: Sequence[str], lead: str
) -> Page:
    """The page of a run's explanations."""
    names = tuple(dict.fromkeys(map_name for one in shown for map_name, _ in one.maps))
    silent = [one.name for one in shown if one.peak[0] == 0]
    said = [Note(note) for note in notes]
    if silent:
        said.append(Note(f"In {len(silent)} of the images nothing speaks for it: {', '.join(silent[:5])}"))
    return Page(
        title=name,
        lead=lead,
        sections=(
            Section("", (*said, Overlays(tuple(shown), names), Text(LEADS.get(method, "")))),
            Section("Lineage", (Facts(tuple(about.items())),), "What this was made from."),
        ),
        kicker=f"Instar explanation · {method} · {about['checkpoint']}",
        foot=f"Made by Instar {instar.__version__}, {time.strftime('%Y-%m-%d %H:%M %Z')}. This file is complete in "
        f"itself; the maps as numbers lie beside it.",
    )


def sentence(rows: int, method: str, *, branches: Sequence[str]) -> str:
    """What the page shows, in a sentence."""
    how = {"attention": "where the network looks", "gradcam": "what speaks for its answer"}.get(method, method)
    of = f", in {' and '.join(branches)}" if len(branches) > 1 else ""
    return f"{html.number(rows)} {'image' if rows == 1 else 'images'}{of}: {how}."
