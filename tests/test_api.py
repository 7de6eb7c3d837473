"""Five functions do what five commands do."""

import pytest

from instar import api
from instar.errors import ConfigError
from tests.fakes.images import folder_of_images

QUICK = ("model.kind=tests.fakes.tiny_cnn", "size=8", "batch=8", "epochs=2", "workers=0", "device=cpu", "devices=1")


def test_a_run_is_trained_evaluated_and_compared(tmp_path):
    images = folder_of_images(tmp_path / "some 'images'")
    first = api.train(images, *QUICK, f"runs={tmp_path}", "seed=1")
    assert first["state"] == "finished"
    second = api.train(images, *QUICK, f"runs={tmp_path}", "seed=2")
    scores = api.evaluate(first["run"], "split=val", "device=cpu")["scores"]
    assert 0 <= scores["accuracy"] <= 1
    (together,) = api.compare(first["run"], second["run"])["recipes"]
    assert sorted(together["seeds"]) == [1, 2]


def test_a_mistake_is_raised(tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.rl"):
        api.train(folder_of_images(tmp_path / "images"), "optim.rl=3")


def test_a_job_is_submitted_only_where_that_is_said(tmp_path):
    found = api.submit("train", folder_of_images(tmp_path / "images"), "--dry", f"runs={tmp_path}", on="laptop")
    assert "#!/bin/bash" in found["script"]
