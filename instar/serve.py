"""A model + a browser on this machine -> answers to images that are dropped on a page.

Bound to 127.0.0.1, and every address holds a token that is printed once: on a machine that many people share, each of
them can reach each port. What comes in is a picture of at most MOST_BYTES, decoded with all of the readers' limits.
"""

import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from instar import exported
from instar.contract import EMBEDDING, PIXELS
from instar.errors import ConfigError, DataError
from instar.exported import Answer, Model
from instar.report import servepage

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MOST_BYTES = 32 * 2**20
Look = Callable[[np.ndarray], list[tuple[str, str, np.ndarray]]]
_KINDS = ("image/", "application/octet-stream")


def serve(model: Model, *, look: Look | None = None, port: int = 0, told: Callable[[str], None]) -> None:
    """Serve the page until the process is told to stop.

    look   what says where in an image a model looked; None where nothing does
    port   0 for one that is free
    told   told the address, once it answers
    Raises ConfigError where the port is taken, or the model looks at something else than pictures.
    """
    import uvicorn

    if model.contract.dtype != "uint8" or model.contract.channels not in (1, 3):
        raise ConfigError(
            "this model looks at fields of numbers, which cannot be dropped on a page. See: instar predict"
        )
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}). Leave port out for a free one."
            ) from error
        number, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        application = app(model, look=look, token=token, hosts=(f"127.0.0.1:{number}", f"localhost:{number}"))
        settings = uvicorn.Config(application, log_level="error", access_log=False, lifespan="off")
        listening.listen(16)  # from here on the address answers
        told(f"http://127.0.0.1:{number}/{token}/")
        uvicorn.Server(settings).run(sockets=[listening])


def app(model: Model, *, look: Look | None, token: str, hosts: tuple[str, ...]) -> "Starlette":
    """The application: a page at /TOKEN/, and answers to bytes that are posted to /TOKEN/answer. Nothing else.

    hosts   what a browser may call this server: another name that leads here is somebody's trick
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route

    text, policy = servepage.page(model.contract)
    one_at_a_time = threading.Lock()

    def allowed(request: "Request") -> bool:
        given = request.path_params["token"].encode("utf-8", "replace")
        return request.headers.get("host") in hosts and secrets.compare_digest(given, token.encode())

    def locked(data: bytes) -> dict[str, Any]:
        with one_at_a_time:
            return answered(model, data, look)

    def sent(response: "Response") -> "Response":
        response.headers.update({
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        })  # fmt: skip
        return response

    def refused(status: int, why: str) -> "Response":
        return sent(JSONResponse({"error": why}, status))

    async def page(request: "Request") -> "Response":
        return sent(HTMLResponse(text)) if allowed(request) else refused(404, "there is nothing here")

    async def answer(request: "Request") -> "Response":
        if not allowed(request):
            return refused(404, "there is nothing here")
        if not request.headers.get("content-type", "").startswith(_KINDS):
            return refused(415, "That is not an image.")
        try:
            data = await _all_of(request.stream(), most=MOST_BYTES)
            return sent(JSONResponse(await run_in_threadpool(locked, data)))
        except _TooMuch:
            return refused(413, f"That file is larger than {MOST_BYTES // 2**20} MB.")
        except (DataError, MemoryError) as error:
            return refused(422, f"That cannot be read: {error}." if str(error) else "That image needs too much memory.")

    made = Starlette(
        routes=[Route("/{token}/", page, methods=["GET"]), Route("/{token}/answer", answer, methods=["POST"])]
    )
    made.router.redirect_slashes = False  # a redirect would tell which addresses there are
    return made


def answered(model: Model, data: bytes, look: Look | None = None) -> dict[str, Any]:
    """What the page is told about an image. Raises DataError where the bytes are none."""
    began = time.perf_counter()
    said = model.answer(exported.seen(data, model.contract))
    seconds = time.perf_counter() - began
    image_HWC = exported.looked_at(data, model.contract)
    maps = look(image_HWC) if look is not None and model.contract.answers != PIXELS else []
    return servepage.told(model.contract, image_HWC, _pairs(model, said), maps=maps, seconds=seconds)


def _pairs(model: Model, said: Answer) -> dict[str, Any]:
    if model.contract.answers == PIXELS:
        return {"pairs": said.shares, "mask": said.mask_HW}
    if model.contract.answers == EMBEDDING:
        assert said.embedding_D is not None, "the contract says so"
        length = float(np.linalg.norm(said.embedding_D))
        return {"pairs": [], "title": f"{len(said.embedding_D)} numbers, length {length:.3g}"}
    return {"pairs": said.ranking}


class _TooMuch(Exception):
    """More bytes came than anybody asked for."""


async def _all_of(stream: AsyncIterator[bytes], *, most: int) -> bytes:
    parts, size = [], 0
    async for part in stream:
        size += len(part)
        if size > most:
            raise _TooMuch
        parts.append(part)
    return b"".join(parts)
