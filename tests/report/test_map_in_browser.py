"""The map page in headless Chromium: what a reader does with it, with a mouse, keys and fingers."""

import base64
import csv
import io
import json
import re

import pytest

from instar.report import html, mappage
from tests.report import made_map
from tests.report.browser import CHROMIUM, Browser
from tests.report.made import HOSTILE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def made():
    return made_map.embeddings(branches=2)


@pytest.fixture(scope="module")
def page(tmp_path_factory, made):
    return made_map.run(tmp_path_factory.mktemp('it\'s "a" map #1'), made, projection="pca").map_page("test")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(browser, page):
    browser.resize(1280, 900)
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page)
    browser.run("document.querySelector('.map').scrollIntoView({behavior: 'instant'})")
    settled(browser)
    yield browser
    assert browser.complaints == []


def settled(browser: Browser) -> None:
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def box(browser: Browser) -> dict[str, float]:
    return json.loads(browser.run("JSON.stringify(document.querySelector('.over').getBoundingClientRect())"))


def drag(browser: Browser, path: list[tuple[float, float]]) -> None:
    """Press, go along the path, let go; in shares of the map's width and height."""
    where = box(browser)
    at = [(where["left"] + x * where["width"], where["top"] + y * where["height"]) for x, y in path]
    kinds = ["mousePressed", *["mouseMoved"] * (len(at) - 2), "mouseReleased"]
    for kind, (x, y) in zip(kinds, at, strict=True):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    settled(browser)


def press(browser: Browser, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)
    settled(browser)


def listed(browser: Browser) -> list[dict[str, str]]:
    """The CSV that would be saved."""
    text = browser.run("document.querySelector('.download').href ? window.saved : ''")
    return list(csv.DictReader(io.StringIO(text)))


# The pixels of a canvas, through a copy: reading a drawn canvas itself slows it down, and Chromium complains.
PIXELS = """(from => { const c = document.createElement('canvas'); [c.width, c.height] = [from.width, from.height];
    const pen = c.getContext('2d', {willReadFrequently: true}); pen.drawImage(from, 0, 0);
    return pen.getImageData(0, 0, c.width, c.height).data; })"""
CATCH = "(() => { const made = URL.createObjectURL; URL.createObjectURL = (blob) => { blob.text().then((t) => (window.saved = t)); return made(blob); }; })()"
AROUND = [(0.01, 0.01), (0.5, 0.01), (0.99, 0.01), (0.99, 0.99), (0.5, 0.99), (0.01, 0.99), (0.01, 0.5)]


def test_the_map_asks_for_nothing_and_complains_of_nothing(opened, page):
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [page.resolve().as_uri()]
    assert opened.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert opened.run("Number(document.querySelector('.map').dataset.milliseconds) > 0")


def test_every_colour_of_the_key_is_on_the_map(opened):
    """Pixels of the drawing, counted: a class that is hidden leaves it."""
    count = """(name) => { const d = PIXELS(document.querySelector('canvas.points'));
        const [r, g, b] = name.match(/\\d+/g).map(Number); let n = 0;
        for (let i = 0; i < d.length; i += 4)
            if (Math.abs(d[i]-r) + Math.abs(d[i+1]-g) + Math.abs(d[i+2]-b) < 90) n++; return n; }""".replace(
        "PIXELS", PIXELS
    )
    colours = opened.run("[...document.querySelectorAll('.names i')].map(i => getComputedStyle(i).backgroundColor)")
    assert len(colours) == len(HOSTILE) == len(set(colours))
    assert all(opened.run(f"({count})('{colour}')") > 30 for colour in colours)
    opened.run("document.querySelector('.names button').click()")
    settled(opened)
    assert opened.run(f"({count})('{colours[0]}')") < opened.run(f"({count})('{colours[1]}')")
    assert opened.run("document.querySelector('.names button').getAttribute('aria-pressed')") == "false"
    opened.run("document.querySelector('.none').click()")
    settled(opened)
    assert sum(opened.run(f"({count})('{colour}')") for colour in colours) == 0


def test_a_lasso_around_all_lists_every_point_and_its_csv_has_their_true_names(opened, made):
    opened.run(CATCH)
    opened.run("document.querySelector('.tools .lasso').click()")
    drag(opened, AROUND)
    assert opened.run("document.querySelector('.how-many').textContent") == "120 points"
    rows = listed(opened)
    assert sorted(row["id"] for row in rows) == sorted([*made.ids, *made.ids])
    assert {row["branch"] for row in rows} == {"RGB", "thermal"}
    assert {row["class"] for row in rows} == {name.encode("utf-8", "backslashreplace").decode() for name in HOSTILE}
    assert opened.run("document.querySelectorAll('.list .strip li').length") == 120


