"""The page of a training run shows where a network with attention looks, and nothing where there is no map."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.toys import prepared_case, scan, tiny_plan

import foveate
from foveate.cohort.plan import ChannelPlan
from foveate.config import NetworkConfig
from foveate.explanations.glance import attention_picture
from foveate.networks import build_network
from foveate.predict.predictor import build_predictor
from foveate.tasks import build_task

TITLE = "Where the network looks"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures with labels, and in folders of classes."""
    root = tmp_path_factory.mktemp("data")
    for part in ("masks/images", "masks/labels", "classes/left", "classes/right"):
        (root / part).mkdir(parents=True)
    for number in range(8):
        image, label = scan((24, 20), np.random.default_rng(number))
        picture = Image.fromarray((40 + 80 * image).clip(0, 255).astype(np.uint8))
        picture.save(root / "masks" / "images" / f"p{number}.png")
        picture.save(root / "classes" / ("left", "right")[number % 2] / f"p{number}.png")
        Image.fromarray(label).save(root / "masks" / "labels" / f"p{number}.png")
    return root


def trained(data: Path, run: Path, *options: str, network: str) -> Path:
    whole = data.name == "classes"
    changes = {"task": "classification", "whole": True, "classes": {"left": 0, "right": 1}} if whole else {}
    run.mkdir()
    classes = {"classes": {"class 1": 1, "class 2": 2}} if not whole else {}
    tiny_plan(2, patch=(24, 24), **classes, **changes).write(run / "plan.json")
    settings = ["validation=2", *options]
    return foveate.train(data, run, steps=2, network=network, device="cpu", set=settings, quiet=True)


def section(run: Path) -> str:
    """What the page says there, or nothing."""
    found = re.search(rf"<h2>{TITLE}</h2>(.*?)</section>", (run / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize(
    ("kind", "network"), [("masks", "attention_unet"), ("classes", "classifier"), ("classes", "attention_cnn")]
)
def test_the_page_shows_the_maps_of_one_case(data: Path, kind: str, network: str, tmp_path: Path) -> None:
    run = trained(data / kind, tmp_path / "run", network=network)
    said = section(run)
    assert "foveate explain RUN INPUT OUT" in said
    assert "held back: not used in training" in said
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', said)
    with Image.open(io.BytesIO(base64.b64decode(source))) as picture:
        assert picture.width > 300
        assert np.ptp(np.asarray(picture.convert("RGB")), axis=2).max() > 50  # a map has colours


def test_a_network_without_a_map_has_no_such_section(data: Path, tmp_path: Path) -> None:
    """Weights of channels are no map either."""
    for slot in ("none", "squeeze_excite"):
        run = trained(data / "masks", tmp_path / slot, f"network.attention.bottleneck={slot}", network="unet")
        assert "<h2>Cases" in (run / "report.html").read_text(encoding="utf-8")
        assert not section(run)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_for_the_picture_costs_the_picture_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("foveate.explanations.glance.attention_picture", fails)
    run = trained(data / "masks", tmp_path / "run", network="attention_unet")
    assert "<h2>Cases" in (run / "report.html").read_text(encoding="utf-8")
    assert not section(run)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_window_of_a_volume_that_lacks_a_modality(tmp_path: Path, labelled: bool) -> None:
    torch.manual_seed(0)
    channels = tuple(ChannelPlan(name=name, normalisation="zscore") for name in ("T1", "FLAIR", "T2"))
    plan = tiny_plan(3, channels=channels)
    task = build_task(plan)
    network = build_network(NetworkConfig(name="fusion_unet"), plan, task.channels)
    image, label = scan((20, 24, 12), np.random.default_rng(0))
    modalities = np.stack([np.full_like(image, np.nan), image, -image])
    case = prepared_case(tmp_path, "a", modalities, label if labelled else None)
    picture = attention_picture(build_predictor(network, task, plan, precision="float32"), case)
    assert picture is not None
    with Image.open(io.BytesIO(picture)) as shown:
        # Three panels beside each other: the prediction, and attention to each modality that is there.
        assert shown.width > 2.2 * shown.height
