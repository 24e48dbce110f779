"""`evaluate` on predictions.csv: which case is which, what is scored, what is said, what is refused."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from foveate.errors import InputError
from foveate.metrics import TaskEvaluation, evaluate
from foveate.metrics.bootstrap import draw_weights, estimates
from foveate.metrics.tables import score_classes

CLASSES = ("glioma", "meningioma", "no tumour")
CASES = 8  # of each class


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), len(path.name), dtype=np.uint8)).save(path)


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Class folders of 8 cases each; predictions of which one is wrong: the meningioma m_0, called a glioma."""
    rows = []
    for k, name in enumerate(CLASSES):
        for number in range(CASES):
            picture(tmp_path / "data" / name / f"{name[0]}_{number}.png")
            wrong = (k, number) == (1, 0)
            sure = 0.9 - 0.02 * number
            p = np.full(3, (1 - sure) / 2)
            p[0 if wrong else k] = sure
            rows.append([f"{name}/{name[0]}_{number}", CLASSES[int(p.argmax())], *(f"{x:.6f}" for x in p)])
    picture(tmp_path / "data" / "unlabelled" / "u_0.png")
    table(tmp_path / "out" / "predictions.csv", ["case", "label", *CLASSES], rows)
    return tmp_path / "out", tmp_path / "data"


def edit(folder: Path, old: str, new: str, count: int = 1) -> None:
    path = folder / "predictions.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def refusal(out: Path, data: Path) -> str:
    with pytest.raises(InputError) as caught:
        evaluate(out, data)
    assert len(caught.value.problems) == 1, "one message for one mistake"
    assert str(out) in str(caught.value) or str(data) in str(caught.value)
    return str(caught.value)


def test_flat_keys_with_intervals_and_the_plot_beside_the_json(folders: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "new" / "scores.json"
    evaluate(*folders, json=target)
    scores = json.loads(target.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert scores["accuracy"] == pytest.approx(23 / 24)
    assert scores["f1/glioma"] == pytest.approx(2 * 8 / (8 + 9))
    assert scores["confusion"] == [[8, 0, 0], [1, 7, 0], [0, 0, 8]]
    keys = "accuracy balanced_accuracy macro_f1 auroc auprc sensitivity_at_95_specificity brier ece f1/meningioma"
    for key in keys.split():
        low, high = scores[f"{key}_interval"]
        assert low <= scores[key] <= high, key
    assert scores["cases"][0]["case"] == "meningioma/m_0"  # worst first
    assert scores["cases"][0]["right"] is False
    assert sum(row["count"] for row in scores["reliability"]) == scores["case_count"] == 24
    with Image.open(tmp_path / "new" / "scores-reliability.png") as drawn:
        assert drawn.size == (690, 870)
    assert len(list(target.parent.iterdir())) == 2  # no temporary file is left


def test_the_terminal_shows_it_within_80_columns(folders: tuple[Path, Path]) -> None:
    console = Console(width=80, record=True, file=(folders[0] / "shown.txt").open("w"))
    evaluate(*folders).render(console)
    text = console.export_text()
    for words in ("macro F1", "0.958", "Confusion", "m_0", "each counts as a patient of its"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_ids_may_differ_by_folders_where_the_last_part_is_unique(folders: tuple[Path, Path]) -> None:
    out, data = folders
    known = evaluate(out, data)["macro_f1"]
    edit(out, "\nglioma/", "\n", -1)
    edit(out, "\nmeningioma/", "\nelsewhere/", -1)
    assert evaluate(out, data)["macro_f1"] == known
    picture(data / "meningioma" / "g_3.png")  # now two cases end so, and no prediction says which it is of
    text = refusal(out, data)
    assert "glioma/g_3" in text
    assert "not clear" in text


def test_a_labelled_case_without_a_prediction_is_refused_and_one_without_label_said(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out, data = folders
    edit(out, "\nno tumour/n_7", "\nunlabelled/u_0")
    text = refusal(out, data)
    assert "no tumour/n_7" in text
    assert "--cases" in text
    chosen = [f"{name}/{name[0]}_{number}" for name in CLASSES for number in range(7)]
    evaluation = evaluate(out, data, cases=chosen)
    assert len(evaluation.cases) == 21
    assert "unlabelled/u_0" in str(evaluation.problems[0])
    assert "g_7" not in str(evaluation.problems[0])  # labelled, and left out by choice
    with pytest.raises(InputError, match="ghost"):
        evaluate(out, data, cases=["ghost"])


def test_predictions_of_other_cases_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table(tmp_path / "other" / "predictions.csv", ["case", *CLASSES], [["x", 1, 0, 0], ["y", 0, 1, 0]])
    assert "none of which has a label" in refusal(tmp_path / "other", folders[1])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("label,glioma", "label,glioblastoma", "no column for glioma, and the unknown class glioblastoma"),
        ("0.900000,0.050000", "0.900000,0.350000", "1.3 for glioma/g_0"),
        ("0.900000", "nan", "'nan' for glioma of glioma/g_0"),
        ("0.900000", "much", "'much' for glioma of glioma/g_0"),
        ("0.900000", "1.900000", "from 0 to 1"),
        ("glioma/g_1,", "glioma/g_0,", "'glioma/g_0' more than once"),
        ("glioma/g_1,", ",", "a case id in every row"),
        ("label,glioma,meningioma", "label,glioma,glioma", "glioma twice"),
        ("case,", "name,", "case,label and a column for each class"),
        ("g_0,glioma,", "g_0,", "4 cells in row 2"),
        ("g_0,glioma,", "g_0,gliomma,", "Did you mean 'glioma'?"),
    ],
)
def test_a_table_that_cannot_be_scored(folders: tuple[Path, Path], old: str, new: str, words: str) -> None:
    edit(folders[0], old, new)
    assert words in refusal(*folders)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"case,label,glioma,meningioma,no tumour\n", b"case,label\n", b"\xff\xfe"]
)
def test_a_file_without_predictions(folders: tuple[Path, Path], content: bytes) -> None:
    (folders[0] / "predictions.csv").write_bytes(content)
    assert "predictions.csv" in refusal(*folders)


