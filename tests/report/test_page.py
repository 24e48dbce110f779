"""The page as a browser gets it: whole, worst first, escaped, and in need of nothing else."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.report.page import ReportCase, write_report

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Fails on a tag that is closed in the wrong place; keeps tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def case(name: str, dice: float | None, **changes: object) -> ReportCase:
    rng = np.random.default_rng(0)
    label = np.zeros((14, 16, 10), dtype=np.uint8)
    label[3:9, 4:11, 2:7] = 1
    values = {
        "image": rng.random(label.shape, dtype=np.float32),
        "spacing": (1.0, 1.0, 2.0),
        "label": label,
        "prediction": np.roll(label, 1, axis=0),
        "affine": np.diag([1.0, 1.0, 2.0, 1.0]),
        "caption": f"caption of {name}",
    } | changes
    return ReportCase(name, dice=dice, **values)  # type: ignore[arg-type]


RECORDS = [{"step": s, "loss": 1 / (s + 1), "learning_rate": 1e-3, "seconds": s, "dice": None} for s in range(5)]


def test_everything_is_on_the_page_worst_case_first(tmp_path: Path) -> None:
    target = write_report(
        tmp_path,
        title="Title",
        subtitle="Subtitle",
        notes=["four labelled cases"],
        table=[{"method": "supervised", "dice": 0.81234, "dice_interval": (0.7, 0.9), "seconds": None}],
        curves={"supervised": [*RECORDS, {"step": 5, "dice": 0.5}]},
        cases=[case("good", 0.9), case("unscored", None), case("bad", 0.2), case("lost", float("nan"))],
        classes=["ventricle"],
        command="foveate train data run",
        provenance={"seed": 7, "versions": {"torch": "2.13"}},
    )
    assert target == tmp_path / "report.html"
    page = Page(target.read_text(encoding="utf-8"))
    order = [page.text.index(f"caption of {name}") for name in ("bad", "good", "unscored", "lost")]
    assert order == sorted(order)
    for text in (
        *("Title", "Subtitle", "four labelled cases", "0.812", "0.700 to 0.900", "ventricle", "foveate train data run"),
        *("versions.torch", "2.13", "Validation Dice", "Radiological display", "not a medical device"),
    ):
        assert text in page.text or any(text in (attributes.get("alt") or "") for _, attributes in page.tags)
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3 + 4 * 3  # three curves, three planes of each case
    for source in pictures:
        assert source is not None
        data = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()


def test_text_from_files_cannot_become_markup(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"
    text = write_report(
        tmp_path / "page.html",
        title=attack,
        subtitle=attack,
        notes=[attack],
        table=[{attack: attack}],
        curves={attack: RECORDS},
        cases=[case(attack, 0.5, caption=attack)],
        classes=[attack],
        command=attack,
        provenance={attack: {attack: [attack]}},
    ).read_text(encoding="utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(
        (attributes.get("src") or "").startswith("data:image/png") for tag, attributes in page.tags if tag == "img"
    )
    assert page.text.count("<script>alert(1)</script>") >= 8  # shown as the text it is
    assert "{{ 7*7 }}" in page.text


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = write_report(tmp_path, title="t", cases=[case("a", 0.5)], classes=["x"], curves={"run": RECORDS})
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("labelled", [True, False])
def test_pictures_and_scans_without_label(tmp_path: Path, labelled: bool) -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((30, 50), dtype=np.uint8)
    label[5:20, 10:30] = 2
    shown = ReportCase("p", rng.random(label.shape), (1.0, 1.0), label if labelled else None, label, 0.5)
    page = Page(write_report(tmp_path, title="t", cases=[shown], classes={"cell": (1, 2)}).read_text(encoding="utf-8"))
    assert ("label" in page.text.split()) is labelled
    assert "Radiological" not in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 1


def test_an_empty_page_and_odd_values_still_give_a_page(tmp_path: Path) -> None:
    flat = case("flat", 0.0, image=np.full((14, 16, 10), np.nan), prediction=np.zeros((14, 16, 10)), label=None)
    page = Page(write_report(tmp_path, title="t", cases=[flat], classes=["x"]).read_text(encoding="utf-8"))
    assert "flat" in page.text
    empty = Page(write_report(tmp_path, title="only a title").read_text(encoding="utf-8"))
    assert "only a title" in empty.text
