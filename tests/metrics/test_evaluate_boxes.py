"""`evaluate` on predictions.json: boxes in COCO's form against those of the dataset folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from foveate.errors import InputError
from foveate.metrics import evaluate

CATEGORIES = [{"id": 1, "name": "cell"}, {"id": 2, "name": "platelet"}]
BOXES = {"a": [(1, [2, 3, 10, 8]), (2, [20, 20, 6, 6])], "b": [(1, [5, 5, 12, 12])], "c": []}


def coco(boxes: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """image -> (category, [x, y, w, h]) or (category, [x, y, w, h], score)."""
    images, annotations = [], []
    for number, (case, found) in enumerate(boxes.items(), 1):
        images.append({"id": number, "file_name": f"{case}.png", "width": 40, "height": 32})
        for category, bbox, *score in found:
            item = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": bbox}
            annotations.append(item | {"score": score[0]} if score else item)
    return {"images": images, "categories": CATEGORIES, "annotations": annotations}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Every box found as it is, but for the cell of b, found beside its place."""
    out, data = tmp_path / "out", tmp_path / "data"
    (data / "images").mkdir(parents=True)
    out.mkdir()
    for number, case in enumerate(BOXES):
        Image.fromarray(np.full((32, 40), number, np.uint8)).save(data / "images" / f"{case}.png")
    (data / "annotations.json").write_text(json.dumps(coco(BOXES)))
    found = {case: [(*box, 0.9) for box in boxes] for case, boxes in BOXES.items()}
    found["b"] = [(1, [25, 5, 12, 12], 0.8)]
    (out / "predictions.json").write_text(json.dumps(coco(found)))
    return out, data


def test_flat_keys_with_intervals(folders: tuple[Path, Path], tmp_path: Path) -> None:
    evaluation = evaluate(*folders, json=tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    # Of two cells the surest box finds one: precision 1 up to a recall of one half, which are 51 of 101 recalls.
    assert scores["ap50/cell"] == pytest.approx(51 / 101)
    assert scores["ap50/platelet"] == 1
    for key in ("ap50", "ap"):
        assert scores[key] == pytest.approx((51 / 101 + 1) / 2)
    low, high = scores["ap50_interval"]
    assert low <= scores["ap50"] <= high
    assert scores["cases"][0]["case"] == "b"
    assert (scores["cases"][0]["missed"], scores["cases"][0]["false"]) == (1, 1)
    console = Console(width=80, record=True, file=(tmp_path / "shown.txt").open("w"))
    evaluation.render(console)
    text = console.export_text()
    assert "AP50" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found["categories"][0].update(name="cel"), "Did you mean 'cel'?"),
        (lambda found: found["annotations"][0].update(score=1.5), "a number from 0 to 1"),
        (lambda found: found["images"].pop(2), "no prediction for 1 of 3 labelled cases (c)"),
    ],
)
def test_predictions_that_cannot_be_scored(folders: tuple[Path, Path], change: Any, words: str) -> None:
    path = folders[0] / "predictions.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(InputError) as caught:
        evaluate(*folders)
    assert words in str(caught.value)


def annotate(data: Path, boxes: dict[str, list[tuple[Any, ...]]], categories: list[dict[str, Any]]) -> None:
    (data / "annotations.json").write_text(json.dumps(coco(boxes) | {"categories": categories}))


def test_what_is_found_where_there_is_nothing_is_false_and_said(folders: tuple[Path, Path]) -> None:
    annotate(folders[1], {case: [box for box in boxes if box[0] == 1] for case, boxes in BOXES.items()}, CATEGORIES[:1])
    found = evaluate(*folders)
    assert found["ap50"].value == pytest.approx(51 / 101)
    assert {case["case"]: case["false"] for case in found.cases} == {"a": 1, "b": 1, "c": 0}
    assert any("also platelet" in problem.found for problem in found.problems)
    annotate(folders[1], {case: [] for case in BOXES}, [])
    found = evaluate(*folders)
    assert np.isnan(found["ap50"].value)
    assert sum(case["false"] for case in found.cases) == 3


def test_nothing_to_score_and_nothing_to_score_against_are_told_apart(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="nowhere: predictions: found nothing"):
        evaluate(folders[0] / "nowhere", folders[1])
    (folders[1] / "annotations.json").unlink()
    with pytest.raises(InputError, match=r"data: .* none for 3 images|data"):
        evaluate(*folders)


def test_boxes_of_another_number_of_axes_are_refused_by_case(folders: tuple[Path, Path]) -> None:
    out, data = folders
    found = coco({case: [(*box, 0.9) for box in boxes] for case, boxes in BOXES.items()})
    found["annotations"][0]["bbox"] = [2, 3, 0, 10, 8, 1]
    (out / "predictions.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"bbox of a: found 6 numbers; expected 4"):
        evaluate(out, data)


def test_a_tolerance_is_of_surfaces_alone(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"--tolerance-mm: found a value, and predictions\.json; expected label maps"):
        evaluate(*folders, tolerance_mm=2.0)