def test_a_class_that_no_case_of_the_dataset_has_is_said(folders: tuple[Path, Path]) -> None:
    out, data = folders
    rows = list(csv.reader((out / "predictions.csv").open()))
    table(out / "predictions.csv", [*rows[0], "pituitary"], [[*row, 0] for row in rows[1:]])
    evaluation = evaluate(out, data)
    assert evaluation.classes == (*CLASSES, "pituitary")
    assert "pituitary" in str(evaluation.problems[0])
    assert evaluation["accuracy"].value == pytest.approx(23 / 24)


def test_labels_that_the_probabilities_deny_are_said_and_not_scored(folders: tuple[Path, Path]) -> None:
    edit(folders[0], "g_0,glioma", "g_0,meningioma")
    evaluation = evaluate(*folders)
    assert "glioma/g_0" in str(evaluation.problems[0])
    assert evaluation["accuracy"].value == pytest.approx(23 / 24)


def test_several_labels_a_case(tmp_path: Path) -> None:
    labels = {"a": "edema;mass", "b": "edema", "c": "mass", "d": "mass;edema"}
    for case in labels:
        picture(tmp_path / "data" / "images" / f"{case}.png")
    table(tmp_path / "data" / "labels.csv", ["case", "label"], list(labels.items()))
    rows = [["a", "edema;mass", 0.9, 0.8], ["b", "edema", 0.7, 0.4], ["c", "edema;mass", 0.6, 0.7], ["d", "", 0.3, 0.2]]
    table(tmp_path / "out" / "predictions.csv", ["case", "label", "edema", "mass"], rows)
    evaluation = evaluate(tmp_path / "out", tmp_path / "data")
    assert evaluation["exact_match"].value == 0.5
    assert evaluation["accuracy"].value == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert evaluation.cases[0]["case"] == "d"
    assert "confusion" not in evaluation.details
    assert not evaluation.problems


def test_cases_of_one_label_each_do_not_make_labels_exclude_each_other(tmp_path: Path) -> None:
    for case in "ab":
        picture(tmp_path / "data" / "images" / f"{case}.png")
    table(tmp_path / "data" / "labels.csv", ["case", "label"], [["a", "edema"], ["b", "mass"]])
    rows = [["a", "edema;mass", 0.9, 0.8], ["b", "mass", 0.2, 0.7]]
    table(tmp_path / "out" / "predictions.csv", ["case", "label", "edema", "mass"], rows)
    assert evaluate(tmp_path / "out", tmp_path / "data")["exact_match"].value == 0.5


def test_one_label_in_every_row_does_not_make_labels_exclude_each_other(tmp_path: Path) -> None:
    """A small test set of a model of several labels: neither truths nor answers happen to have two."""
    for case in "abc":
        picture(tmp_path / "data" / "images" / f"{case}.png")
    table(tmp_path / "data" / "labels.csv", ["case", "label"], [["a", "edema"], ["b", "mass"], ["c", "mass"]])
    rows = [["a", "edema", 0.9, 0.4], ["b", "mass", 0.2, 0.7], ["c", "edema", 0.6, 0.3]]
    table(tmp_path / "out" / "predictions.csv", ["case", "label", "edema", "mass"], rows)
    evaluation = evaluate(tmp_path / "out", tmp_path / "data")
    assert evaluation["exact_match"].value == pytest.approx(2 / 3)
    assert [problem.severity for problem in evaluation.problems if problem.field == "label"] == ["warn"]
    edit(tmp_path / "out", "c,edema,0.6,0.3", "c,edema,0.4,0.3")  # the likelier one, as of classes that do exclude
    assert "sum of a row's probabilities" in refusal(tmp_path / "out", tmp_path / "data")


