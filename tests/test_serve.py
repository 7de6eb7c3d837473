"""The page on localhost: whoever has its address sees answers; everybody and everything else is turned away."""

import http.client
import io
import json
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from instar import cli, serve
from instar.contract import Contract
from instar.errors import ConfigError
from instar.exported import Model
from tests.report.browser import CHROMIUM, Browser

LABELS = ("it's <b>red</b>", "green\u202e", "blue")
PHOTOS = Contract("classes", LABELS, 3, "uint8", 16, 16, None, False, "area", 18, 16, run="a <run> & more")


def colours(image_BHWC):
    """Probabilities that are the shares of the three colours."""
    share_BK = image_BHWC.astype(np.float64).mean((1, 2)) + 1e-6
    return {"probability": (share_BK / share_BK.sum(1, keepdims=True)).astype(np.float32)}


def picture(colour=(200, 40, 10), size=(40, 30), ending="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, ending)
    return buffer.getvalue()


@contextmanager
def served(model, look=None):
    """A server in a thread of this process; gives its address."""
    import uvicorn

    started, address = threading.Event(), []

    def told(text):
        address.append(text)
        started.set()

    made = []
    plain = uvicorn.Server

    class Watched(plain):
        def __init__(self, config):
            super().__init__(config)
            made.append(self)

        def install_signal_handlers(self):
            """Not in a thread."""

    uvicorn.Server = Watched
    thread = threading.Thread(target=lambda: serve.serve(model, look=look, told=told), daemon=True)
    try:
        thread.start()
        assert started.wait(30)
        yield address[0]
    finally:
        uvicorn.Server = plain
        while not made:
            pass
        made[0].should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def address():
    with served(Model(PHOTOS, colours)) as found:
        yield found


def ask(address, path, data=None, *, host=None, kind="image/png"):
    """Status, headers and body of an answer."""
    place = address.removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(place, timeout=30)
    headers = {"Host": host or place, **({"Content-Type": kind} if data is not None else {})}
    connection.request("GET" if data is None else "POST", path, body=data, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.headers), answer.read()
    connection.close()
    return found


def token_of(address):
    return "/" + address.partition("://")[2].partition("/")[2]


def test_an_image_gets_its_classes_and_what_the_model_saw(address):
    status, _, body = ask(address, f"{token_of(address)}answer", picture())
    said = json.loads(body)
    assert status == 200 and said["rows"][0]["name"] == "it's <b>red</b>"
    assert said["rows"][0]["share"] == pytest.approx(200 / 250, abs=0.01)
    assert said["picture"].startswith("data:image/") and said["tiny"]
    assert "16 x 16 pixels" in said["how"] and said["rows"][1]["name"] == "green\\u202e"


def test_nobody_without_the_token_gets_anything(address):
    for path in ("/", "/answer", "/wrong/", "/wrong/answer", "/%C3%A9/", "/docs", "/openapi.json"):
        assert ask(address, path)[0] in (404, 405)
    assert ask(address, "/wrong/answer", picture())[0] == 404
    # A page elsewhere whose name leads to 127.0.0.1 has another host.
    assert ask(address, token_of(address), host="evil.example")[0] == 404
    assert len(token_of(address)) > 30 and address.startswith("http://127.0.0.1:")


def test_what_comes_in_is_checked(address):
    where = f"{token_of(address)}answer"
    bomb = io.BytesIO()
    Image.new("1", (30000, 30000)).save(bomb, "PNG")
    for data, kind, status, words in [
        (b"no image", "image/png", 422, "not an image"),
        (b"", "image/png", 422, "empty file"),
        (picture()[:50], "image/png", 422, "cannot be"),
        (picture(), "text/html", 415, "not an image"),
        (bytes(serve.MOST_BYTES + 1), "image/png", 413, "larger than 32 MB"),
        (bomb.getvalue(), "image/png", 422, "more pixels than may be decoded"),
    ]:
        found, _, body = ask(address, where, data, kind=kind)
        assert found == status and words in json.loads(body)["error"], words


def test_the_page_may_speak_to_its_server_only(address):
    status, headers, body = ask(address, token_of(address))
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
    assert b"a &lt;run&gt; &amp; more" in body and b"http" not in body.replace(b"http-equiv", b"")


def test_pixels_are_shown_in_their_colours():
    def halves(image_BHWC):
        mask_BHW = np.zeros(image_BHWC.shape[:3], np.uint8)
        mask_BHW[:, :, image_BHWC.shape[2] // 2 :] = 2
        return {"probability": np.zeros((len(mask_BHW), 3, *mask_BHW.shape[1:]), np.float32), "mask": mask_BHW}

    contract = Contract("pixels", LABELS, 3, "uint8", None, None, None, False, "window", 16, 16)
    said = serve.answered(Model(contract, halves), picture())
    assert [(row["name"], row["share"]) for row in said["rows"][:2]] == [("it's <b>red</b>", 0.5), ("blue", 0.5)]
    assert said["rows"][1]["colour"].startswith(("#", "rgb"))


def test_where_it_looked_lies_over_the_image():
    corner = np.zeros((4, 4), np.float32)
    corner[0, 0] = 1
    said = serve.answered(Model(PHOTOS, colours), picture(), lambda image_HWC: [("corner", "by <hand>", corner)])
    assert said["overlay"].startswith("data:image/") and said["overlay"] != said["picture"]
    assert said["note"] == "by <hand>" and serve.answered(Model(PHOTOS, colours), picture())["overlay"] == ""


def test_a_run_shows_where_it_looked(tmp_path):
    from instar import predict
    from instar.engine import looking, trained
    from tests.fakes.training import train

    learnt = trained.load(
        train(tmp_path, model={"kind": "resnet9", "width": 8}, augment={"size": 16}, train__epochs=1).run
    )
    said = serve.answered(predict.of_trained(learnt), picture(), lambda image_HWC: looking.maps(learnt, image_HWC))
    assert said["overlay"].startswith("data:image/") and "Grad-CAM" in said["note"]
    assert len(said["rows"]) == 3


def test_what_cannot_be_served_is_said(tmp_path, capsys):
    field = Contract("pixels", LABELS, 4, "float32", None, None, None, False, "whole", 16, 16)
    with pytest.raises(ConfigError, match="fields of numbers"):
        serve.serve(Model(field, colours), told=lambda address: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with pytest.raises(ConfigError, match="cannot be used"):
            serve.serve(Model(PHOTOS, colours), port=taken.getsockname()[1], told=lambda address: None)
    assert cli.main(["serve", "gone", f"runs={tmp_path}"]) == 65
    assert cli.main(["serve", "gone", "port=http"]) == 65


DROP = """new Promise(done => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 60, height: 40 });
  const pen = canvas.getContext("2d"); pen.fillStyle = "rgb(10,20,220)"; pen.fillRect(0, 0, 60, 40);
  canvas.toBlob(blob => {
    const data = new DataTransfer(); data.items.add(new File([blob], "it's <a> file.png", { type: "image/png" }));
    new MutationObserver(() => done(document.getElementById("first").textContent))
      .observe(document.getElementById("first"), { childList: true });
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  });
})"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
def test_in_a_browser_an_image_is_dropped_and_answered(address, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=address)
        browser._until(lambda message: message.get("method") == "Page.loadEventFired")
        assert browser.run(DROP).startswith("blue88.0")
        assert browser.run("document.querySelectorAll('#classes li').length") == 3
        assert browser.run("document.querySelectorAll('#classes li')[2].textContent").startswith("it's <b>red</b>")
        assert browser.run("document.getElementById('image').naturalWidth") == 16
        wrong = """new Promise(done => {
          const data = new DataTransfer(); data.items.add(new File(["no image"], "x.png", { type: "image/png" }));
          new MutationObserver(() => done(document.getElementById("wrong").textContent))
            .observe(document.getElementById("wrong"), { childList: true });
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        })"""
        assert "not an image" in browser.run(wrong)
        complaints = [one for one in browser.complaints if "422" not in one]
        assert complaints == [] and all(url.startswith((address, "data:")) for url in browser.requests)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
def test_in_a_browser_where_it_looked_can_be_put_away_and_brought_back(tmp_path):
    corner = np.zeros((16, 16), np.float32)
    corner[0, 0] = 1
    shown = (
        "[document.getElementById('toggle').getBoundingClientRect().width > 0, document.getElementById('image').src]"
    )
    with (
        served(Model(PHOTOS, colours), lambda image_HWC: [("corner", "by hand", corner)]) as address,
        Browser(tmp_path / "profile") as browser,
    ):
        browser.call("Page.navigate", url=address)
        browser._until(lambda message: message.get("method") == "Page.loadEventFired")
        assert browser.run(shown)[0] is False, "nothing is there to look at yet"
        browser.run(DROP)
        visible, over = browser.run(shown)
        assert visible
        browser.run("document.getElementById('toggle').click()")
        plain = browser.run(shown)[1]
        browser.run("document.getElementById('toggle').click()")
        assert plain != over and browser.run(shown)[1] == over