def test_a_lasso_around_a_part_lists_just_what_is_inside(opened):
    opened.run(CATCH)
    opened.run("document.querySelector('.tools .lasso').click()")
    drag(opened, [(0.01, 0.01), (0.5, 0.01), (0.5, 0.5), (0.5, 0.99), (0.01, 0.99)])
    rows = listed(opened)
    assert 0 < len(rows) < 120
    data = json.loads(opened.run("document.querySelector('script.data').textContent"))
    middle = data["low"][0] + data["span"] / 2
    assert all(float(row["x"]) < middle + 0.02 * data["span"] for row in rows)
    inside = sum(low < 65536 // 2 for low in memoryview(base64.b64decode(data["x"])).cast("H"))
    assert abs(len(rows) - inside) <= 2  # as many as lie left of the middle


def test_a_point_shows_its_picture_its_facts_and_its_neighbours(opened):
    opened.run("document.querySelector('.over').focus()")
    press(opened, "Enter", 13)
    assert opened.run("document.querySelector('.one').hidden") is False
    name = opened.run("document.querySelector('.one h3').textContent")
    assert re.fullmatch(r"\d/<i>\d{5}</i>\\n, it's \"2023-05-\d\d 10:00:00\"\.png", name)
    assert opened.run("document.querySelectorAll('.one .strip li').length") == 8
    drawn = f"new Set({PIXELS}(document.querySelector('.one .stamp canvas'))).size > 1"
    assert opened.run(drawn) is True
    facts = dict(
        opened.run("[...document.querySelectorAll('.one dl div')].map(d => [...d.children].map(e => e.textContent))")
    )
    assert set(facts) == {"branch", "class", "cluster", "group", "split", "time"} and facts["time"].startswith(
        "2023-05-"
    )
    opened.run("document.querySelector('.one .strip button').click()")
    assert opened.run("document.querySelector('.one h3').textContent") != ""


def test_keys_do_what_the_mouse_does(opened):
    opened.run("document.querySelector('.over').focus()")
    press(opened, "Enter", 13)
    first = opened.run("document.querySelector('.one h3').textContent + document.querySelector('.one dl').textContent")
    for key, code in (("ArrowRight", 39), ("ArrowDown", 40), ("ArrowLeft", 37), ("ArrowUp", 38)):
        press(opened, key, code)
    assert opened.run("document.querySelector('.one dl').textContent") != "" and first
    press(opened, "Escape", 27)
    assert opened.run("document.querySelector('.one').hidden") is True
    press(opened, "l", 76)
    assert opened.run("document.querySelector('.tools .lasso').getAttribute('aria-pressed')") == "true"
    opened.run("document.querySelector('.in-view').click()")
    assert opened.run("document.querySelector('.how-many').textContent") == "120 points"
    for _ in range(6):
        press(opened, "+", 187)
    opened.run("document.querySelector('.in-view').click()")
    assert opened.run("document.querySelector('.how-many').textContent") != "120 points"


def test_hovering_names_a_point_and_draws_its_picture(opened):
    data = json.loads(opened.run("document.querySelector('script.data').textContent"))
    x, y = (memoryview(base64.b64decode(data[axis])).cast("H")[5] / 65535 for axis in "xy")
    where = box(opened)
    fit = min(where["width"], where["height"]) * 0.94
    at = (where["left"] + where["width"] / 2 + (x - 0.5) * fit, where["top"] + where["height"] / 2 - (y - 0.5) * fit)
    opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    settled(opened)
    assert opened.run("document.querySelector('.tip').hidden") is False
    assert "it's" in opened.run("document.querySelector('.tip span').textContent")
    assert opened.run("document.querySelector('.tip canvas').width") == 16


def test_finding_a_name_lists_its_points_and_pairs_can_be_joined(opened):
    opened.run("(f => { f.value = '00007'; f.dispatchEvent(new Event('input')); })(document.querySelector('.find'))")
    assert opened.run("document.querySelector('.how-many').textContent") == "2 points"
    ink = f"{PIXELS}(document.querySelector('canvas.over')).filter((value, at) => at % 4 === 3 && value > 0).length"
    settled(opened)
    before = opened.run(ink)
    opened.run("document.querySelector('.join').click()")
    settled(opened)
    assert opened.run(ink) > before + 200


def test_colour_by_time_has_a_scale_and_colour_by_group_names(opened):
    names = opened.run("[...document.querySelector('select.colour').options].map(o => o.textContent)")
    assert names == ["class", "cluster", "split", "group", "time"]
    for at, scale in ((3, False), (4, True)):
        opened.run(
            f"(s => {{ s.value = '{at}'; s.dispatchEvent(new Event('change')); }})(document.querySelector('.colour'))"
        )
        settled(opened)
        assert opened.run("document.querySelector('.scale-key').hidden") is not scale
    assert "2023-05-01 10:00" in opened.run("document.querySelector('.scale-key').textContent")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out_at_any_width(opened, width):
    opened.resize(width, 900)
    settled(opened)
    assert opened.run("document.documentElement.scrollWidth") <= width


def test_the_map_is_never_seen_empty(opened):
    """A canvas without alpha is black from a change of its size until it is painted; each frame is looked at."""
    look = f"""(() => {{ window.black = 0; window.frames_seen = 0; const look = () => {{
        const d = {PIXELS}(document.querySelector('canvas.points'));
        window.frames_seen += 1; window.black += d[0] + d[1] + d[2] === 0 ? 1 : 0; requestAnimationFrame(look); }};
        requestAnimationFrame(look); }})()"""
    opened.run(look)
    for width in (1000, 700, 1279, 390, 1280):
        opened.resize(width, 900)
        settled(opened)
    assert opened.run("window.frames_seen") >= 5
    assert opened.run("window.black") == 0


def test_two_fingers_zoom(opened):
    opened.resize(390, 800)
    opened.run("document.querySelector('.plane').scrollIntoView({behavior: 'instant'})")
    settled(opened)
    where = box(opened)
    x, y = where["left"] + where["width"] / 2, where["top"] + where["height"] / 2
    opened.call("Emulation.setTouchEmulationEnabled", enabled=True)

    def touch(kind: str, apart: float) -> None:
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}] if apart else []
        opened.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", 30)
    for apart in (50, 80, 120):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    opened.call("Emulation.setTouchEmulationEnabled", enabled=False)
    settled(opened)
    opened.run("document.querySelector('.in-view').click()")
    assert opened.run("document.querySelector('.how-many').textContent") != "120 points"


