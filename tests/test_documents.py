import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.documents import dump, parse, read, scalar
from instar.errors import ConfigError


def mistakes_of(text):
    with pytest.raises(ConfigError) as caught:
        parse(text, name="recipe.yaml")
    return caught.value.mistakes


def test_words_are_read_as_yaml_1_2_reads_them():
    document = parse(
        "a: [no, on, yes, NO, off, y, ~, null, true, False, 010, 0x10, 0o17, 1_000, 12:30, 2024-01-01]", name="r"
    )
    assert document["a"] == ["no", "on", "yes", "NO", "off", "y", None, None, True, False, 10, 16, 15, "1_000", "12:30",
                             "2024-01-01"]  # fmt: skip


@pytest.mark.parametrize(
    "text, value", [("1e-3", 1e-3), ("1.0E+3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-.inf", -math.inf)]
)
def test_numbers_with_exponents_are_numbers(text, value):
    assert scalar(text) == value and isinstance(scalar(text), float)


def test_quoted_words_stay_text():
    assert parse("a: '1'\nb: \"true\"\nc: |\n  1\n", name="r") == {"a": "1", "b": "true", "c": "1\n"}


def test_every_value_knows_its_line():
    document = parse("a: 1\nb:\n  c: [1,\n    2]\n", name="recipe.yaml")
    assert document.place(("a",)) == "recipe.yaml:1"
    assert document.place(("b", "c", 1)) == "recipe.yaml:4"
    assert document.place(("b", "unheard", "of")) == "recipe.yaml:2"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "recipe.yaml is empty"),
        ("# only a comment\n", "recipe.yaml is empty"),
        ("- 1\n- 2", "recipe.yaml is a list, but must be a mapping"),
        ("just words", "recipe.yaml is a text, but must be a mapping"),
        ("a: 1\nb:\n\tc: 2\n", "recipe.yaml:3: a tab in the indentation. Write spaces instead."),
        ("a: 1\na: 2\n", "recipe.yaml:2: 'a' appears twice, first at recipe.yaml:1. Keep one."),
        ("a: {b: 1,\n b: 2}", "recipe.yaml:2: 'b' appears twice, first at recipe.yaml:1. Keep one."),
        ("a: 1\n---\nb: 2\n", "recipe.yaml:2: a second document."),
        ("a: !!python/object/apply:os.system ['touch canary']", "recipe.yaml:1: tag .* is refused"),
        ("a: !!python/name:os.system", "recipe.yaml:1: tag .* is refused"),
        ("a: !custom 1", "recipe.yaml:1: tag '!custom' is refused"),
        ("a: !!int 1", "recipe.yaml:1: tag .* is refused"),
        ("b: &b {c: 1}\na:\n  <<: *b\n", "recipe.yaml:3: merge keys"),
        ("? [1, 2]\n: 3", "recipe.yaml:1: a key must be one word"),
        ("a: *nobody", r"recipe.yaml:1: \*nobody stands for nothing"),
        ("a: b: c", "recipe.yaml:1: not YAML: mapping values are not allowed"),
        ("a: [1, 2", "recipe.yaml:[12]: not YAML"),
        ("a: @x", "recipe.yaml:1: not YAML"),
        ("a: \x00", "not YAML"),
        ("a: " + "[" * 5000, "recipe.yaml:1: nested more than 40 deep"),
        ("a: " + "{a: " * 5000, "recipe.yaml:1: nested more than 40 deep"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why_in_one_line(text, message):
    found = mistakes_of(text)
    assert len(found) == 1
    assert re.search(message, found[0])
    assert "\n" not in found[0]


def test_all_duplicates_and_tags_are_told_at_once():
    assert len(mistakes_of("a: 1\na: 2\nb: !x 3\nb: 4\n")) == 3


def test_aliases_are_copied():
    document = parse("a: &x {b: [1]}\nc: *x\n", name="r")
    document["a"]["b"].append(2)
    assert document["c"] == {"b": [1]}


def test_a_bomb_of_aliases_is_refused():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert "too many aliases" in mistakes_of("\n".join(lines))[0]


def test_an_alias_inside_itself_is_refused():
    assert "stands for nothing" in mistakes_of("a: &a [*a]")[0]


def test_files_that_are_no_recipe(tmp_path):
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nname: Gr\xfc\xdfe\n")
    (tmp_path / "huge.yaml").write_bytes(b"a" * 1_000_001)
    for file, message in {
        folder: "is a folder",
        tmp_path / "nobody home.yaml": "cannot be read: No such file",
        tmp_path / "latin.yaml": r"latin.yaml:2: byte 0xfc is not UTF-8",
        tmp_path / "huge.yaml": "has more than 1,000,000 bytes",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read(file)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(tmp_path / "r.yaml") == {"a": 1}


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False) | TEXT
    | st.sampled_from(["no", "on", "1e-3", "~", "true", "0x1", ".inf", "5 %", "", " ", "a: b", "- x", "#"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_is_dumped_reads_back_the_same(values):
    assert parse(dump(values) if values else "{}", name="r") == values


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab:- [](){}#&*!|>'\"%@`,?~\t\n01.e")), max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        assert isinstance(parse(text, name="r"), dict)
    except ConfigError as error:
        assert error.mistakes and all("\n" not in mistake for mistake in error.mistakes)
