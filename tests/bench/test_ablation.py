"""The ablation of attention blocks: what is run, and the table of it."""

from pathlib import Path
from typing import Any

import pytest
from made import ids, row

from foveate.attention import ATTENTION
from foveate.bench.ablation import Ablation, ablation, judge, render_ablation
from foveate.bench.label_efficiency import check_methods
from foveate.bench.rows import append_row
from foveate.bench.runs import Bench, split_variant, variant
from foveate.config import AttentionSlots, load_config
from foveate.errors import InputError
from foveate.metrics.bootstrap import Estimate


def settings(tmp_path: Path, **more: Any) -> Ablation:
    values: dict[str, Any] = {"data": tmp_path / "toy", "score": tmp_path / "test.txt", "labels": (8,), "seeds": 1}
    return Ablation(**values | {"threads": 2, "results": tmp_path, "work": tmp_path / "work"} | more)


def test_each_block_runs_in_a_slot_that_there_is_beside_nothing_and_its_convolution(tmp_path: Path) -> None:
    names = settings(tmp_path).variants()
    assert names[0] == "supervised"
    assert len(names) == len(set(names)) == 1 + 2 * len(ATTENTION)
    for name in names[1:]:
        ((slot, block),) = split_variant(name)[1].items()
        assert slot in AttentionSlots.model_fields
        assert block.removeprefix("convolution_like_") in ATTENTION
    assert settings(
        tmp_path, blocks=("gate",), methods=("supervised", "mean_teacher"), convolutions=False
    ).variants() == [
        "supervised",
        "mean_teacher",
        "supervised+skip=gate",
        "mean_teacher+skip=gate",
    ]
    with pytest.raises(InputError, match=r"gat.*expected all, or one of gate"):
        settings(tmp_path, blocks=("gat",)).variants()
    with pytest.raises(InputError, match="methods alone"):
        settings(tmp_path, methods=("supervised+pretrain=dbn",)).variants()


def test_a_variant_is_the_method_with_a_block_in_the_network(tmp_path: Path) -> None:
    bench = Bench("toy", None, None, "", 1, "cpu", "wall", {}, tmp_path, tmp_path)  # type: ignore[arg-type]  # neither is read
    command = [str(part) for part in bench._train(variant("mean_teacher", "skip", "gate"), tmp_path, None, 0)]
    assert command[command.index("--method") + 1] == "mean_teacher"
    sets = [command[place + 1] for place, part in enumerate(command) if part == "--set"]
    assert load_config(None, sets).network.attention == AttentionSlots(skip="gate")
    assert "--pretrain" not in command


def test_a_variant_may_be_pretrained(tmp_path: Path) -> None:
    bench = Bench("toy", None, None, "", 1, "cpu", "wall", {}, tmp_path, tmp_path)  # type: ignore[arg-type]  # neither is read
    (name,) = check_methods(settings(tmp_path, methods=("mean_teacher+pretrain=dbn",)))
    command = [str(part) for part in bench._train(name, tmp_path, None, 0)]
    assert command[command.index("--method") + 1] == "mean_teacher"
    assert command[command.index("--pretrain") + 1] == "dbn"
    assert not any("attention" in part for part in command)


def test_a_variant_may_train_by_another_setting(tmp_path: Path) -> None:
    bench = Bench("toy", None, None, "", 1, "cpu", "wall", {}, tmp_path, tmp_path)  # type: ignore[arg-type]  # neither is read
    (name,) = check_methods(settings(tmp_path, methods=("fixmatch+method.confidence=0.5+optimiser.ema=0.99",)))
    command = [str(part) for part in bench._train(name, tmp_path, None, 0)]
    sets = [command[place + 1] for place, part in enumerate(command) if part == "--set"]
    found = load_config(None, sets)
    assert (found.method.confidence, found.optimiser.ema) == (0.5, 0.99)


def test_table_pairs_a_block_with_nothing_and_with_its_convolution(tmp_path: Path) -> None:
    rows = [
        row("supervised", dice=0.80),
        row("supervised+skip=gate", dice=0.83),
        row("supervised+skip=convolution_like_gate", dice=0.81),
        row("supervised+encoder=squeeze_excite", dice=0.79),
        row("mean_teacher", dice=0.90),
        row("mean_teacher+skip=gate", dice=0.85),
    ]
    lines = [line.split(" | ") for line in render_ablation(rows).splitlines() if line.startswith("| ")]
    found = {(line[0].removeprefix("| "), line[2]): (line[5], line[6]) for line in lines[2:]}
    assert found["none", "supervised"] == ("-", "-")
    assert found["gate", "supervised"][0].startswith("+0.0300 (")
    assert found["gate", "supervised"][1].startswith("+0.0200 (")
    assert found["squeeze_excite", "supervised"] == ("-0.0100 (-0.0100 to -0.0100)", "-")
    assert found["gate", "mean_teacher"][0].startswith("-0.0500 (")
    assert "--blocks all" in render_ablation(rows) or "--blocks gate,squeeze_excite" in render_ablation(rows)


def test_a_block_earns_its_place_by_three_seeds_ahead_of_none_and_of_its_convolution() -> None:
    ahead, level, behind = Estimate(0.02, 0.01, 0.03), Estimate(0.0, -0.01, 0.01), Estimate(-0.02, -0.03, -0.01)
    assert judge(ahead, ahead, 3) == "earns its place"
    assert judge(ahead, ahead, 2).startswith("ahead of none, on fewer")
    for control in (level, behind, None):
        assert judge(ahead, control, 3) == "ahead of none, not of its convolution"
    assert judge(level, ahead, 3) == "no difference shown"
    assert judge(behind, ahead, 3) == "worse than none"
    assert judge(behind, ahead, 1).startswith("behind none, on fewer")


def test_the_table_and_its_picture_need_the_rows_alone(tmp_path: Path) -> None:
    ids(tmp_path / "test.txt", "c0")
    page = tmp_path / "page.md"
    page.write_text("<!-- begin toy-ablation -->\n<!-- end toy-ablation -->\n")
    for each in (row("supervised"), row("supervised+skip=gate", dice=0.83)):
        append_row(tmp_path / "toy-ablation.csv", each)
    chosen = {"only_table": True, "minutes": 15.0, "docs": (page, "toy-ablation")}
    text = ablation(settings(tmp_path, **chosen))
    assert "| gate | skip | supervised | 1 |" in text
    assert text in page.read_text()
    assert (tmp_path / "toy-ablation-test-15min-2t-cpu.png").read_bytes().startswith(b"\x89PNG")
