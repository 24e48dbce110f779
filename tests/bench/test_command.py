"""The public command, from a folder of scans to the table, killed on its way; and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from made import dataset, ids, row

from foveate.bench import label_efficiency as bench
from foveate.bench.draws import Draws
from foveate.bench.pools import read_pools
from foveate.bench.rows import append_row, read_rows
from foveate.bench.runs import Bench, Run
from foveate.cli import main
from foveate.errors import FoveateError, InputError


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.timeout(900)  # ten processes that import torch: minutes on a machine that is busy otherwise
@pytest.mark.skipif(sys.platform != "linux", reason="kills with SIGKILL, and counts on training to end with it")
def test_killed_while_training_it_goes_on_to_its_one_row(tmp_path: Path) -> None:
    data, score, page = dataset(tmp_path / "toy"), ids(tmp_path / "held.txt", "c6", "c7"), tmp_path / "page.md"
    page.write_text("<!-- begin toy -->\n<!-- end toy -->\n")
    results, work = tmp_path / "results", tmp_path / "work" / "toy" / "held"
    arguments = f"{data} --score {score} --methods supervised --labels 2 --seeds 1 --minutes 0.3 --threads 1"
    arguments += f" --classes front=1,back=2 --results {results} --work {tmp_path / 'work'} --docs {page}"
    command = [sys.executable, "-m", "foveate", "bench", "label-efficiency", *arguments.split()]

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not list(work.glob("*/*/*/log.jsonl")):  # training
        assert first.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr

    (found,) = read_rows(results / "toy.csv")
    assert (found["method"], found["labels"], found["train_cases"]) == ("supervised", "2", "6")
    assert int(found["steps"]) > 0
    assert float(found["cpu_seconds"]) > 0
    assert set(found["cases"]) == {"c6", "c7"}
    (train,) = work.glob("*/train")
    assert files(train / "images") == {f"c{number}.nii.gz" for number in range(6)}
    run = next(folder for folder in work.glob("*/*/held-supervised-2-*") if folder.is_dir())
    record = json.loads((run / "provenance.json").read_text())
    assert sum(part["label"] is not None for part in record["data"].values()) == 2
    scores = json.loads((run / "benchmark" / "scores.json").read_text())
    assert float(found["dice"]) == pytest.approx(scores["dice"], abs=1e-5)
    assert float(found["dice_front"]) == pytest.approx(scores["dice/front"], abs=1e-5)
    kept = {"toy.csv", "toy_cases", "toy-held-0.3min-1t-cpu.png", "toy-held-1t-cpu.plan.json"}
    assert files(results) == kept, "and no lock"
    assert "| 2 | supervised | 1 |" in page.read_text()
    assert "results/toy-held-0.3min-1t-cpu.png" in page.read_text()


def settings(tmp_path: Path, **more: Any) -> bench.Settings:
    values: dict[str, Any] = {
        "data": tmp_path / "toy",
        "score": tmp_path / "held.txt",
        "labels": (2,),
        "seeds": 1,
        "threads": 2,
        "results": tmp_path / "results",
        "work": tmp_path / "work",
    }
    return bench.Settings(**values | more)


def test_a_dry_run_lists_what_is_left_and_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    append_row(tmp_path / "results" / "toy.csv", row(scored="held", labels="2"))
    told: list[str] = []
    assert bench.label_efficiency(settings(tmp_path, dry_run=True, ceiling=True), told.append) == ""
    assert told == [
        "1 of 3 runs are done; to do: held-mean_teacher-2-s0-15min-2t-cpu, held-supervised-all-s0-15min-2t-cpu"
    ]
    assert not (tmp_path / "work").exists()


def test_the_table_needs_the_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for found in (row(scored="held"), row("mean_teacher", scored="held", dice=0.75), row(scored="other")):
        append_row(tmp_path / "results" / "toy.csv", found)
    text = bench.label_efficiency(settings(tmp_path, only_table=True))
    assert text.count("| 8 |") == 2
    assert "-0.0500 (-0.0500 to -0.0500)" in text
    assert files(tmp_path / "results") == {"toy.csv", "toy_cases", "toy-held-15min-2t-cpu.png"}


PLAN = json.dumps({"dims": 3, "spacing": [1, 1, 1], "patch": [8, 8, 8], "batch": 2, "widths": [4, 8]})
ONE_CASE = {"c3": {"patient": "c3", "dice": [0.5, 0.5]}}


def prepared(tmp_path: Path, **of_the_row: Any) -> Path:
    """Four cases of which c3 is scored, a plan, and a row of another run; returns the folder of the scans."""
    data = dataset(tmp_path / "toy", 4)
    ids(tmp_path / "held.txt", "c3")
    plan = tmp_path / "results" / "toy-held-2t-cpu.plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(PLAN)
    there = {"scored": "held", "labels": "2", "train_cases": "3", "cases": ONE_CASE}
    append_row(tmp_path / "results" / "toy.csv", row(**there | of_the_row))
    return data


def test_rows_that_had_other_cases_are_not_joined(tmp_path: Path) -> None:
    prepared(tmp_path)
    without = ids(tmp_path / "out.txt", "c2")
    with pytest.raises(InputError, match="found 2 cases, without out; expected 3 cases, without none"):
        bench.label_efficiency(settings(tmp_path, without=without))
    with pytest.raises(InputError, match="--classes: names: found class 1, class 2; expected front, back, as in the"):
        bench.label_efficiency(settings(tmp_path))
    ids(tmp_path / "held.txt", "c2")
    with pytest.raises(InputError, match="2 cases that are not in both, such as c2"):
        bench.label_efficiency(settings(tmp_path))


def test_a_run_that_fails_leaves_the_table_and_an_error_that_names_its_log(tmp_path: Path) -> None:
    prepared(tmp_path)
    adapter = tmp_path / "adapter.py"
    adapter.write_text("import sys; sys.exit('this peer has no ' + sys.argv[sys.argv.index('--device') + 1])")
    asked = settings(tmp_path, methods=["supervised"], peers={"other": adapter}, classes={"front": 1, "back": 2})
    with pytest.warns(UserWarning, match="another plan"), pytest.raises(FoveateError) as caught:
        bench.label_efficiency(asked)
    assert "--threads 2 --classes front=1,back=2`" in str(caught.value)
    assert "this peer has no cpu" in str(caught.value)
    assert re.search(r"held-peer_other-2-s0-15min-2t-cpu-\w+\.log", str(caught.value))
    assert "| 2 | supervised | 1 |" in str(caught.value)


ADAPTER = """
import json, shutil, sys
from pathlib import Path
train, labelled, images, out = map(Path, sys.argv[1:5])
assert sys.argv[5:] == "--minutes 15 --threads 2 --seed 0 --device cpu --clock wall".split(), sys.argv
cases = labelled.read_text().split()
(out / "predictions").mkdir()
for image in images.iterdir():  # every case gets the first labelled case's label
    shutil.copy(train / "labels" / f"{cases[0]}.nii.gz", out / "predictions" / image.name)
