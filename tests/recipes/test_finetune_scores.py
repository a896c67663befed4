"""What is said of a classifier: accuracy, its interval, recall, and the file that keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bioaudio_recipes.finetune.results import record
from bioaudio_recipes.finetune.scores import Scores, confusion_matrix, wilson_interval
from hypothesis import given
from hypothesis import strategies as st


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    matrix = confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0], 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_accuracy_and_recall_follow_from_the_confusion_matrix() -> None:
    confusion = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 2]])
    scores = Scores(classes=("a", "b", "c"), confusion=confusion, loss=0.5, independent=6)
    assert scores.accuracy == 4 / 6
    assert scores.recall == {"a": 1 / 2, "b": 1.0, "c": 2 / 3}
    assert scores.to_dict()["windows"] == 6


def test_recall_of_a_class_without_examples_is_unknown() -> None:
    confusion = np.array([[3, 0], [0, 0]])
    assert Scores(classes=("a", "b"), confusion=confusion, loss=0.0, independent=3).recall["b"] is None


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_the_proportion(trials: int, data: st.DataObject) -> None:
    proportion = data.draw(st.integers(0, trials)) / trials
    low, high = wilson_interval(proportion, trials)
    assert 0 <= low <= proportion + 1e-12
    assert proportion - 1e-12 <= high <= 1


def test_further_lengths_join_the_file_and_replace_their_own_entry(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "classification.json"
    record(path, ["a", "b"], [{"length": 4096, "accuracy": 0.5}], {})
    record(path, ["a", "b"], [{"length": 1024, "accuracy": 0.6}], {})
    record(path, ["a", "b"], [{"length": 4096, "accuracy": 0.7}], {"device": "CPU"})
    content = json.loads(path.read_text())
    assert content["lengths"] == [{"length": 1024, "accuracy": 0.6}, {"length": 4096, "accuracy": 0.7}]
    assert content["kind"] == "classification"
    assert content["chance"] == 0.5
    assert content["device"] == "CPU"


def test_results_of_two_tasks_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "classification.json"
    record(path, ["a", "b"], [{"length": 8}], {})
    with pytest.raises(ValueError, match=r"results for other classes \(a, b\); choose another --out"):
        record(path, ["a", "c"], [{"length": 8}], {})
    path.write_text("[]")
    with pytest.raises(ValueError, match="not the result of a classification"):
        record(path, ["a", "b"], [{"length": 8}], {})
