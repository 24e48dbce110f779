"""The fingerprint is in canonical axis order, whatever order the files have."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, label, plain_dataset, scan

from foveate.cohort.check import check
from foveate.cohort.fingerprint import Fingerprint, canonical, fingerprint


@pytest.mark.parametrize("code", ["RAS", "LPS", "SRA", "PIR", "ASL"])
def test_canonical_order_agrees_with_nibabel(code: str) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5)), np.diag([1.0, 2, 3, 1]))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(code))
    )
    assert "".join(nib.aff2axcodes(turned.affine)) == code
    assert canonical(turned.shape, code) == (3, 4, 5)
    assert canonical(turned.header.get_zooms(), code) == (1, 2, 3)


def test_fingerprint_does_not_change_with_the_files_orientation(tmp_path: Path) -> None:
    straight = fingerprint(check(plain_dataset(tmp_path / "straight")))
    root = plain_dataset(tmp_path / "turned")
    target = nib.orientations.axcodes2ornt("SLP")
    for path in [*(root / "images").iterdir(), *(root / "labels").iterdir()]:
        image = nib.load(path)
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
        turned = image.as_reoriented(turn)
        turned = nib.Nifti1Image(np.asarray(turned.dataobj).copy(), turned.affine)
        turned.set_sform(turned.affine, 1)
        turned.to_filename(path)
    report = check(root)
    assert report.problems == []
    assert report.facts["a"].orientation == "SLP"
    turned_print = fingerprint(report)
    assert turned_print.shape == straight.shape == (8, 9, 7)
    assert turned_print.spacing == pytest.approx(straight.spacing)
    assert straight.spacing == pytest.approx((1.5, 2, 3))


def test_fingerprint_numbers_and_json(tmp_path: Path) -> None:
    found = fingerprint(check(plain_dataset(tmp_path, cases=3)))
    assert (found.cases, found.labelled, found.unlabelled, found.patients) == (3, 2, 1, 3)
    channel = found.channels[0]
    arrays = [scan(seed).astype(float) for seed in range(3)]
    assert channel.mean == pytest.approx(np.mean(arrays))
    assert channel.std == pytest.approx(np.std(arrays))  # equal sizes: pooling is exact
    assert channel.percentiles[2] == pytest.approx(np.median([np.median(array) for array in arrays]))
    inside = np.concatenate([array[label() > 0] for array in arrays[:2]])
    assert channel.foreground is not None
    assert channel.foreground.mean == pytest.approx(inside.mean())
    assert channel.foreground.std == pytest.approx(inside.std())
    volume = 4 * abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    assert found.classes[1].volume == pytest.approx((volume,) * 3)
    assert Fingerprint.model_validate_json(found.model_dump_json()) == found