(out / "peer.json").write_text(json.dumps({"steps": len(cases), "plan": "copied"}))
"""


def test_a_peer_is_scored_like_everybody(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    data = prepared(tmp_path, plan="spacing 1x1x1 mm, patch 8x8x8, batch 2, widths 4x8")
    ids(data / "labelled_2.txt", "c0", "c1")
    (tmp_path / "adapter.py").write_text(ADAPTER)
    classes = {"front": 1, "back": 2}
    asked = settings(tmp_path, methods=["supervised"], peers={"copy": tmp_path / "adapter.py"}, classes=classes)
    text = bench.label_efficiency(asked)
    assert not [warning for warning in recwarn if "another plan" in str(warning.message)]
    assert "| 2 | peer:copy | 1 |" in text
    found = read_rows(tmp_path / "results" / "toy.csv")[1]
    assert (found["method"], found["steps"], found["plan"]) == ("peer:copy", "2", "copied")
    guess, true = (np.asarray(nib.load(data / "labels" / f"{case}.nii.gz").dataobj) for case in ("c0", "c3"))
    for value, name in ((1, "front"), (2, "back")):
        dice = 2 * ((guess == value) & (true == value)).sum() / ((guess == value).sum() + (true == value).sum())
        assert float(found[f"dice_{name}"]) == pytest.approx(dice, abs=1e-5)


def test_a_command_with_other_lists_takes_nothing_over_and_changes_nothing(tmp_path: Path) -> None:
    data = dataset(tmp_path / "toy", 5)
    ids(tmp_path / "held.txt", "c3")
    (tmp_path / "adapter.py").write_text(ADAPTER)
    for name, without in (("a", None), ("b", ids(tmp_path / "out.txt", "c2")), ("c", None)):
        results = tmp_path / name
        results.mkdir()
        (results / "toy-held-2t-cpu.plan.json").write_text(PLAN)
        if name == "c":  # the cases of "a" with another label
            (data / "labels" / "c0.nii.gz").write_bytes((data / "labels" / "c4.nii.gz").read_bytes())
            os.utime(data / "labels" / "c0.nii.gz", (0, 0))
        peers = {"copy": tmp_path / "adapter.py"}
        bench.label_efficiency(settings(tmp_path, methods=[], peers=peers, results=results, without=without))
        (found,) = read_rows(results / "toy.csv")
        assert found["train_cases"] == ("3" if without else "4")
    assert sorted(len(files(folder)) for folder in (tmp_path / "work").glob("toy/held/*/train/images")) == [3, 4, 4]
    runs = [path for path in (tmp_path / "work").glob("toy/held/*/*/held-*") if path.is_dir()]
    assert len(runs) == 3


def test_a_peer_killed_before_its_predictions_are_in_place_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path)
    (tmp_path / "adapter.py").write_text(ADAPTER)
    asked = settings(tmp_path, methods=[], peers={"copy": tmp_path / "adapter.py"}, classes={"front": 1, "back": 2})
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name == "predictions":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        bench.label_efficiency(asked)
    monkeypatch.undo()
    assert "| 2 | peer:copy | 1 |" in bench.label_efficiency(asked)


def test_another_plan_or_adapter_is_another_run_folder(tmp_path: Path) -> None:
    pools = read_pools(dataset(tmp_path / "toy", 3), ids(tmp_path / "held.txt", "c2"))
    plan, adapter = tmp_path / "plan.json", tmp_path / "adapter.py"
    draws = Draws(tmp_path / "toy", pools.train.labelled, pools.classes, pools.shows)
    where = {"peers": {"copy": adapter}, "work": tmp_path / "work", "plan": plan, "commit": "abc"}
    made = Bench("toy", pools, draws, "", 2, "cpu", "wall", **where)
    ours, peers = (Run("held", method, "2", 0, 15.0, 2, "cpu") for method in ("supervised", "peer:copy"))
    folders = []
    for plan_text, adapter_text in (("{}", ""), ("{}", "pass"), ("{ }", "pass")):
        plan.write_text(plan_text)
        adapter.write_text(adapter_text)
        folders.append((made.folder(ours), made.folder(peers)))
    assert [len(set(column)) for column in zip(*folders, strict=True)] == [2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["mean_techer"]}, "Did you mean 'mean_teacher'"),
        ({"methods": ["masked_autoencoder"]}, "found masked_autoencoder; expected all, or one of supervised"),
        ({"methods": ["supervised+pretrain=dbm"]}, r"pretrain= and one of masked_autoencoder, dbn"),
        ({"methods": ["supervised+skip"]}, r"found supervised\+skip; expected pretrain="),
        ({"methods": ["supervised+optimiser.emma=0.9"]}, r"optimiser.emma: found an unknown key"),
        ({"methods": ["supervised+network.name=../unet"]}, r"or SETTING=VALUE, after the \+"),
        ({"labels": (0,)}, "at least one label"),
        ({"seeds": 0}, "--seeds"),
        ({"minutes": -1.0}, "--minutes"),
        ({"clock": "sun"}, "--clock"),
        ({"peers": {"a/b": Path("x")}}, "letters, digits"),
        ({"peers": {"ab": Path("absent.py")}}, "absent.py"),
        ({"docs": (Path("absent.md"), "toy")}, "absent.md"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench.label_efficiency(settings(tmp_path, **changes))


def test_every_method_can_be_asked_for_at_once(tmp_path: Path) -> None:
    from foveate.methods import METHODS

    found = bench.check_methods(settings(tmp_path, methods=["all"]))
    assert set(METHODS) - set(found) == {"masked_autoencoder", "deep_belief", "adversarial_constraint"}


def test_the_command_hands_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[bench.Settings] = []
    monkeypatch.setattr(bench, "label_efficiency", lambda asked, told: given.append(asked) or "")
    line = (
        "bench label-efficiency a_b --score s.txt --methods all --labels 4,8 --seeds 2 --minutes 1.5 --without w.txt "
        "--ceiling --peer x=y.py --peer z=w=.py --threads 3 --device gpu --clock processor --classes one=1,two=2 "
        "--results r --work w --docs d.md --dry-run --only-table"
    )
    for extra, section in (([], "a-b"), (["--section", "c"], "c")):
        with pytest.raises(SystemExit) as caught:
            main([*line.split(), *extra])
        assert not caught.value.code
        assert given[-1] == bench.Settings(
            data=Path("a_b"),
            score=Path("s.txt"),
            methods=["all"],
            labels=[4, 8],
            seeds=2,
            minutes=1.5,
            without=Path("w.txt"),
            ceiling=True,
            peers={"x": Path("y.py"), "z": Path("w=.py")},
            threads=3,
            device="gpu",
            clock="processor",
            classes={"one": 1, "two": 2},
            results=Path("r"),
            work=Path("w"),
            docs=(Path("d.md"), section),
            dry_run=True,
            only_table=True,
        )
    with pytest.raises(SystemExit):
        main(["bench", "label-efficiency", "d"])  # without --score
    for wrong in (["--labels", "4,x"], ["--classes", "a=0"], ["--classes", "a"], ["--peer", "a"]):
        with pytest.raises(SystemExit) as caught:
            main(["bench", "label-efficiency", "d", "--score", "s.txt", *wrong])
        assert caught.value.code == 1
