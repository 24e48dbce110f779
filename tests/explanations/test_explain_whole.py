"""Evidence of models that answer for whole images: on the image's own grid, adding up, and located."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tests.explanations.test_explain import AFFINE, blob
from tests.toys import tiny_plan
from torch import nn

import foveate
from foveate.cli import main
from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.explanations.image_maps import ImageExplainer, relative
from foveate.explanations.localise import Threshold
from foveate.explanations.maps import MapName
from foveate.explanations.whole import evidence
from foveate.io import read_image
from foveate.networks import build_network
from foveate.predict.whole import WholePredictor
from foveate.tasks import build_task

CLASSES = {"lesion": 0, "none": 1, "other": 2}


def whole(dims: int, patch: tuple[int, ...], name: str = "attention_cnn", **changes: object) -> WholePredictor:
    torch.manual_seed(0)
    settings = {"task": "classification", "whole": True, "classes": CLASSES, "patch": patch, **changes}
    plan = tiny_plan(dims, **settings)
    task = build_task(plan)
    network = build_network(NetworkConfig(name=name), plan, task.channels)
    for parameter in network.parameters():  # far from even attention
        nn.init.normal_(parameter, std=0.5) if parameter.ndim > 1 else None
    return WholePredictor(network, task, plan, precision="float32")


class BrightIsEvidence(nn.Module):
    """What is bright speaks for the first class."""

    def evidence(self, x):
        return torch.cat([x[:, :1], 0 * x[:, :1], 0 * x[:, :1]], 1)


@pytest.mark.parametrize("exclusive", [True, False])
def test_evidence_adds_up_to_the_answer_averaged_over_mirrorings(exclusive: bool) -> None:
    model = whole(2, (32, 48), exclusive=exclusive, mirror_axes=(0, 1))
    image = np.random.default_rng(0).normal(size=(1, 32, 48)).astype(np.float32)
    logits = torch.from_numpy(model.logits([image]))
    flips = model._flips(model.plan.mirror_axes)
    x = model.place(image)[None]
    with torch.no_grad():
        maps = torch.stack([model.network.evidence(x.flip(axes)) for axes in flips]).mean(0)
    assert len(flips) == 4
    added = relative(maps, exclusive).flatten(2).sum(2)
    expected = relative(logits - model.network.head.bias, exclusive)
    torch.testing.assert_close(added, expected.detach(), rtol=1e-5, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_of_exclusive_classes_what_is_said_against_the_others_decides() -> None:
    """A logit that rises in all classes alike tells none of them."""
    evidence = torch.randn(1, 3, 4, 5)
    alike = torch.randn(1, 1, 4, 5)
    torch.testing.assert_close(relative(evidence + alike, True), relative(evidence, True))
    torch.testing.assert_close(relative(evidence, False), evidence)


@pytest.mark.parametrize("dims", [2, 3])
def test_evidence_lies_where_the_scan_lies(dims: int, tmp_path: Path) -> None:
    """Turned and thick slices; the patch larger than the scan along one axis and smaller along another."""
    shape = (30, 44) if dims == 2 else (22, 26, 9)
    values = blob(shape)
    if dims == 2:
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "a.png")
    else:
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    patch = (32, 32) if dims == 2 else (32, 28, 20)
    model = whole(dims, patch, spacing=(1.0,) * dims if dims == 2 else (1.2, 1.1, 1.3))
    model.network = BrightIsEvidence()
    volume = read_image([tmp_path / ("a.png" if dims == 2 else "a.nii.gz")])
    found = evidence(model, volume, "lesion")
    assert found.shape == shape
    assert found.dtype == np.float32
    inside = found != 0
    assert inside.mean() > 0.6
    assert np.corrcoef(found[inside], values[inside])[0, 1] > 0.98
    peak = [np.unravel_index(v.argmax(), shape) for v in (found, values)]
    assert np.abs(np.subtract(*peak)).max() <= 1
    # Over classes that exclude each other evidence adds up to nothing.
    assert np.abs(found + evidence(model, volume, "none") + evidence(model, volume, "other")).max() < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_every_map_of_the_explainer(dims: int) -> None:
    model = whole(dims, (32,) * dims)
    explainer = ImageExplainer(model.network, model.task, model.answer, ["bottleneck", "encoder.0"])
    x = torch.randn(1, 1, *(32,) * dims)
    maps = explainer(x)
    kinds = [
        ("attention", "pool", 1),
        ("evidence", "head", 3),
        ("grad_cam", "bottleneck", 3),
        ("grad_cam", "encoder.0", 3),
    ]
    for kind, layer, count in kinds:
        assert sum(name.kind == kind and name.layer == layer for name in maps) == count
    assert len(maps) == 1 + 3 + 6
    assert all(values.shape == (1, 1, *x.shape[2:]) for values in maps.values())
    with torch.no_grad():
        expected = relative(model.network.evidence(x), True)
    torch.testing.assert_close(maps[MapName("evidence", "head", 1, "none")], expected[:, 1:2])
    attention = maps[MapName("attention", "pool")][0, 0][(slice(None, None, model.network.stride[0]),) * dims]
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))


def pictures(folder: Path, names: tuple[str, ...] = ("a", "b")) -> None:
    folder.mkdir(parents=True)
    for name in names:
        noise = np.random.default_rng(list(name.encode())).normal(20, 6, (24, 30))
        Image.fromarray((blob((24, 30)) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")


def test_what_is_located_is_the_map_above_the_threshold_that_masks_chose(tmp_path: Path) -> None:
    pictures(tmp_path / "scans")
    (tmp_path / "masks").mkdir()
    mask = blob((24, 30)) > 50
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    model = whole(2, (24, 32))
    foveate.explain(model, tmp_path / "scans", tmp_path / "out", of="other", masks=tmp_path / "masks")
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    first = tifffile.imread(tmp_path / "out" / "a" / "evidence_head_2_other.tif")
    chosen = Threshold.chosen([first], [mask])
    assert listed["threshold"] == chosen.summary()
    for case in listed["cases"]:
        values = tifffile.imread(tmp_path / "out" / case["case"] / "evidence_head_2_other.tif")
        with Image.open(tmp_path / "out" / case["located"]["mask"]) as picture:
            located = np.asarray(picture) > 0
        np.testing.assert_array_equal(located, chosen.mask(values))
        assert case["located"]["of"] == "other"
        inside = np.zeros_like(located)
        for box in case["located"]["boxes"]:
            inside[tuple(slice(low, high) for low, high in zip(box["low"], box["high"], strict=True))] = True
        assert inside[located].all()
        assert abs(sum(case["answer"].values()) - 1) < 1e-4
        with Image.open(tmp_path / "out" / case["picture"]) as picture:
            assert picture.format == "PNG"


def test_an_unreadable_image_with_a_mask_keeps_no_other_from_being_explained(tmp_path: Path) -> None:
    pictures(tmp_path / "scans", ("a", "b"))
    (tmp_path / "scans" / "b.png").write_bytes((tmp_path / "scans" / "b.png").read_bytes()[:100])
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(np.uint8(blob((24, 30)) > 50)).save(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(InputError, match=r"b\.png"):
        foveate.explain(whole(2, (24, 32)), tmp_path / "scans", tmp_path / "out", masks=tmp_path / "masks")
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [case["case"] for case in listed["cases"]] == ["a"]
    assert listed["threshold"]["chosen_by"] == "best overlap on 1 cases with masks"


def test_without_masks_the_threshold_is_otsus_and_the_class_the_likeliest(tmp_path: Path) -> None:
    pictures(tmp_path / "scans", ("a",))
    model = whole(2, (24, 32))
    foveate.explain(model, tmp_path / "scans", tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    (case,) = listed["cases"]
    assert case["located"]["of"] == max(case["answer"], key=case["answer"].__getitem__)
    assert listed["threshold"]["share_of_maximum"] is None
    assert "Otsu" in listed["threshold"]["chosen_by"]


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_picture_says_where_a_class_is_located_that_is_not_the_answer(
    exclusive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is some place of most evidence for every class, in every image."""
    legends = []
    monkeypatch.setattr(
        "foveate.explanations.work.overview", lambda _, image, labels, members, *rest: legends.extend(members) or b""
    )
    pictures(tmp_path / "scans", ("a",))
    model = whole(2, (24, 32), exclusive=exclusive)
    torch.nn.init.zeros_(model.network.head.weight)
    model.network.head.bias.data = torch.tensor([-3.0, 3.0, -2.0])
    for of in ("lesion", "none"):
        foveate.explain(model, tmp_path / "scans", tmp_path / of, of=of)
    assert legends == ["most evidence for lesion, which is not the answer", "most evidence for none"]


