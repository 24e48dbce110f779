"""The printed report holds every path in full and stays within the terminal."""

import io
from pathlib import Path

from rich.console import Console
from scans import label, nnunet_dataset, plain_dataset, write_nifti

from foveate.cohort.check import check
from foveate.cohort.show import render


def printed(root: Path, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    render(check(root), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_sound_cohort(tmp_path: Path) -> None:
    text = printed(plain_dataset(tmp_path))
    assert "3 cases, 2 labelled, 1 unlabelled" in text
    assert "class 2, in 2 of 2" in text
    assert "Can be trained on" in text
    assert "Must be corrected" not in text


def test_problems_are_grouped_and_nothing_is_cut_off(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path / "data", cases=4)
    long = "a_case_with_a_very_long_name_" + "0123456789" * 9
    write_nifti(root / "labels" / f"{long}.nii.gz", label())
    for name in "ab":
        (root / "images" / f"{name}.nii.gz").write_bytes(b"")
    (root / "images" / "._c.nii.gz").write_bytes(b"x")
    text = printed(root)
    assert max(map(len, text.splitlines())) <= 80
    assert long in "".join(text.split())
    assert "images/a.nii.gz, images/b.nii.gz" in text, "equal problems stand together"
    assert text.index("Must be corrected (3)") < text.index("Worth knowing (1)")
    assert "Cannot be trained on: 3 problems to correct." in text


def test_nothing_readable(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path, cases=2)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    assert "Cannot be trained on" in printed(root)


def test_what_train_has_to_be_told_stands_in_the_verdict(tmp_path: Path) -> None:
    lacking = nnunet_dataset(tmp_path / "lacking", cases=4)
    (lacking / "imagesTr" / "case1_0001.nii.gz").unlink()
    assert "Can be trained on, with --network fusion_unet." in printed(lacking)
    boxed = plain_dataset(tmp_path / "boxed")
    for file in (boxed / "labels").iterdir():
        file.unlink()
    (boxed / "dataset.json").write_text('{"labels": {"background": 0, "organ": 1}}')
    header = "case,class,low_0,low_1,low_2,high_0,high_1,high_2"
    (boxed / "boxes.csv").write_text(f"{header}\na,organ,2,2,2,5,4,4\nb,organ,2,2,2,5,4,4\n")
    wanted = "Can be trained on, with --method adversarial_constraint"
    assert f"{wanted} --set method.critic_weight=0." in printed(boxed, 120)
    write_nifti(boxed / "masks" / "x.nii.gz", (label() > 0).astype("uint8"))
    assert f"{wanted}." in printed(boxed, 120)
