import base64
import hashlib
import html as escaping
import re
from html.parser import HTMLParser

import pytest

from instar.report import html
from instar.report.blocks import Code, Facts, Note, Page, Section, Table
from tests.report import made

VOID = {"meta", "link", "img", "br"}


class Tags(HTMLParser):
    """Every tag with its attributes; complains where one is left open."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return made.page(tmp_path_factory.mktemp("it's a page")).read_text(encoding="utf-8")


def test_a_page_is_one_file_that_asks_nobody_for_anything(text):
    tags = Tags(text).found
    addresses = [
        value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href", "xlink:href")
    ]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "@import" not in text and "url(" not in re.sub(r"url\(#", "", text)


def test_every_tag_is_closed_and_no_name_is_given_twice(text):
    names = [attributes["id"] for _, attributes in Tags(text).found if "id" in attributes]
    assert len(names) == len(set(names))


def test_the_policy_lets_our_script_run_and_nothing_else(text):
    policy = escaping.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")


def test_hostile_names_are_shown_and_do_nothing(text):
    assert text.count("<script") == 1 and "<b>here" not in text and "<i>0" not in text and "<run>" not in text
    shown = escaping.unescape(text)
    for name in ("<script>alert(1)</script>", 'it\'s "quoted" & more', "line\\nbreak", "n\\udcffon", "\\u202edetrever"):
        assert name in shown
    assert not any(set(attributes) & {"onclick", "onload", "onerror"} for _, attributes in Tags(text).found)


def test_every_part_of_the_page_is_there(text):
    for part in ("Learning", "Classes", "Confusions", "Mistakes", "Calibration", "Methods", "Cost", "Lineage"):
        assert f"<h2>{part}</h2>" in text
    for word in ("resnet18", "0123456789ab, with changes", "best epoch (3)", "Interrupted once", "files left out"):
        assert word in text


def test_every_picture_says_what_it_shows(text):
    pictures = [attributes for tag, attributes in Tags(text).found if tag == "img"]
    assert pictures and all(
        attributes["alt"] and attributes["src"].startswith("data:image/") for attributes in pictures
    )


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("plain", "plain"),
        ("a\tb", "a\\tb"),
        ("\x00", "\\x00"),
        ("\udc80", "\\udc80"),
        ("e\u0301 日本 ß", "e\u0301 日本 ß"),
        ("90\u202f%", "90\u202f%"),
        ("\u2066x", "\\u2066x"),
    ],
)
def test_what_cannot_be_seen_is_written_out(raw, shown):
    assert html.harmless(raw) == shown


@pytest.mark.parametrize(
    "value, shown",
    [
        (1234567, "1\u202f234\u202f567"),
        (0.00012345, "0.0001234"),
        (3.0, "3"),
        ("3.0", "3.0"),
        (True, True),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_grouped_and_short(value, shown):
    assert html.number(value) == shown


def test_yaml_keeps_its_lines_and_marks_its_keys():
    marked = html.yaml("a:\n  b: <x>\n  - c: 1\n# note: <y>")
    assert str(marked).splitlines() == [
        "<b>a</b>:<span></span>",
        "  <b>b</b>:<span> &lt;x&gt;</span>",
        "  - <b>c</b>:<span> 1</span>",
        "# note: &lt;y&gt;",
    ]


def test_blocks_take_any_text():
    hostile = '"><script>alert(1)</script>'
    blocks = (
        Note(hostile),
        Code(f"{hostile}: {hostile}", hostile),
        Facts(((hostile, hostile),), hostile),
        Table((hostile,), ((hostile,), (hostile,)), hostile, shown=1),
    )
    text = html.render(Page(hostile, hostile, (Section(hostile, blocks, hostile),), hostile, hostile))
    Tags(text)
    assert text.count("<script") == 1


def test_a_write_that_fails_halfway_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    html.write(Page("old", "", ()), path)
    before = path.read_bytes()

    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        html.write(Page("new", "", ()), path, halfway=full)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