def test_nothing_is_located_by_evidence_that_fails_its_check(tmp_path: Path) -> None:
    """Evidence that no weight has a part in: brightness."""
    pictures(tmp_path / "scans", ("a", "b"))
    model = whole(2, (24, 32))
    model.network.evidence = lambda x: torch.cat([x, -x, 0 * x], 1)  # type: ignore[assignment]
    found = foveate.explain(model, tmp_path / "scans", tmp_path / "out", of="lesion")
    assert any("Nothing is located for lesion" in note for note in found.notes)
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    verdicts = {entry["map"]: entry["check"]["verdict"] for entry in listed["maps"]}
    assert verdicts["evidence_head_0_lesion"] == "fails"
    assert not any("located" in case for case in listed["cases"])
    assert len(found.pictures) == 2
    assert not [*(tmp_path / "out").rglob("located*")]


def test_a_network_without_evidence_locates_nothing_and_says_so(tmp_path: Path) -> None:
    pictures(tmp_path / "scans", ("a",))
    model = whole(2, (24, 32), name="classifier")
    found = foveate.explain(model, tmp_path / "scans", tmp_path / "out")
    assert any("attention_cnn" in note for note in found.notes)
    listed = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert {entry["kind"] for entry in listed["maps"]} == {"attention", "grad_cam"}
    assert "located" not in listed["cases"][0]


