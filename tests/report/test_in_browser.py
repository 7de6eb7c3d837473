"""The run page in headless Chromium: what a reader does with it, and that nobody else hears of it."""

import re
from pathlib import Path

import pytest

from instar.report import html
from tests.report import made
from tests.report.browser import CHROMIUM, Browser

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return made.page(tmp_path_factory.mktemp('it\'s "a" page #1'))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@needs_chromium
def test_the_page_asks_for_nothing_and_complains_of_nothing(browser, page):
    browser.open(page)
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.complaints == []
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@needs_chromium
def test_an_injected_script_would_not_run(browser, page):
    browser.open(page)
    inject = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')"
    browser.run(f"{inject}; new Promise(done => setTimeout(done, 200))")
    assert browser.run("window.hacked === undefined") is True
    assert browser.complaints and not [url for url in browser.requests if url.startswith("http")]
    browser.complaints.clear()


@needs_chromium
def test_a_cell_opens_its_pictures_and_back_brings_the_list(browser, page):
    browser.open(page)
    cell, count, name = browser.run(
        "(a => [a.dataset.cell, Number(a.textContent), a.title])(document.querySelector('.matrix a.wrong'))"
    )
    browser.run("document.querySelector('.matrix a.wrong').click()")
    shown = browser.run("[...document.querySelectorAll('.chosen .picture')].map(p => p.dataset.cell)")
    assert shown == [cell] * count
    assert browser.run("document.querySelector('.chosen h3').textContent") == name
    assert browser.run("document.querySelector('.pairs').hidden") is True
    assert browser.run("document.querySelector('.chosen').offsetHeight > 100") is True
    browser.run("document.querySelector('.back').click()")
    assert browser.run("[document.querySelector('.pairs').hidden, document.querySelector('.chosen').hidden]") == [
        False,
        True,
    ]


@needs_chromium
def test_keys_do_what_the_mouse_does(browser, page):
    browser.open(page)
    browser.run("document.querySelector('.matrix a').focus()")
    before = browser.run("document.activeElement.dataset.cell")
    _press(browser, "ArrowRight")
    if browser.run("document.activeElement.dataset.cell") == before:
        _press(browser, "ArrowDown")
    assert browser.run("document.activeElement.dataset.cell") != before
    _press(browser, "Enter")
    assert browser.run("document.querySelector('.chosen').hidden") is False
    _press(browser, "Escape")
    assert browser.run("document.querySelector('.chosen').hidden") is True


@needs_chromium
def test_a_picture_opens_with_its_probabilities_and_closes(browser, page):
    browser.open(page)
    browser.run("document.querySelector('.look').focus()")
    _press(browser, "Enter")
    assert browser.run("document.querySelector('dialog').open") is True
    assert browser.run("document.querySelectorAll('dialog .ranking li').length") == 3
    assert browser.run("document.querySelector('dialog .ranking').offsetHeight > 20") is True
    _press(browser, "Escape")
    assert browser.run("document.querySelector('dialog').open") is False


@needs_chromium
def test_without_javascript_everything_can_be_read(browser, page):
    browser.open(page, javascript=False)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("document.documentElement.classList.contains('js')") is False
    text = browser.run("document.body.innerText")
    for words in ("accuracy", "<script>alert(1)</script>", "We trained resnet18", "Most frequent confusions"):
        assert words in text
    assert "Choose a cell" not in text  # nothing is promised that would not happen
    links = "[...document.querySelectorAll('.matrix a.wrong')]"
    assert browser.run(f"{links}.every(link => document.getElementById(link.hash.slice(1)))") is True


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out_at_any_width(browser, page, width):
    browser.resize(width, 900)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.resize(1280, 900)


@needs_chromium
def test_dark_and_light_follow_the_reader(browser, page):
    browser.open(page)
    colours = {}
    for scheme in ("dark", "light"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        ground = browser.run("getComputedStyle(document.body).backgroundColor")
        colours[scheme] = ground, browser.run("getComputedStyle(document.querySelector('.chart svg text')).fill")
    assert colours["dark"][0] != colours["light"][0] and colours["dark"][1] != colours["light"][1]


def test_every_colour_of_text_can_be_read_on_its_ground():
    style = Path(html.TEMPLATES, "page.css").read_text(encoding="utf-8")
    for part in style.split("prefers-color-scheme: dark"):
        theme = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part))
        for name in ("ink", "soft", "faint", "accent", "wrong"):
            for ground in ("paper", "card", "wash"):
                assert _contrast(theme[name], theme[ground]) >= 4.5, (name, ground)


def _contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast of two colours, 1 to 21; 4.5 is what text needs."""
    low, high = sorted(_luminance(colour) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _press(browser: Browser, key: str) -> None:
    codes = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40}
    extra = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **extra)
