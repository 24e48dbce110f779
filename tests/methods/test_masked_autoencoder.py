"""Pre-training: hidden voxels alone teach encoder and decoder, labels do not matter, and a run goes on from it."""

import itertools
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from test_methods import a_batch, build, inputs_of, trained

import foveate
from foveate.batches.sampler import Batch
from foveate.cohort.check import check
from foveate.cohort.plan import Plan
from foveate.config import MethodConfig, NetworkConfig
from foveate.errors import InputError
from foveate.methods import METHODS
from foveate.methods.masked_autoencoder import HIDDEN, error, hidden_blocks
from foveate.networks import build_network
from foveate.predict.files import predict_files
from foveate.predict.model_file import load_model
from foveate.report.run import read_log
from foveate.tasks import build_task
from toys import tiny_plan

OF_TASK = {
    "unet": {},
    "classifier": (WHOLE := {"whole": True, "task": "classification", "classes": {"a": 0, "b": 1}}),
    "attention_cnn": WHOLE,
    "detector": (BOXED := {"task": "detection", "classes": {"a": 0, "b": 1}}),
}


@pytest.fixture
def method():
    return build("masked_autoencoder")


def of_network(network, plan):
    task = build_task(plan)
    torch.manual_seed(0)
    network = build_network(NetworkConfig(name=network), plan, task.channels)
    return METHODS["masked_autoencoder"](network, task, MethodConfig(), 0.9)


def the_loss(method, batch, progress=0.0):
    ((player, losses),) = method.turns(batch, progress)
    assert player == "network"
    return sum(losses.values())


@pytest.mark.parametrize("network", OF_TASK)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_the_mean_square_over_hidden_voxels_alone(dims, network):
    strides = ((1,) * dims, (2,) * dims, (1,) * dims)
    plan = tiny_plan(dims, patch=(8, 4, 6)[:dims], strides=strides, **OF_TASK[network])
    method = of_network(network, plan)
    batch = a_batch(method, plan, labelled=1, unlabelled=1)
    images = torch.cat([batch.images, batch.weak])
    hidden = hidden_blocks(2, plan.patch, batch.seed)
    seen = inputs_of(method.network.encoder[0])
    loss = the_loss(method, batch).detach()
    shown = images.clone()
    shown[hidden] = 0
    assert torch.equal(seen[0], shown)
    answer = method.reconstruct(shown).detach()
    total, voxels = 0.0, 0
    for place in itertools.product(range(2), range(1), *map(range, plan.patch)):
        if hidden[place]:
            total += float(answer[place] - images[place]) ** 2
            voxels += 1
    assert float(loss) == pytest.approx(total / voxels, rel=1e-4)


def test_the_target_of_visible_voxels_does_not_matter():
    answer, images = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    hidden = hidden_blocks(2, (16, 16), 4)
    before = error(answer, images, hidden)
    assert torch.equal(before, error(answer, images + 7.0 * ~hidden, hidden))
    assert not torch.isclose(before, error(answer, images + 7.0 * hidden, hidden))
    torch.testing.assert_close(before, (answer - images).square()[hidden.expand_as(images)].mean())


