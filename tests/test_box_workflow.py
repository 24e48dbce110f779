"""From a folder with boxes and masks of other scans to a model; which mask belongs to which image is nowhere in it."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from foveate.cohort.plan import ChannelPlan
from foveate.errors import InputError
from foveate.predict.model_file import load_model
from foveate.report.run import read_log
from toys import tiny_plan

PLAN = tiny_plan(2, classes={"ball": 1}, channels=(ChannelPlan(name="grey", normalisation="zscore"),), batch=2)
SHAPE = (20, 22)


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture and its mask."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(SHAPE)
    mask = (rows - random.integers(7, 13)) ** 2 + (columns - random.integers(8, 14)) ** 2 < random.integers(9, 25)
    return (60 * mask + random.integers(0, 90, SHAPE)).astype(np.uint8), mask.astype(np.uint8)


def write(folder: Path, array: np.ndarray, name: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(folder / f"{name}.png")


def dataset(root: Path, masks: Sequence[int] = (), labels: Sequence[int] = (), boxes: bool = True) -> Path:
    """Three pictures with boxes; ``masks`` named by their order; pictures with ``labels`` of other seeds."""
    lines = ["case,class,low_0,low_1,high_0,high_1"]
    for seed in range(3):
        image, mask = ball(seed)
        write(root / "images", image, f"box{seed}")
        places = np.argwhere(mask)
        lines.append(",".join(map(str, [f"box{seed}", "ball", *places.min(0), *(places.max(0) + 1)])))
    (root / "dataset.json").write_text('{"labels": {"background": 0, "ball": 1}}')
    if boxes:
        (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    for number, seed in enumerate(masks):
        write(root / "masks", ball(seed)[1], f"mask{number}")
    for number, seed in enumerate(labels):
        write(root / "images", ball(10 + number)[0], f"whole{number}")
        write(root / "labels", ball(seed)[1], f"whole{number}")
    return root


def train(data: Path, run: Path, **options: object) -> dict[str, np.ndarray]:
    """The weights of a run of four steps."""
    run.mkdir()
    PLAN.write(run / "plan.json")
    options = {"method": "adversarial_constraint", "steps": 4, "device": "cpu", "quiet": True} | options
    foveate.train(data, run, **options)  # type: ignore[arg-type]
    return {name: value.numpy() for name, value in load_model(run / "model").state.items()}


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_permuting_masks_changes_nothing_bit_for_bit_and_other_masks_do(tmp_path: Path) -> None:
    first = train(dataset(tmp_path / "a", masks=(20, 21, 22)), tmp_path / "run_a")
    assert any(name.startswith("boxes.") for name in first)
    assert equal(first, train(dataset(tmp_path / "b", masks=(22, 20, 21)), tmp_path / "run_b"))
    assert not equal(first, train(dataset(tmp_path / "c", masks=(23, 24, 25)), tmp_path / "run_c"))
    answer = foveate.load(tmp_path / "run_a", device="cpu").predict(tmp_path / "a" / "images" / "box0.png")
    assert answer.shape == SHAPE


def test_the_loss_that_is_shown_is_the_networks_and_the_critics_stands_beside_it(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    train(dataset(tmp_path / "a", masks=(20, 21, 22)), run, quiet=False)
    (record,) = [record for record in read_log(run) if "losses" in record]
    assert {"box", "sections", "outside", "shape", "critic", "penalty"} == record["losses"].keys()
    critic = record["losses"].pop("critic") + record["losses"].pop("penalty")
    assert record["loss"] == pytest.approx(sum(record["losses"].values()))
    assert record["loss"] != pytest.approx(record["loss"] + critic)
    line = capsys.readouterr().out.split("step 4/4")[1]
    assert re.match(r"  loss -?[\d.]+  critic's loss -?[\d.]+  lr", line)


def test_options_that_mean_nothing_to_a_method_are_said(tmp_path: Path, capsys) -> None:
    given = ["method.start=0.5", "method.confidence=0.9", "method.box_weight=2"]
    train(dataset(tmp_path / "a", masks=(20, 21, 22)), tmp_path / "run", quiet=False, set=given)
    said = " ".join(capsys.readouterr().out.split())
    assert "method.start=0.5 is not used: it means nothing to adversarial_constraint." in said
    assert "method.confidence=0.9 is not used" in said
    assert said.count("is not used") == 2


def test_permuting_which_label_belongs_to_which_image_changes_nothing_unless_pairs_teach(tmp_path: Path) -> None:
    pairs = dataset(tmp_path / "pairs", labels=(10, 11, 12)), dataset(tmp_path / "permuted", labels=(12, 10, 11))
    a, b = (train(data, tmp_path / f"run_{data.name}") for data in pairs)
    assert equal(a, b)
    paired = ["method.paired_masks=true"]
    a, b = (train(data, tmp_path / f"paired_{data.name}", set=paired) for data in pairs)
    assert not equal(a, b)


def test_a_fusion_network_learns_from_boxes_and_is_reported_and_explained(tmp_path: Path) -> None:
    data, run = dataset(tmp_path / "data", masks=(20, 21, 22)), tmp_path / "run"
    assert any(name.startswith("boxes.") for name in train(data, run, network="fusion_unet"))
    assert (run / "report.html").exists()
    foveate.explain(run, data / "images" / "box0.png", tmp_path / "maps", device="cpu")
    assert (tmp_path / "maps" / "explain.json").exists()


def test_what_is_missing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"method": "adversarial_constraint", "steps": 1, "device": "cpu", "quiet": True}
    for found, data, more in (
        ("no case with a box", dataset(tmp_path / "a", masks=(20,), boxes=False), []),
        ("none, and no label", dataset(tmp_path / "b"), []),
        ("true, and no label", dataset(tmp_path / "c", masks=(20,)), ["method.paired_masks=true"]),
    ):
        with pytest.raises(InputError, match=found):
            foveate.train(data, run, set=more, **options)  # type: ignore[arg-type]
        assert not run.exists()
    names = ", ".join(f'"c{value}": {value}' for value in range(1, 9))
    data = dataset(tmp_path / "d", masks=(20,))
    (data / "dataset.json").write_text(f'{{"labels": {{"background": 0, {names}}}}}')
    (data / "boxes.csv").write_text((data / "boxes.csv").read_text().replace("ball", "c1"))
    with pytest.raises(InputError, match="8 classes; expected 1 to 7"):
        foveate.train(data, run, **options)  # type: ignore[arg-type]


def test_without_the_critic_boxes_are_enough(tmp_path: Path) -> None:
    weights = train(dataset(tmp_path / "a"), tmp_path / "run", set=["method.critic_weight=0"])
    assert all(np.isfinite(values).all() for values in weights.values())
    logged = (tmp_path / "run" / "log.jsonl").read_text()
    assert "sections" in logged
    assert "critic" not in logged
