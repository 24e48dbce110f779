"""The command line parses and calls, and tells people what to do in place of a traceback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from foveate import __version__
from foveate.cli import main
from foveate.errors import FoveateError, InputError, Problem, refuse


def foveate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "foveate", *map(str, arguments)], capture_output=True, text=True)


def leave(*arguments: object) -> int:
    """Run the command in this process; the exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code is None or isinstance(caught.value.code, int)
    return caught.value.code or 0


class Calls(list[tuple[tuple[Any, ...], dict[str, Any]]]):
    """Stands in for what a command calls."""

    def __init__(self, result: object = None) -> None:
        self.result = result

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.append((args, kwargs))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_help_lists_every_verb_and_needs_no_torch() -> None:
    code = "import sys, foveate.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    for verb in ("check", "train", "predict", "explain", "evaluate", "labels-needed", "demo", "bench"):
        assert f" {verb} " in result.stdout
    assert result.stdout.strip().endswith("False")


def test_version() -> None:
    result = foveate("--version")
    assert (result.returncode, result.stdout.strip()) == (0, f"foveate {__version__}")


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["train", "a", "b", "--mintues", "3"], ["train", "a", "b", "--steps", "x"]]
)
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    assert leave(*arguments) == 2


def test_train_hands_over_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = Calls(Path("r"))
    monkeypatch.setattr("foveate.engine.train.train", calls)
    assert leave("train", "d", "r") == 0
    names = "labelled minutes steps task method network init pretrain seed device config"
    nothing = dict.fromkeys(names.split())
    assert calls[0] == ((Path("d"), Path("r")), {**nothing, "set": (), "resume": False, "quiet": False})
    assert "report.html" in capsys.readouterr().out
    line = "train d r --labelled ids.txt --minutes 1.5 --task segmentation --method supervised --network unet"
    line += " --init old --seed 4 --pretrain dbn --device gpu:0 --config c.yaml --set a=1 --resume -q"
    assert leave(*line.split(), "--set", "b.c=[1, 2]") == 0
    assert calls[1][1] == {
        "labelled": Path("ids.txt"),
        "minutes": 1.5,
        "steps": None,
        "task": "segmentation",
        "method": "supervised",
        "network": "unet",
        "init": Path("old"),
        "pretrain": "dbn",
        "seed": 4,
        "device": "gpu:0",
        "config": Path("c.yaml"),
        "set": ["a=1", "b.c=[1, 2]"],
        "resume": True,
        "quiet": True,
    }
    assert capsys.readouterr().out == ""


def test_the_options_of_train_are_those_of_the_function() -> None:
    import inspect

    from foveate import cli
    from foveate.engine.train import train

    here = {name.rstrip("_") for name in inspect.signature(cli.train).parameters}
    assert here == set(inspect.signature(train).parameters)


def test_predict_hands_over(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = Calls([Path("out/a.nii.gz")])
    monkeypatch.setattr("foveate.predict.files.predict_files", calls)
    assert leave("predict", "r", "in", "out", "--mirror", "--views", "3", "--device", "cpu") == 0
    (args, named) = calls[0]
    assert args == (Path("r"), Path("in"), Path("out"))
    assert {"device": "cpu", "mirror": True, "views": 3}.items() <= named.items()
    named["progress"](1, 1)
    assert capsys.readouterr().out == "out/a.nii.gz\n"


def test_predict_says_what_it_noted_where_a_case_could_not_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def partly(*_: object, **named: object) -> None:
        named["note"]("heart: in 1 of 2 scans ...")  # type: ignore[operator]
        raise InputError(Problem("b.nii", "content", "text", "a NIfTI image", "Copy it again."))

    monkeypatch.setattr("foveate.predict.files.predict_files", partly)
    assert leave("predict", "r", "in", "out") == 1
    assert capsys.readouterr().err.startswith("heart: in 1 of 2 scans ...\nb.nii: content")


def test_evaluate_renders(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done: list[object] = []

    class Shown:
        def render(self, console: Console) -> None:
            console.print("the table")
            done.append("shown")

        def write(self, path: Path) -> None:
            done.append(path)

    calls = Calls(Shown())
    monkeypatch.setattr("foveate.metrics.dispatch.evaluate", calls)
    (tmp_path / "some.txt").write_text("b\na\n")
    target = tmp_path / "o.json"
    assert leave("evaluate", "p", "l", "--json", str(target), "--tolerance-mm", "2") == 0
    assert done == ["shown", target], "the numbers are shown before they are written"
    assert leave("evaluate", "p", "l", "--cases", str(tmp_path / "some.txt")) == 0
    assert calls == [
        ((Path("p"), Path("l")), {"tolerance_mm": 2.0, "cases": None}),
        ((Path("p"), Path("l")), {"tolerance_mm": None, "cases": tmp_path / "some.txt"}),
    ]
    assert "the table" in capsys.readouterr().out


def test_demo_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    monkeypatch.setattr("foveate.demo.run_demo", calls)
    assert leave("demo") == 0
    assert leave("demo", "there", "--minutes", "0.5") == 0
    assert [args for args, _ in calls] == [(Path("demo"), None), (Path("there"), 0.5)]


def test_check_says_with_its_exit_code_whether_to_train(tmp_path: Path) -> None:
    result = foveate("check", tmp_path)
    assert result.returncode == 1
    assert str(tmp_path) in (result.stdout + result.stderr).replace("\n", "")
    assert "Traceback" not in result.stderr


def test_an_error_of_ours_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = refuse("scans/[red]a.nii.gz", "affine", "NaN", "finite numbers", "Save it again." + " long" * 40)
    monkeypatch.setattr("foveate.engine.train.train", Calls(problem))
    assert leave("train", "d", "r") == 1
    err = capsys.readouterr().err
    assert err == str(problem) + "\n", "file names are shown as they are, and lines are not broken"
    assert leave("-v", "train", "d", "r") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_named_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr("foveate.engine.train.train", Calls(PermissionError(13, "Permission denied", "scans/images")))
    assert leave("train", "d", "r") == 1
    err = capsys.readouterr().err
    assert err.startswith("scans/images: Permission denied.")
    assert "Traceback" not in err


def test_the_exit_code_is_that_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(FoveateError):
        exit_code = 143

    monkeypatch.setattr("foveate.engine.train.train", Calls(Asked("Stopped.")))
    assert leave("train", "d", "r") == 143


def test_every_problem_has_its_line() -> None:
    from foveate.errors import InputError

    problems = [Problem(f"file{i}", "field", "a", "b", "Fix it.") for i in range(3)]
    assert str(InputError(problems)).count("\n") == 2


def test_warnings_come_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    def warn(*_: object, **__: object) -> Path:
        warnings.warn("step-9 is damaged. Falling back to step-8.", stacklevel=1)
        return Path("r")

    monkeypatch.setattr("foveate.engine.train.train", warn)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert leave("train", "d", "r") == 0
    assert capsys.readouterr().err == "warning: step-9 is damaged. Falling back to step-8.\n"


def test_help_of_train_names_every_method_and_network_and_the_defaults() -> None:
    from foveate.config import Config
    from foveate.methods import METHODS
    from foveate.networks import NETWORKS

    text = " ".join(foveate("train", "--help").stdout.replace("│", " ").split())
    for name in [*METHODS, *NETWORKS]:
        assert name in text
    assert "supervised (default)" in text
    assert "mean_teacher (default where few of many images have a label or a class)" in text
    assert f"{Config().network.name} (default)" in text
