"""What is measured of held-back cases, case by case, and which of them the page of a run shows."""

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.cohort.split import Split
from foveate.engine.validation import BoxValidation, WholeValidation, case_errors
from foveate.io import Volume
from foveate.predict.box_picture import draw_boxes
from foveate.report.run import PICTURES, pictured
from foveate.tasks import Boxes, build_task
from toys import tiny_plan


def whole(task, logits: list[list[float]], labels: list[list[float]]) -> WholeValidation:
    """Of a predictor that gives each image, which is its logits, back."""
    predictor = SimpleNamespace(task=task, batch=2, logits=lambda images, mirror: np.stack(images))
    cases = {
        f"c{number}": SimpleNamespace(id=f"c{number}", image=np.array(z, np.float32), target=np.array(y, np.float32))
        for number, (z, y) in enumerate(zip(logits, labels, strict=True))
    }
    return WholeValidation(predictor, cases, cases)  # type: ignore[arg-type]


def test_a_class_is_as_wrong_as_it_is_sure_of_another() -> None:
    task = build_task(tiny_plan(task="classification", whole=True, classes={"a": 0, "b": 1}))
    validate = whole(task, [[2.0, 0], [2.0, 0], [0.0, 0]], [[1.0, 0], [0.0, 1], [1.0, 0]])
    sure = 1 / (1 + math.exp(-2))
    assert case_errors(validate) == pytest.approx({"c0": 1 - sure, "c1": sure, "c2": 0.5})


def test_errors_of_values_average_to_the_score() -> None:
    task = build_task(tiny_plan(task="regression", whole=True, classes={}, target_std=2.0, loss="huber"))
    validate = whole(task, [[1.0], [0.0], [3.0]], [[0.0], [0.5], [3.0]])
    assert validate()["mae"] == pytest.approx(1.0)
    assert validate.errors == pytest.approx({"c0": 2.0, "c1": 1.0, "c2": 0.0})


def test_boxes_that_are_missed_or_false_count_alike() -> None:
    def boxes(*rows: tuple[float, ...]) -> Boxes:
        table = torch.tensor(rows).reshape(-1, 6)
        return Boxes(table[:, :4], table[:, 4].long(), table[:, 5])

    found = {
        0.0: boxes((0, 0, 4, 4, 0, 0.9), (8, 8, 12, 12, 0, 0.8), (0, 0, 4, 4, 1, 0.3)),  # right, false, not sure
        1.0: boxes((0, 0, 4, 4, 1, 0.9)),  # of another class: missed and false
    }
    truth = np.array([[0, 0, 4, 4, 0], [8, 0, 12, 4, -1]], np.float32)  # the second may be found or not
    cases = {f"c{n:g}": SimpleNamespace(id=f"c{n:g}", image=np.full((1, 2, 2), n), target=truth) for n in found}
    predictor = SimpleNamespace(
        plan=SimpleNamespace(classes={"a": 0, "b": 1}), predict_prepared=lambda image: found[float(image[0, 0, 0])]
    )
    validate = BoxValidation(predictor, cases, cases)  # type: ignore[arg-type]
    assert case_errors(validate) == {"c0": 1, "c1": 2}


def test_the_page_shows_what_is_worst() -> None:
    names = tuple(f"c{number}" for number in range(PICTURES + 4))
    split = Split(train=("t",), validation=names, unlabelled=(), notes=())
    errors = {name: float(number % 5) for number, name in enumerate(names)} | {"c4": math.nan}
    shown = [name for name, _ in pictured(split, errors)]
    known = sorted((error for error in errors.values() if not math.isnan(error)), reverse=True)
    assert [errors[name] for name in shown] == known[:PICTURES]
    assert [name for name, _ in pictured(split, {})] == list(names[:PICTURES])


@pytest.mark.parametrize("dims", [2, 3])
def test_true_boxes_are_white_and_doubtful_ones_are_not_drawn(dims: int) -> None:
    volume = Volume(np.zeros((1, *[40] * dims), np.float32), np.eye(dims + 1))
    edges = [10.0] * dims + [30.0] * dims
    box, nothing = torch.tensor([edges]), torch.zeros(1, dtype=torch.long)

    def drawn(score: float, known: np.ndarray | None) -> np.ndarray:
        png = draw_boxes(volume, Boxes(box, nothing, torch.tensor([score])), ["a"], known)
        return np.asarray(Image.open(io.BytesIO(png)))[40:860, 40:860]  # between the letters of the sides

    blank = drawn(0.39, None)
    assert (blank == blank[0, 0]).all()
    assert (drawn(0.41, None) != blank).any()
    white = (drawn(0.39, np.array([edges])) == 255).all(axis=2)
    rows, columns = np.nonzero(white)
    scale = 900 / 40
    for places in (rows, columns):
        assert [places.min() + 40, places.max() + 40] == pytest.approx([10 * scale, 30 * scale], abs=3)
