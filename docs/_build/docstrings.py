"""Lets mkdocstrings show our docstrings, which are plain text and no dialect of Google's or NumPy's."""

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from plain import markdown


class Plain(griffe.Extension):
    """Turns lines of names and meanings into lists before they are rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
