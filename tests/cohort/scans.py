"""Small real files for the cohort tests, and ways to damage them byte by byte."""

import gzip
import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (8, 9, 7)
AFFINE = np.array([[1.5, 0, 0, -10], [0, 2, 0, 20], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=float)
# Byte offsets of NIfTI-1 header fields.
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, INTERCEPT, UNITS = 40, 70, 76, 108, 112, 116, 123
QFORM_CODE, SFORM_CODE, QUATERN, QOFFSET, SROW, MAGIC = 252, 254, 256, 268, 280, 344


def scan(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(np.int16)


def label(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Class 1 in 12 voxels, class 2 in 4."""
    array = np.zeros(shape, np.uint8)
    array[2:5, 2:4, 2:4] = 1
    array[5, 2:4, 2:4] = 2
    return array


def nifti_bytes(array: np.ndarray, affine: np.ndarray = AFFINE, edits: dict[int, tuple] | None = None) -> bytes:
    """An uncompressed NIfTI-1 file; ``edits`` maps a byte offset to (struct format, values...)."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    content = bytearray(image.to_bytes())
    for offset, (form, *values) in (edits or {}).items():
        struct.pack_into("<" + form, content, offset, *values)
    return bytes(content)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, edits: dict | None = None) -> Path:
    content = nifti_bytes(array, affine, edits)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


def edit(path: Path, edits: dict[int, tuple]) -> None:
    """Change header fields of a .nii.gz."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for offset, (form, *values) in edits.items():
        struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content), 1))


def plain_dataset(root: Path, cases: int = 3, unlabelled: int = 1) -> Path:
    """images/ and labels/ with cases a, b, c, ... of which the last ``unlabelled`` have no label."""
    (root / "labels").mkdir(parents=True)
    for number in range(cases):
        name = f"{chr(97 + number)}.nii.gz"
        write_nifti(root / "images" / name, scan(number))
        if number < cases - unlabelled:
            write_nifti(root / "labels" / name, label())
    return root


def nnunet_dataset(root: Path, cases: int = 3, unlabelled: int = 1, channels: tuple[str, ...] = ("T1", "T2")) -> Path:
    (root / "labelsTr").mkdir(parents=True)
    for number in range(cases):
        for channel in range(len(channels)):
            write_nifti(root / "imagesTr" / f"case{number}_{channel:04d}.nii.gz", scan(10 * number + channel))
        if number < cases - unlabelled:
            write_nifti(root / "labelsTr" / f"case{number}.nii.gz", label())
    write_json(
        root,
        {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": {"background": 0, "organ": 1, "lesion": 2},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        },
    )
    return root


def msd_dataset(root: Path) -> Path:
    """Two labelled cases, one listed without label, one as plain path; one test image."""
    for name in "abcd":
        write_nifti(root / "imagesTr" / f"{name}.nii.gz", scan(ord(name)))
    for name in "ab":
        write_nifti(root / "labelsTr" / f"{name}.nii.gz", label())
    write_nifti(root / "imagesTs" / "t.nii.gz", scan(7))
    write_json(
        root,
        {
            "name": "Task",
            "tensorImageSize": "3D",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "organ", "2": "lesion"},
            "training": [
                *({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"),
                {"image": "./imagesTr/c.nii.gz"},
                "./imagesTr/d.nii.gz",
            ],
            "test": ["./imagesTs/t.nii.gz"],
        },
    )
    return root


def write_json(root: Path, data: object) -> None:
    (root / "dataset.json").write_text(json.dumps(data), encoding="utf-8")


def read_json(root: Path) -> dict:
    return json.loads((root / "dataset.json").read_text(encoding="utf-8"))
