"""Pictures as data: addresses, for pages that open without their files."""

import base64
import io

from PIL import Image


def of_image(image: Image.Image, form: str, *, quality: int) -> str:
    """An image, written as a JPEG or PNG."""
    buffer = io.BytesIO()
    image.save(buffer, form, quality=quality, optimize=True)
    return of_bytes(buffer.getvalue(), form)


def of_bytes(data: bytes, form: str) -> str:
    """The bytes of a file of this form."""
    return f"data:image/{form.lower()};base64,{base64.b64encode(data).decode('ascii')}"
