"""From files to files: maps on the input's own grid, a picture, a list, and nothing that was there replaced."""

import csv
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tests.toys import tiny_plan
from torch import nn

import foveate
from foveate.cli import main
from foveate.cohort.plan import ChannelPlan
from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.explanations.maps import MapName
from foveate.explanations.pictures import Panel, overview, shades
from foveate.networks import build_network
from foveate.predict.predictor import Predictor
from foveate.slices import best_cut
from foveate.tasks import build_task

# Thick slices, axes permuted and turned by 20 degrees.
TURN = np.array([[np.cos(0.35), -np.sin(0.35), 0], [np.sin(0.35), np.cos(0.35), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.array([[0, 0, -3.0], [-1, 0, 0], [0, 1.2, 0]])
AFFINE[:3, 3] = 40, -30, 7


class Bright(nn.Module):
    """Attention to what is bright, on the network's way in."""

    def attention(self, x):
        return x[:, :1].relu()

    def forward(self, x):
        return x


def looking(dims: int, **slots: str) -> Predictor:
    torch.manual_seed(0)
    plan = tiny_plan(dims)
    task = build_task(plan)
    network = build_network(NetworkConfig(attention=slots), plan, task.channels)
    network.encoder[0].insert(0, Bright())
    return Predictor(network, task, plan, precision="float32")


def blob(shape: tuple[int, ...]) -> np.ndarray:
    """A smooth bump off the middle, as float32."""
    distance = sum(((i - 0.4 * n) / (0.2 * n)) ** 2 for i, n in zip(np.indices(shape), shape, strict=True))
    return (100 * np.exp(-distance)).astype(np.float32)


@pytest.mark.parametrize("at_once", [True, False])
def test_maps_lie_where_the_scan_lies(tmp_path: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not at_once:
        monkeypatch.setattr("foveate.explanations.work.HELD", 4 * 22 * 26 * 9 * 5)  # five maps at a time
    shape = (22, 26, 9)
    nib.save(nib.Nifti1Image(blob(shape), AFFINE), tmp_path / "a.nii.gz")
    found = foveate.explain(looking(3, bottleneck="squeeze_excite"), tmp_path / "a.nii.gz", tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    (case,) = listed["cases"]
    files = {entry["map"]: tmp_path / "out" / entry["file"] for entry in case["maps"]}
    assert set(files) == {entry["map"] for entry in listed["maps"]}
    assert len(files) == 1 + 2 * 2 * 2
    for file in [*files.values(), tmp_path / "out" / case["prediction"]]:
        image = nib.load(file)
        assert image.shape == shape
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    # What the block is given is the normalised scan: its map is the scan where that is above the mean.
    seen = np.asarray(nib.load(files["attention_encoder-0-0"]).dataobj)
    assert nib.load(files["attention_encoder-0-0"]).get_data_dtype() == np.float32
    scan = blob(shape)
    bright = scan > 30
    assert np.corrcoef(seen[bright], scan[bright])[0, 1] > 0.97
    assert seen[bright].min() > seen[scan < 1].max()
    with (tmp_path / "out" / case["channel_weights"]).open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["block"], row["channel"]) for row in rows] == [("bottleneck", str(c)) for c in range(8)]
    assert all(0 < float(row["weight"]) < 1 for row in rows)
    assert found.pictures == [tmp_path / "out" / "a" / "overview.png"]
    # The fake block ignores every weight.
    check = next(entry["check"] for entry in listed["maps"] if entry["map"] == "attention_encoder-0-0")
    assert check["verdict"] == "fails"
    assert any("attention_encoder-0-0" in note for note in found.notes)


def test_pictures_come_with_tiff_maps(tmp_path: Path) -> None:
    Image.fromarray(blob((21, 34)).astype(np.uint8)).save(tmp_path / "p.png")
    found = foveate.explain(looking(2, skip="gate"), tmp_path / "p.png", tmp_path / "out", layers=["bottleneck"])
    maps = sorted((tmp_path / "out" / "p").glob("*.tif"))
    assert len(maps) == 3 + 2 * 2
    for file in maps:
        values = tifffile.imread(file)
        assert values.shape == (21, 34)
        assert values.dtype == np.float32
    with Image.open(tmp_path / "out" / "p" / "prediction.png") as prediction:
        assert prediction.size == (34, 21)
    with Image.open(found.pictures[0]) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("boxes", [False, True])
def test_a_network_without_attention_says_so_once(tmp_path: Path, boxes: bool) -> None:
    """The box network pools by attention, of which there is no map."""
    model = looking(2)
    model.network.encoder[0] = model.network.encoder[0][1:]
    if boxes:
        network = build_network(NetworkConfig(boxes=True), model.plan, model.task.channels)
        model = Predictor(network, model.task, model.plan, precision="float32")
    for name in ("a", "b"):
        Image.fromarray(blob((20, 20)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    found = foveate.explain(model, tmp_path, tmp_path / "out")
    assert sum("No slot has an attention block" in note for note in found.notes) == 1
    assert len(found.pictures) == 2
    kinds = {entry["kind"] for entry in json.loads((tmp_path / "out" / "explain.json").read_text())["maps"]}
    assert kinds == {"grad_cam", "seg_grad_cam"}


def test_nothing_is_replaced_and_bad_input_is_refused_before_any_work(tmp_path: Path) -> None:
    Image.fromarray(blob((20, 20)).astype(np.uint8)).save(tmp_path / "p.png")
    for out in (tmp_path, tmp_path / "p.png"):
        with pytest.raises(InputError, match="nothing is replaced"):
            foveate.explain(looking(2), tmp_path / "p.png", out)
    with pytest.raises(InputError, match="Did you mean 'bottleneck'"):
        foveate.explain(looking(2), tmp_path / "p.png", tmp_path / "out", layers=["botleneck"])
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_what_is_odd_about_an_image_is_said(tmp_path: Path) -> None:
    Image.fromarray(blob((20, 20)).astype(np.uint8)).convert("LA").save(tmp_path / "a.png")
    notes = foveate.explain(looking(2), tmp_path / "a.png", tmp_path / "out").notes
    assert any("a.png: alpha: found an alpha channel, opaque everywhere" in note for note in notes)


def test_a_scan_that_cannot_be_read_is_listed_at_the_end(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(blob((20, 20)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        foveate.explain(looking(2), tmp_path, tmp_path / "out")
    assert {problem.case for problem in caught.value.problems} == {"a"}
    assert [entry["case"] for entry in json.loads((tmp_path / "out" / "explain.json").read_text())["cases"]] == ["b"]


def test_the_command_on_a_trained_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("images", "labels"):
        (tmp_path / "scans" / part).mkdir(parents=True)
    for number in range(3):
        scan = blob((24, 20)) + np.random.default_rng(number).normal(20, 3, (24, 20))
        Image.fromarray(scan.clip(0, 255).astype(np.uint8)).save(tmp_path / "scans" / "images" / f"p{number}.png")
        label = (blob((24, 20)) > 50).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / "scans" / "labels" / f"p{number}.png")
    run = tmp_path / "run"
    run.mkdir()
    tiny_plan(2, classes={"class 1": 1}).write(run / "plan.json")
    foveate.train(tmp_path / "scans", run, steps=3, set=["network.attention.skip=gate"], quiet=True)
    with pytest.raises(SystemExit) as exit_:
        main(["explain", str(run), str(tmp_path / "scans" / "images" / "p0.png"), str(tmp_path / "out")])
    assert exit_.value.code in (0, None)
    assert "overview.png" in capsys.readouterr().out
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert {entry["map"] for entry in listed["maps"]} == {
        "attention_decoder-stages-0-skip-attention", "attention_decoder-stages-1-skip-attention",
        "grad_cam_bottleneck_1_class-1", "grad_cam_decoder-stages-0_1_class-1",
        "seg_grad_cam_bottleneck_1_class-1", "seg_grad_cam_decoder-stages-0_1_class-1",
    }  # fmt: skip
    assert all((tmp_path / "out" / entry["file"]).is_file() for entry in listed["cases"][0]["maps"])


def test_file_names_are_safe_and_differ() -> None:
    from foveate.explanations.work import _file_names

    names = [MapName("grad_cam", "a", 1, of) for of in ("left/right: ../..", "左", "LEFT", "left")]
    files = _file_names([*names[:2], MapName("grad_cam", "a", 2, "LEFT"), MapName("grad_cam", "a", 2, "left")])
    assert len({file.lower() for file in files.values()}) == 4
    assert all(character.isalnum() or character in "_-" for file in files.values() for character in file)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_the_picture_shows_the_thickest_axis_across_and_every_panel(count: int) -> None:
    mask = np.zeros((30, 8, 30), bool)
    mask[10:20, 3:5, 8:22] = True
    cut = best_cut(mask, (1.0, 4.0, 1.0), np.diag([1.0, 4.0, 1.0, 1.0]))
    assert cut.title.startswith("coronal")
    values = np.random.default_rng(0).random(mask.shape)
    panels = [Panel(cut.of(values), f"Grad-CAM of a class at layer.{i}", "passes") for i in range(count)]
    png = overview("case", cut.of(values), cut.of(mask), {"a class": (1,)}, cut, panels)
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    assert width < 2500
    assert width * height > (count + 1) * 200 * 200


def of_modalities(*names: str) -> Predictor:
    torch.manual_seed(0)
    channels = tuple(ChannelPlan(name=name, normalisation="zscore") for name in names)
    plan = tiny_plan(2, channels=channels)
    task = build_task(plan)
    network = build_network(NetworkConfig(name="fusion_unet"), plan, task.channels)
    return Predictor(network, task, plan, precision="float32")


def test_a_scan_without_one_of_its_modalities(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0001"):
        Image.fromarray(blob((16, 16)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    found = foveate.explain(of_modalities("T1", "FLAIR"), tmp_path, tmp_path / "out")
    assert len(found.pictures) == 2
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    without = next(case for case in listed["cases"] if case["case"] == "b")
    maps = {entry["map"]: tifffile.imread(tmp_path / "out" / entry["file"]) for entry in without["maps"]}
    assert all(np.isfinite(values).all() for values in maps.values())
    modality = {entry["map"]: entry.get("modality") for entry in listed["maps"]}
    weights = {modality[name]: values for name, values in maps.items() if modality[name]}
    assert (weights["T1"] == 0).all()  # it has no file
    np.testing.assert_allclose(weights["FLAIR"], 1, atol=1e-5)
    picture = np.asarray(Image.open(tmp_path / "out" / without["picture"]).convert("L"))
    assert picture.std() > 1


def test_each_map_is_checked_on_a_scan_that_has_what_it_is_of(tmp_path: Path) -> None:
    """One modality alone has all the attention everywhere: on the first scan there is nothing to compare."""
    for name in ("a_0001", "b_0000", "b_0001", "c_0000", "c_0001"):
        noise = np.random.default_rng(list(name.encode())).normal(20, 6, (16, 16))
        Image.fromarray((blob((16, 16)) + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    foveate.explain(of_modalities("T1", "FLAIR", "T2"), tmp_path, tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    attention = {entry["modality"]: entry["check"] for entry in listed["maps"] if entry["kind"] == "attention"}
    for modality in ("T1", "FLAIR"):
        assert attention[modality]["verdict"] in ("passes", "fails")
        assert attention[modality]["case"] == "b"
        assert len(attention[modality]["steps"]) == len(listed["check"]["cascade"])
    assert attention["T2"]["verdict"] == "empty"
    assert attention["T2"]["not_checked"] == "no scan has T2"
    other = [entry["check"] for entry in listed["maps"] if entry["kind"] == "grad_cam"]
    assert {check["case"] for check in other if check["verdict"] != "empty"} == {"a"}


@pytest.mark.parametrize(
    ("value", "signed", "limits", "said"),
    [
        (0.0, False, (0, 1), "all 0"),
        (0.5, False, (0, 0.5), "all 0.5"),
        (-2.0, False, (-2, 0), "all -2"),
        (0.0, True, (-1, 1), "all 0"),
        (0.25, True, (-0.25, 0.25), "all 0.25"),
    ],
)
def test_a_map_of_one_value_has_that_value_alone_beside_its_bar(value, signed, limits, said):
    *found, written = shades(np.full((4, 4), value), signed)
    assert tuple(found) == limits
    assert written == {value: said}
    assert shades(np.array([[value, value + 1]]), False)[2] == {value: f"{value:.2g}", value + 1: f"{value + 1:.2g}"}


def test_a_dollar_in_a_name_is_a_dollar():
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 5:10] = 1
    cut = best_cut(mask > 0, (1.0, 1.0), None)
    panels = [Panel(np.random.default_rng(0).random((20, 20)), "Evidence for $\\frac$")]

    def drawn(name: str) -> np.ndarray:
        png = overview(name, mask * 1.0, mask, {name: (1,)}, cut, panels, (name, "a$b$c"))
        return np.asarray(Image.open(io.BytesIO(png)))

    assert (drawn("costs $5$") != drawn("costs 5")).any()
    drawn("$\\frac$ {")  # no formula, and no error