def test_dark_and_light_follow_the_reader(opened):
    grounds = {}
    for scheme in ("dark", "light"):
        opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        settled(opened)
        grounds[scheme] = opened.run(f"[...{PIXELS}(document.querySelector('canvas.points')).slice(0, 4)]")
    assert sum(grounds["dark"][:3]) < 150 and sum(grounds["light"][:3]) > 700


def test_without_javascript_clusters_and_numbers_can_be_read(browser, page):
    browser.open(page, javascript=False)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    text = browser.run("document.body.innerText")
    assert "The map itself needs JavaScript" in text and "What each cluster is made of" in text
    assert "Colour by" not in text


def test_twenty_thousand_points_move_smoothly(browser, tmp_path):
    """Processor time of the page's thread for one frame while the map is moved."""
    file = html.write(mappage.page(made_map.large(20_000)), tmp_path / "large.html")
    assert file.stat().st_size < 8 * 2**20
    browser.resize(1280, 900)
    browser.open(file)
    browser.call("Performance.enable", timeDomain="threadTicks")
    frames, move = (
        40,
        """(async (frames) => {
        const over = document.querySelector('.over'), box = over.getBoundingClientRect();
        for (let turn = 0; turn < frames; turn++) {
            const facts = {deltaY: turn % 8 < 4 ? -40 : 40, clientX: box.left + 300, clientY: box.top + 300, ctrlKey: true};
            over.dispatchEvent(new WheelEvent('wheel', {...facts, cancelable: true}));
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))); } })""",
    )
    browser.run(f"{move}(10)")
    before = seconds_of_tasks(browser)
    browser.run(f"{move}({frames})")
    each = 1000 * (seconds_of_tasks(browser) - before) / frames
    browser.call("Performance.disable")
    print("ms", each)
    assert 0.5 < each < 25, each  # 7 to 11 measured; a processor that two share takes longer


def seconds_of_tasks(browser: Browser) -> float:
    found = {one["name"]: one["value"] for one in browser.call("Performance.getMetrics")["metrics"]}
    return found["TaskDuration"]
