"""The demo, small: through the command, offline, over an earlier demo, and honest about a loss."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foveate import demo

pytest.importorskip("nilearn", reason="the demo's template comes with nilearn")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the demo opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.timeout(900)  # half a minute on two free cores; a busy machine takes many times that
@pytest.mark.usefixtures("offline")
def test_demo_compares_two_methods_and_keeps_an_earlier_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveate.cli import app

    for name, size in (("LABELLED", 2), ("UNLABELLED", 2), ("TEST", 3), ("FEW_STEPS", 10**6)):
        monkeypatch.setattr(demo, name, size)
    earlier = tmp_path / "out" / "1" / "report.html"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("an earlier demo")
    result = CliRunner().invoke(app, ["demo", str(tmp_path / "out"), "--minutes", "0.15"])
    assert result.exit_code == 0, result.output
    assert earlier.read_text() == "an earlier demo"
    folder = tmp_path / "out" / "2"
    methods = {demo.BASELINE, demo.COMPARED}
    assert {path.stem for path in (folder / "scores").iterdir()} == methods
    assert all(method in result.output for method in methods)
    assert str(folder / "report.html") in result.output.replace("\n", "")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "simulated on real anatomy" in page
    assert "hardly trained" in page
    plans = [(folder / method / "plan.json").read_text() for method in methods]
    assert plans[0] == plans[1]  # both trained the same network


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("offline")
def test_demo_of_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveate import demo_classification
    from foveate.cli import app

    for name, size in (("LABELLED", 3), ("UNLABELLED", 9), ("TEST", 12)):
        monkeypatch.setattr(demo_classification, name, size)
    monkeypatch.setattr(demo, "FEW_STEPS", 10**6)
    result = CliRunner().invoke(app, ["demo", str(tmp_path / "out"), "--task", "classification", "--minutes", "0.15"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "1"
    for method in (demo.BASELINE, demo.COMPARED):
        assert (folder / "predictions" / method / "predictions.csv").read_text().count("\n") == 13
        assert method in result.output
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "hardly trained" in page
    assert "accuracy, 95% interval" in page


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("offline")
def test_demo_of_detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveate import demo_detection
    from foveate.cli import app

    for name, size in (("LABELLED", 3), ("UNLABELLED", 4), ("TEST", 3)):
        monkeypatch.setattr(demo_detection, name, size)
    monkeypatch.setattr(demo, "FEW_STEPS", 10**6)
    result = CliRunner().invoke(app, ["demo", str(tmp_path / "out"), "--task", "detection", "--minutes", "0.1"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "1"
    for method in (demo.BASELINE, demo.COMPARED):
        found = json.loads((folder / "predictions" / method / "predictions.json").read_text())
        assert len(found["images"]) == len(list((folder / "predictions" / method / "pictures").iterdir())) == 3
        assert method in result.output
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "hardly trained" in page
    assert "These pictures are drawn" in page


@pytest.mark.parametrize(
    ("interval", "words"),
    [((0.01, 0.002, 0.02), "better"), ((-0.01, -0.02, -0.002), "worse"), ((0.01, -0.01, 0.03), "cannot be told apart")],
)
def test_the_verdict_follows_the_interval(interval: tuple[float, float, float], words: str) -> None:
    assert words in demo.verdict("mean_teacher", *interval)


def test_a_comparison_that_the_machine_decided_is_marked():
    assert demo.hardly_trained({"a": 120, "b": 150}) == ""
    assert "120 steps and another 240" in demo.hardly_trained({"a": 240, "b": 120})
    assert "hardly trained" in demo.hardly_trained({"a": 40, "b": 41})