@pytest.mark.parametrize("size", [(16, 16), (40, 56, 40), (17, 30, 5), (3, 4)])
def test_every_image_hides_its_own_blocks_and_the_same_share(size):
    hidden = hidden_blocks(6, size, 11)
    assert hidden.shape == (6, 1, *size)
    assert torch.equal(hidden, hidden_blocks(6, size, 11))
    assert not torch.equal(hidden, hidden_blocks(6, size, 12))
    assert len({image.numpy().tobytes() for image in hidden}) == 6
    block = [max(round(n / 8), 1) for n in size]
    cells = hidden[(slice(None), 0, *(slice(None, None, b) for b in block))]
    assert {int(image.sum()) for image in cells} == {round(HIDDEN * cells[0].numel())}
    for place in np.ndindex(*size):  # every voxel is as its block is
        corner = tuple(i // b for i, b in zip(place, block, strict=True))
        assert torch.equal(hidden[(slice(None), 0, *place)], cells[(slice(None), *corner)])


@pytest.mark.parametrize("network", ["unet", "detector"])
def test_gradient_reaches_encoder_and_decoder_and_no_head(network):
    plan = tiny_plan(2, widths=(4, 6, 8, 8), strides=((1, 1), *[(2, 2)] * 3), **OF_TASK[network])
    method = of_network(network, plan)
    the_loss(method, a_batch(method, plan)).backward()
    for name, parameter in [*method.network.named_parameters(), *method.restorer.named_parameters()]:
        if name.startswith("decoder.heads."):
            assert parameter.grad is None, name
        else:
            assert (parameter.grad != 0).any(), name
    assert {id(p) for p in method.restorer.parameters()} <= {id(p) for p in method.players()["network"].parameters()}
    assert not any(key.startswith("decoder.heads.") for key in method.model())
    assert any(key.startswith("decoder.stages.") for key in method.model())


@pytest.mark.parametrize("network", ["classifier", "attention_cnn"])
def test_a_network_without_decoder_gets_one_that_is_not_kept(network):
    method = of_network(network, tiny_plan(2, **WHOLE))
    the_loss(method, a_batch(method, tiny_plan(2))).backward()
    for name, parameter in [*method.network.named_parameters(), *method.restorer.named_parameters()]:
        if name.startswith(("pool.", "head.")):
            assert parameter.grad is None, name
        else:
            assert (parameter.grad != 0).any(), name
    own = set(method.network.state_dict())
    assert set(method.model()) == {key for key in own if not key.startswith(("pool.", "head."))}
    assert any(key.startswith("encoder.") for key in own)


def test_labels_and_progress_do_not_matter_and_all_images_do(method):
    batch = a_batch(method)
    loss = the_loss(method, batch)
    other = Batch(batch.images, 2 - batch.labels, batch.weak, seed=batch.seed)
    assert torch.equal(the_loss(method, other, 1.0), loss)
    alone = Batch(batch.images, batch.labels, batch.weak[:0], seed=batch.seed)
    assert the_loss(method, alone).isfinite()
    for part in ("images", "weak"):
        changed = a_batch(method)
        setattr(changed, part, getattr(changed, part).flip(-1))
        assert not torch.isclose(the_loss(method, changed), loss), part


def test_it_wants_unlabelled_images_from_the_first_step(method):
    assert {method.shares(5, progress) for progress in (0.0, 0.5, 1.0)} == {(0, 5)}


@pytest.mark.parametrize("unlabelled", [0, 3])
def test_the_error_falls(unlabelled, tmp_path):
    plan = tiny_plan(2)
    method = build("masked_autoencoder", plan)
    heads = [head.weight.clone() for head in method.network.decoder.heads]
    cases, images, losses = trained(method, tmp_path, plan, steps=80, unlabelled=unlabelled)
    assert {case[0] for names in cases for case in names} == {"U" if unlabelled else "L"}
    assert images == [plan.batch] * 80
    values = [loss["reconstruction"] for loss in losses]
    assert np.mean(values[-10:]) < 0.7 * np.mean(values[:5])
    assert all(torch.equal(a, head.weight) for a, head in zip(heads, method.network.decoder.heads, strict=True))


# --- through the public names

PLAN = tiny_plan(3, patch=(16, 16, 16), widths=(4, 8), strides=((1, 1, 1), (2, 2, 2)), classes={"class 1": 1})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six volumes with a bright ball, two of them labelled."""
    root = tmp_path_factory.mktemp("data") / "scans"
    random = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for case in range(6):
        offsets = np.indices((16, 16, 16)) - random.uniform(6, 10, 3)[:, None, None, None]
        ball = ((offsets**2).sum(0) < 20).astype(np.uint8)
        scan = (100 * ball + random.normal(0, 10, ball.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), root / "images" / f"c{case}.nii.gz")
        if case < 2:
            nib.save(nib.Nifti1Image(ball, np.eye(4)), root / "labels" / f"c{case}.nii.gz")
    return root


def pretrain(data: Path, run: Path, plan: Plan = PLAN, **options: object) -> Path:
    run.mkdir()
    plan.write(run / "plan.json")
    options = {"steps": 6, "device": "cpu", "quiet": True, **options}
    return foveate.train(data, run, method="masked_autoencoder", **options)


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    return pretrain(data, tmp_path_factory.mktemp("pre") / "run")


def test_a_run_starts_from_it_and_takes_all_but_the_heads(data, pretrained, tmp_path, capsys):
    run = foveate.train(data, tmp_path / "run", init=pretrained, steps=2, device="cpu")
    said = " ".join(capsys.readouterr().out.split())
    taken, own = len(load_model(pretrained / "model").state), len(load_model(run / "model").state)
    assert taken < own
    assert f"{taken} of {own} tensors taken; fresh: decoder.heads.0.weight, decoder.heads.0.bias." in said
    assert Plan.read(run / "plan.json").widths == PLAN.widths
    assert foveate.load(run).predict(data / "images" / "c5.nii.gz").shape == (16, 16, 16)


def test_what_is_only_pretrained_predicts_nothing(data, pretrained, tmp_path):
    with pytest.raises(InputError, match=r"model\.json: task: found reconstruction: pre-trained only.*--init"):
        predict_files(pretrained, data / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    page = (pretrained / "report.html").read_text()
    assert "6 scans teach as images" in page
    assert "it labels no scan" in page
    assert any("reconstruction" in record.get("losses", {}) for record in read_log(pretrained))


def test_labels_teach_nothing_and_are_not_prepared(data, pretrained, tmp_path):
    bare = Path(shutil.copytree(data, tmp_path / "bare"))
    shutil.rmtree(bare / "labels")
    assert not check(bare).ok
    run = pretrain(bare, tmp_path / "run", PLAN.model_copy(update={"classes": {}}))
    expected = load_model(pretrained / "model").state
    found = load_model(run / "model").state
    assert expected.keys() == found.keys()
    assert not list((pretrained / "prepared").glob("*.voxels.npy"))
    after = foveate.train(data, tmp_path / "after", init=run, steps=1, device="cpu", quiet=True)
    assert json.loads((after / "provenance.json").read_text())["init"]["task"] == {"name": "reconstruction"}


def test_scans_that_validation_holds_back_are_not_seen(data, tmp_path):
    run = pretrain(data, tmp_path / "run", steps=1, set=["validation=1"])
    assert "5 scans teach as images. 1 that validation holds back are left out." in (run / "report.html").read_text()


def test_it_goes_on_bitwise_equal(data, tmp_path):
    whole = pretrain(data, tmp_path / "whole", set=["checkpoint_seconds=0.0001"])
    stopped = Path(shutil.copytree(whole, tmp_path / "stopped"))
    shutil.rmtree(stopped / "model")
    for file in (stopped / "checkpoints").glob(f"step-{6:09d}*"):
        file.unlink()
    foveate.train(data, stopped, resume=True, quiet=True)
    weights = "model/weights.safetensors"
    assert (stopped / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_classifier_starts_from_all_pictures_in_one_command(tmp_path, capsys):
    random = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "data" / ("bright", "dark")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = random.normal(80 + 60 * (number % 2), 10, (24, 24)).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"p{number}.png")
    chosen = tmp_path / "labelled.txt"
    chosen.write_text("bright/p0\nbright/p2\ndark/p1\ndark/p3\n")
    options = {"steps": 4, "device": "cpu", "set": ["validation=0", "pretrain.share=0.5"], "labelled": chosen}
    run = foveate.train(tmp_path / "data", tmp_path / "run", pretrain="masked_autoencoder", **options)
    said = " ".join(capsys.readouterr().out.split())
    own = load_model(run / "model").state
    fresh = [key for key in own if key.startswith(("pool.", "head."))]
    assert f"{len(own) - len(fresh)} of {len(own)} tensors taken; fresh: pool." in said
    assert any("reconstruction" in record.get("losses", {}) for record in read_log(run / "pretrained"))
    assert "8 scans teach as images" in (run / "pretrained" / "report.html").read_text()
    assert foveate.load(run).predict(tmp_path / "data" / "dark" / "p7.png").shape == (2,)


def test_a_detector_starts_from_all_pictures_in_one_command(tmp_path, capsys):
    random = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    images, boxes = [], []
    for number in range(8):
        picture = random.normal(60, 10, (32, 40)).clip(0, 255).astype(np.uint8)
        picture[8:20, 10:24] += 90
        Image.fromarray(picture).save(tmp_path / "data" / "images" / f"p{number}.png")
        if number < 4:
            images.append({"id": number, "file_name": f"p{number}.png", "width": 40, "height": 32})
            boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [10, 8, 14, 12]})
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(coco))
    options = {"steps": 4, "device": "cpu", "set": ["validation=0", "pretrain.share=0.5"]}
    run = foveate.train(tmp_path / "data", tmp_path / "run", pretrain="masked_autoencoder", **options)
    said = " ".join(capsys.readouterr().out.split())
    own = load_model(run / "model").state
    fresh = [key for key in own if key.startswith("decoder.heads.")]
    assert f"{len(own) - len(fresh)} of {len(own)} tensors taken; fresh: decoder.heads." in said
    assert "8 scans teach as images" in (run / "pretrained" / "report.html").read_text()