def test_what_makes_no_sense_is_refused_before_any_work(tmp_path: Path) -> None:
    pictures(tmp_path / "scans")
    (tmp_path / "masks").mkdir()
    model = whole(2, (24, 32))
    for wrong, match in [
        ({"of": "lesoin"}, "Did you mean 'lesion'"),
        ({"masks": tmp_path / "masks"}, "no mask of the 2"),
    ]:
        with pytest.raises(InputError, match=match):
            foveate.explain(model, tmp_path / "scans", tmp_path / "out", **wrong)
    Image.fromarray(np.ones((9, 9), np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(InputError, match=r"grid|shape"):
        foveate.explain(model, tmp_path / "scans", tmp_path / "out", masks=tmp_path / "masks")
    assert not (tmp_path / "out").exists()


def test_the_commands_from_class_folders_to_a_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("lesion", "none"):
        pictures(tmp_path / "data" / name, tuple(f"{name}{n}" for n in range(3)))
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    given = ["--task", "classification", "--network", "attention_cnn", "--steps", "2", "--device", "cpu", "--quiet"]
    for command in (
        ["train", str(data), str(run), *given],
        ["explain", str(run), str(data / "none" / "none1.png"), str(out), "--of", "lesion"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(command)
        assert exit_.value.code in (0, None)
    assert "overview.png" in capsys.readouterr().out
    listed = json.loads((out / "explain.json").read_text())
    (case,) = listed["cases"]
    verdicts = {entry["map"]: entry["check"]["verdict"] for entry in listed["maps"]}
    assert case.get("located", {}).get("of") == (None if verdicts["evidence_head_0_lesion"] == "fails" else "lesion")
    assert all((out / entry["file"]).is_file() for entry in case["maps"])