def test_values_without_an_interval(tmp_path: Path) -> None:
    for case in "ab":
        picture(tmp_path / "data" / "images" / f"{case}.png")
    table(tmp_path / "data" / "labels.csv", ["case", "value"], [["a", 1], ["b", 3]])
    table(tmp_path / "out" / "predictions.csv", ["case", "value", "low", "high"], [["a", 2, "", ""], ["b", 3, "", ""]])
    evaluation = evaluate(tmp_path / "out", tmp_path / "data")
    assert evaluation["mae"].value == 0.5
    assert np.isnan(evaluation["coverage"].value)
    edit(tmp_path / "out", "2,,", "2,1,")
    assert "'' for high of a" in refusal(tmp_path / "out", tmp_path / "data")


def test_labels_that_cannot_be_read_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    picture(tmp_path / "data" / "Glioma " / "x.png")
    assert "differ by more than case or space" in refusal(*folders)


def test_values_and_their_intervals(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for case in "abcdef":
        picture(data / "images" / f"{case}.png")
    truth = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}
    rows = [[case, value, f"patient {i // 2}"] for i, (case, value) in enumerate(truth.items())]
    table(data / "labels.csv", ["case", "value", "patient"], [*rows, ["f", "", "patient 9"]])
    found = [
        [case, value + 0.5 * (case == "c"), value - 0.4, value + 0.4 - 0.6 * (case == "b")]
        for case, value in truth.items()
    ]
    table(out / "predictions.csv", ["case", "value", "low", "high"], [*found, ["f", 1, 0, 2]])
    target = tmp_path / "scores.json"
    evaluation = evaluate(out, data, json=target)
    scores = json.loads(target.read_text())
    assert scores["mae"] == pytest.approx(0.1)
    assert scores["r2"] == pytest.approx(1 - 0.25 / 10)
    assert scores["coverage"] == pytest.approx(0.8)
    assert scores["patient_count"] == 3
    assert scores["cases"][0]["case"] == "c"
    low, high = scores["mae_interval"]
    assert low <= 0.1 <= high
    assert not (tmp_path / "scores-reliability.png").exists()
    assert "f" in str(evaluation.problems[0])
    edit(out, "0.6,1.4", "1.6,1.4")
    assert "low at most as large as high" in refusal(out, data)


def test_a_table_of_another_task_is_refused(folders: tuple[Path, Path]) -> None:
    table(folders[0] / "predictions.csv", ["case", "value", "low", "high"], [["glioma/g_0", 1, 0, 2]])
    assert "labels for classification; expected labels for regression" in refusal(*folders)


def test_the_interval_resamples_patients_not_cases() -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(2)[rng.integers(0, 2, 60)]
    p = rng.dirichlet(np.ones(2), 60)
    alone = score_classes([str(i) for i in range(60)], [str(i) for i in range(60)], targets, p, "ab")
    # The same cases ten times over, known to be of the same patients: no more is known than before.
    patients = [f"p{i}" for i in range(60)] * 10
    many = score_classes([str(i) for i in range(600)], patients, np.tile(targets, (10, 1)), np.tile(p, (10, 1)), "ab")
    width, again = (each["accuracy"].high - each["accuracy"].low for each in (alone, many))
    assert again == pytest.approx(width, rel=0.15)
    one = score_classes([str(i) for i in range(60)], ["p"] * 60, targets, p, "ab")
    assert one["accuracy"].value == alone["accuracy"].value
    assert np.isnan(one["accuracy"].low)


def test_a_score_that_noise_can_only_raise_lies_in_its_interval() -> None:
    # Perfectly calibrated: each resample adds noise to the calibration error, and its draws lie above it.
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3) / 2, 150)
    targets = np.eye(3)[[rng.choice(3, p=row) for row in p]]
    ids = [str(i) for i in range(150)]
    found = score_classes(ids, ids, targets, p, "abc")["ece"]
    assert 0 <= found.low < found.value < found.high


def test_estimates_in_parts_are_those_of_all_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, patients = np.arange(7.0), [str(i) for i in range(7)]

    def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": weights @ values / 7}

    monkeypatch.setattr("foveate.metrics.bootstrap._CHUNK", 7 * 300)
    low, high = np.percentile(draw_weights(patients) @ values / 7, [2.5, 97.5])
    assert estimates(mean, patients)["mean"] == pytest.approx((3.0, low, high))


def test_python_names_the_same_function(folders: tuple[Path, Path]) -> None:
    import foveate

    assert isinstance(foveate.evaluate(folders[0] / "predictions.csv", folders[1]), TaskEvaluation)
