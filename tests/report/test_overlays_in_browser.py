"""The page of explanations in headless Chromium: maps are where they belong, and the sliders do what they say."""

import numpy as np
import pytest

from instar.report import explainpage, html
from tests.report.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")

# Of a quarter of the first canvas: how opaque it is on average.
OPAQUE = """((top, left) => { const c = document.querySelector('.seen canvas'); const [w, h] = [c.width / 2, c.height / 2];
    const d = c.getContext('2d').getImageData(left * w, top * h, w, h).data; let sum = 0;
    for (let i = 3; i < d.length; i += 4) sum += d[i]; return sum / (w * h); })"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    image = np.full((96, 96, 3), 90, np.uint8)
    corner = np.zeros((2, 4, 4), np.float32)
    corner[0, :2, :2], corner[1, 2:, 2:] = 1.0, 0.5
    seen = [
        explainpage.seen(
            image, corner * scale, names=("a", "b"), row=f"<i>{scale}</i>\n.png", answer=("x", "9 %"), truth="y"
        )
        for scale in (1.0, 0.25)
    ]
    about = {"run": "it's", "checkpoint": "best"}
    built = explainpage.page("it's <b>", seen, method="attention", about=about, notes=["careful"], lead="two images.")
    return html.write(built, tmp_path_factory.mktemp("it's a page") / "page.html")


def set_to(browser: Browser, selector: str, value: object) -> None:
    browser.run(
        f"(e => {{ e.type === 'checkbox' ? e.checked = {str(value).lower()} : e.value = '{value}';"
        f" e.dispatchEvent(new Event('input')); }})(document.querySelector('{selector}'))"
    )
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_a_map_lies_where_it_was_found_and_follows_the_sliders(browser, page):
    browser.open(page)
    browser.run("new Promise(done => setTimeout(done, 300))")
    there, away = browser.run(f"{OPAQUE}(0, 0)"), browser.run(f"{OPAQUE}(1, 1)")
    assert there > 100 and away < 10
    set_to(browser, ".opacity", 10)
    assert 0 < browser.run(f"{OPAQUE}(0, 0)") < there / 3
    set_to(browser, ".opacity", 65)
    set_to(browser, ".which", "b")
    assert browser.run(f"{OPAQUE}(0, 0)") < 10 and browser.run(f"{OPAQUE}(1, 1)") > 100
    set_to(browser, ".threshold", 95)
    assert browser.run(f"{OPAQUE}(1, 1)") < there
    assert browser.run("document.querySelector('output').textContent") == "95\u202f%"
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.complaints == []


def test_on_one_scale_a_weaker_map_is_fainter(browser, page):
    browser.open(page)
    browser.run("new Promise(done => setTimeout(done, 300))")
    second = OPAQUE.replace("document.querySelector('.seen canvas')", "document.querySelectorAll('.seen canvas')[1]")
    before = browser.run(f"{second}(0, 0)")
    set_to(browser, ".alike", True)
    assert 0 < browser.run(f"{second}(0, 0)") < 0.7 * before


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out_at_any_width(browser, page, width):
    browser.resize(width, 900)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.resize(1280, 900)


def test_without_javascript_the_overlays_are_there(browser, page):
    browser.open(page, javascript=False)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    text = browser.run("document.body.innerText")
    assert "Opacity" not in text and "careful" in text and "is y" in text
    # The image of the first map: light where it mattered, dark where nothing did.
    over, plain = explainpage.overlay(np.full((8, 8, 3), 100, np.uint8), np.eye(2, dtype=np.float32)), 100
    assert over[0, 0, 0] > 0.9 * plain and over[0, 7, 0] < 0.4 * plain
