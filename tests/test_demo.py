import numpy as np
import pytest
from PIL import Image

from instar import cli, demo
from instar.experiment import load


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return demo.prepare(tmp_path_factory.mktemp("it's a demo"))


def test_every_digit_is_a_picture_in_the_folder_of_its_class(made):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    files = sorted(made.digits.rglob("*.png"))
    assert len(files) == len(bunch.target) == 1797
    assert {file.parent.name for file in files} == set("0123456789")
    image = Image.open(made.digits / str(bunch.target[42]) / "0042.png")
    assert image.mode == "L"
    assert np.array_equal(np.round(np.asarray(image) / 255 * 16), bunch.images[42])


def test_doing_it_again_changes_nothing(made):
    before = {file: file.stat().st_mtime_ns for file in made.digits.rglob("*.png")}
    made.recipe.write_text(made.recipe.read_text() + "# mine\n")
    demo.prepare(made.digits.parent)
    assert {file: file.stat().st_mtime_ns for file in made.digits.rglob("*.png")} == before
    assert made.recipe.read_text().endswith("# mine\n")


def test_a_file_that_went_away_comes_back(made):
    (made.digits / "0" / "0000.png").unlink()
    demo.write_digits(made.digits)
    assert (made.digits / "0" / "0000.png").exists()
    assert not list(made.digits.rglob("*.tmp"))


def test_the_recipe_is_right(made):
    experiment = load(made.recipe)
    assert experiment.data.root == made.digits.absolute()
    assert experiment.name == "digits"


def test_it_runs_the_commands_one_would_type(made, monkeypatch, capsys):
    typed = []
    real = cli.main
    monkeypatch.setattr(cli, "main", lambda words: typed.append(words) or 0)
    assert real(["demo", str(made.digits.parent)]) == 0
    assert [words[0] for words in typed] == ["train", "evaluate", "report"]
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ instar ")]
    assert len(shown) == 3


def test_it_ends_where_a_command_ends(made, monkeypatch, capsys):
    real = cli.main
    monkeypatch.setattr(cli, "main", lambda words: 75)
    assert real(["demo", str(made.digits.parent)]) == 75
    assert "again    instar demo" in capsys.readouterr().err


def test_the_climate_demo_types_the_benchmark_and_shows_its_page(tmp_path, monkeypatch, capsys):
    typed = []
    real = cli.main
    monkeypatch.setattr(cli, "main", lambda words: typed.append(words) or 0)
    assert real(["demo", "deepcam", str(tmp_path / "it's a demo")]) == 0
    assert typed == [["bench", "deepcam", "data=synthetic", f"folder={tmp_path}/it's a demo/deepcam"]]
    assert "report.html" in capsys.readouterr().out


def test_a_demo_that_is_not_there_is_said(capsys):
    assert cli.main(["demo", "deepcan", "here"]) == 65
    assert "there is no demo 'deepcan'" in capsys.readouterr().err


def test_the_pairs_are_in_the_files_of_sage_and_their_recipe_is_right(tmp_path):
    from instar import prepare
    from instar.bench import pairs

    made = pairs.prepare(tmp_path / "it's $(a) demo", rows=30)
    again = pairs.prepare(tmp_path / "it's $(a) demo", rows=30)
    assert again == made
    experiment = load(made.recipe)
    rows = prepare.manifest(experiment.data, 0)
    assert (len(rows), rows.skipped) == (30, ())
    text = next((made.pairs / "thermal").iterdir()).read_text().split("\n")
    assert text[:8] == [
        "sensor;right", "bit depth;14 bit", "width;28", "height;28", "resolution;high",
        "advanced radiometry support;yes", "unit;degrees Celsius", "",
    ]  # fmt: skip
    assert len(text) == 8 + 28 + 1 and text[8].count(";") == 27


def test_the_demo_of_pairs_types_what_one_would(tmp_path, monkeypatch, capsys):
    from instar.bench import pairs

    monkeypatch.setattr(pairs, "write", lambda folder, **more: folder.mkdir(parents=True))
    typed = []
    real = cli.main
    monkeypatch.setattr(cli, "main", lambda words: typed.append(words) or 0)
    assert real(["demo", "pairs", str(tmp_path)]) == 0
    assert typed[0][0] == "train" and [words[0] for words in typed[1:]] in ([], ["embed"])
    assert "recipes/sky-pairs/README.md" in capsys.readouterr().out
