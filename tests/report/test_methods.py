"""The paragraph for a paper says what was done, whatever the task, and nothing that was not."""

import pytest

from instar.report.methods import methods, result_sentence
from instar.tasks import classification, dino, segmentation, vicreg

PLAN = {"train_rows": 160, "val_rows": 20, "test_rows": 20, "epoch_samples": 160, "batch": 4, "size": 28, "seed": 1}
RECIPE = {"model": {"kind": "smp", "name": "unet", "encoder": "resnet18"}, "train": {"epochs": 10.0},
          "data": {"split": {"stratify": True}}}  # fmt: skip
START = {"instar": "0.1.0"}


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        (classification, {"balance": "oversample", "mixup": 0.2},
         "to tell 3 classes apart, on 160 of 200 .*cross-entropy, mixup 0.2, classes drawn equally often"),
        (segmentation, {"also": "dice", "weight_power": 0.125},
         "to tell 3 classes of pixels apart, .*cross-entropy, weighted by .* power of -0.125, plus Dice loss"),
        (vicreg, {"projector": (64, 32)},
         "without labels by VICReg, with an encoder for each sensor and a projector of 64-32, on"),
        (vicreg, {"branches": "image"}, "with two views of each image"),
        (dino, {"strategy": "image_teaches"}, "DINO, the teacher seeing the first sensor and the student the second, on"),
        (dino, {"strategy": "alternate"}, "DINO, on both sensors in turn on"),
    ],
)  # fmt: skip
def test_each_task_says_what_it_trains_for(task, settings, said):
    import re

    found = methods(RECIPE, PLAN, START, "", aim=task.aim(task.Settings(**settings), 3))
    assert re.search(said, found) and "unet on resnet18" in found
    assert ("classes" in found) is (task in (classification, segmentation))


def test_pairs_are_pairs_with_the_sizes_of_both_sensors():
    found = methods(RECIPE, PLAN | {"other_channels": 1, "other_size": 16}, START, "")
    assert "160 of 200 pairs" in found and "at 28 by 28 and 16 by 16 pixels" in found


def test_whole_images_are_of_no_one_size_and_a_given_division_is_not_ours():
    whole = methods(RECIPE | {"augment": {"crop": "whole"}}, PLAN, START, "", divided=True)
    assert "28 by 28" not in whole and "divided beforehand" in whole and "stratified" not in whole
    assert "at 28 by 28 pixels" in methods(RECIPE, PLAN, START, "") and "stratified" in methods(RECIPE, PLAN, START, "")


def test_a_training_that_reached_its_target_did_not_take_all_epochs():
    ended = [{"event": "finished", "samples": 640, "state": "target"}]
    assert "for 4 of 10 epochs, when the validation score reached its target, with" in methods(
        RECIPE, PLAN, START, "", events=ended
    )
    assert "for 10 epochs with" in methods(RECIPE, PLAN, START, "", events=[ended[0] | {"state": "finished"}])


def test_a_schedule_in_steps_is_told_in_steps():
    schedule = {"kind": "deepcam", "type": "cosine_annealing", "lr_warmup_steps": 40, "warmup": "0 %"}
    assert "a cosine annealing schedule after a warm-up of 40 steps" in methods(
        RECIPE | {"schedule": schedule}, PLAN, START, ""
    )


def test_the_result_names_its_score_and_interval():
    scores = {"rows": 20, "sample_iou": 0.86, "intervals": {"sample_iou": [0.8, 0.9]}}
    assert result_sentence(scores, "test", "4", "sample_iou") == (
        "The checkpoint with the best validation mean IoU by image (epoch 4) reached 86.0\N{NO-BREAK SPACE}% mean IoU "
        "by image (95\N{NO-BREAK SPACE}% interval 80.0 to 90.0\N{NO-BREAK SPACE}%, percentile bootstrap) on the "
        "held-out test split of 20 rows. "
    )
