"""Every kind of faulty file, made for real and found through the check of a whole dataset."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scans import (
    AFFINE,
    DATATYPE,
    DIM,
    INTERCEPT,
    MAGIC,
    PIXDIM,
    QFORM_CODE,
    QOFFSET,
    QUATERN,
    SHAPE,
    SLOPE,
    SROW,
    UNITS,
    VOX_OFFSET,
    edit,
    label,
    nifti_bytes,
    plain_dataset,
    scan,
    write_json,
    write_nifti,
)

from foveate.cohort.check import check

Fault = Callable[[Path], None]


def image(**fields: object) -> Fault:
    """Write image b anew with other voxels, affine or header bytes."""
    return lambda root: _rewrite(root / "images" / "b.nii.gz", scan(1), **fields)


def labels(**fields: object) -> Fault:
    return lambda root: _rewrite(root / "labels" / "b.nii.gz", label(), **fields)


def _rewrite(path: Path, array: np.ndarray, *, voxels=None, affine=AFFINE, edits=None) -> None:
    write_nifti(path, array if voxels is None else voxels(array), affine, edits)


def raw(change: Callable[[bytes], bytes]) -> Fault:
    """Change the bytes of the compressed image b."""

    def fault(root: Path) -> None:
        path = root / "images" / "b.nii.gz"
        path.write_bytes(change(path.read_bytes()))

    return fault


def content(change: Callable[[bytes], bytes]) -> Fault:
    """Change the bytes of image b before compression."""
    return raw(lambda data: gzip.compress(change(gzip.decompress(data))))


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def spoil(value: float, count: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        array.flat[:count] = value
        return array

    return change


def with_value(value: float, dtype: type = np.uint8, count: int = 3) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array.flat[:count] = value
        return array

    return change


def bomb(root: Path) -> None:
    """A valid small image followed by 64 MiB of zeros, a few kB on disk."""
    (root / "images" / "b.nii.gz").write_bytes(gzip.compress(nifti_bytes(scan(1)) + bytes(1 << 26)))


def uncompressed(change: Callable[[bytes], bytes]) -> Fault:
    def fault(root: Path) -> None:
        (root / "images" / "b.nii.gz").unlink()
        (root / "images" / "b.nii").write_bytes(change(nifti_bytes(scan(1))))

    return fault


def rename(old: str, new: str) -> Fault:
    return lambda root: (root / old).rename(root / new) and None


def rgb(root: Path) -> None:
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(array, AFFINE).to_filename(root / "images" / "b.nii.gz")


def mirrored() -> np.ndarray:
    return np.diag([-1.0, 1, 1, 1]) @ AFFINE


def srow(affine: np.ndarray) -> dict[int, tuple]:
    return {SROW: ("12f", *affine[:3].ravel())}


SHEAR = AFFINE + np.array([[0, 0.4, 0, 0], [0] * 4, [0] * 4, [0] * 4])
NAN = float("nan")
FAULTS: list[tuple[str, Fault, str, str]] = [
    ("1 other shape", labels(voxels=lambda a: a[:, :, :6]), "refuse", "8 x 9 x 6; expected 8 x 9 x 7"),
    ("1 shape through image", image(voxels=lambda a: a[:7]), "refuse", "expected 7 x 9 x 7"),
    ("2 other affine", labels(affine=AFFINE + np.eye(4, k=3) * 4), "refuse", "4.00 mm"),
    ("2 mirrored label", labels(affine=mirrored()), "refuse", "mm from where images/b.nii.gz has it"),
    ("3 qform moved", image(edits={QOFFSET: ("f", -9.0)}), "warn", "sform and qform place a corner 1.00 mm apart"),
    ("3 sform flips", image(edits=srow(mirrored())), "refuse", "disagree on which side is left"),
    ("3 both axes flip", image(edits=srow(np.diag([-1.0, -1, 1, 1]) @ AFFINE)), "refuse", "which side is left"),
    ("4 no form", image(edits={QFORM_CODE: ("hh", 0, 0)}), "refuse", "does not say where left and right"),
    ("5 NaN", image(voxels=spoil(NAN, 5)), "refuse", "5 of 504 are NaN"),
    ("5 infinite", image(voxels=spoil(np.inf, 2)), "refuse", "2 of 504"),
    ("5 beyond float32", image(voxels=with_value(1e300, np.float64)), "refuse", "3 of 504"),
    ("5 both infinities", image(voxels=lambda a: spoil(np.inf, 1)(spoil(-np.inf, 2)(a))), "refuse", "2 of 504"),
    ("6 four dimensions", image(voxels=lambda a: np.stack([a, a], -1)), "refuse", "4-D (8 x 9 x 7 x 2)"),
    ("6 two dimensions", image(voxels=lambda a: a[:, :, 0]), "refuse", "2-D (8 x 9)"),
    ("7 zero pixdim", image(edits={PIXDIM + 8: ("f", 0.0)}), "refuse", "found 1.5, 0, 3; expected voxel sizes above"),
    ("7 negative pixdim", image(edits={PIXDIM + 4: ("f", -1.5)}), "refuse", "voxel sizes above"),
    ("8 NaN pixdim", image(edits={PIXDIM + 4: ("f", NAN)}), "refuse", "pixdim: found nan"),
    ("8 NaN affine", image(edits={SROW: ("f", NAN)}), "refuse", "sform: found NaN"),
    ("8 NaN quaternion", image(edits={QUATERN: ("f", NAN)}), "refuse", "qform: found NaN"),
    ("8 infinite offset", image(edits={QOFFSET: ("f", np.inf)}), "refuse", "qform: found NaN or infinite"),
    ("8 no rotation", image(edits={QUATERN: ("f", 3.0)}), "refuse", "squared length 9"),
    ("9 NaN slope", image(edits={SLOPE: ("f", NAN)}), "refuse", "scl_slope: found nan"),
    ("9 infinite intercept", image(edits={INTERCEPT: ("f", np.inf)}), "refuse", "scl_inter: found inf"),
    ("10 sheared", image(edits={**srow(SHEAR), QFORM_CODE: ("h", 0)}), "refuse", "(sheared)"),
    ("11 singular", image(edits={SROW: ("4f", 0, 0, 0, 0)}), "refuse", "singular"),
    ("11 two equal axes", image(edits={SROW: ("12f", *[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0])}), "refuse", "singular"),
    ("12 truncated gz", raw(lambda b: b[: len(b) // 2]), "refuse", "truncated"),
    ("12 only the trailer is gone", raw(lambda b: b[:-8]), "refuse", "truncated"),
    ("12 truncated inside", content(lambda b: b[:-100]), "refuse", "908 bytes of voxels (truncated)"),
    ("12 truncated .nii", uncompressed(lambda b: b[:-1]), "refuse", "1,007 bytes of voxels (truncated)"),
    ("12 truncated header", content(lambda b: b[:200]), "refuse", "header that ends after 200 bytes"),
    ("13 wrong CRC", raw(lambda b: flip(b, len(b) - 8)), "refuse", "wrong checksum"),
    ("13 wrong length", raw(lambda b: flip(b, len(b) - 3)), "refuse", "wrong checksum"),
    ("14 huge", image(edits={DIM: ("4h", 3, 32767, 32767, 32767)}), "refuse", "GiB of memory"),
    ("14 huge offset", image(edits={VOX_OFFSET: ("f", 1e15)}), "refuse", "GiB of memory"),
    ("15 bomb", bomb, "refuse", "more than 16 MiB beyond"),
    ("16 zero dimension", image(edits={DIM: ("4h", 3, 8, 0, 7)}), "refuse", "8 x 0 x 7"),
    ("16 negative dimension", image(edits={DIM: ("4h", 3, 8, 9, -7)}), "refuse", "8 x 9 x -7"),
    ("16 no dimensions", image(edits={DIM: ("h", 0)}), "refuse", "dim[0]: found 0"),
    ("17 empty", raw(lambda b: b""), "refuse", "an empty file (0 bytes)"),
    ("17 HTML", raw(lambda b: b"<!DOCTYPE html><html>Log in</html>"), "refuse", "an HTML page"),
    ("17 HTML inside gz", content(lambda b: b"<html>Log in" + b" " * 600), "refuse", "an HTML page"),
    ("17 plain called gz", raw(gzip.decompress), "refuse", "an uncompressed NIfTI file; expected a gzip"),
    ("17 gz called plain", rename("images/b.nii.gz", "images/b.nii"), "refuse", "Rename it to end in .nii.gz"),
    ("17 zip", raw(lambda b: b"PK\x03\x04" + b), "refuse", "a zip archive"),
    ("17 DICOM", uncompressed(lambda b: bytes(128) + b"DICM" + bytes(400)), "refuse", "a DICOM file"),
    ("17 pair", image(edits={MAGIC: ("4s", b"ni1\0")}), "refuse", ".hdr/.img pair"),
    ("18 RGB", rgb, "refuse", "128 (RGB)"),
    ("18 complex", image(voxels=lambda a: a.astype(np.complex64)), "refuse", "32 (complex)"),
    ("18 unknown type", image(edits={DATATYPE: ("h", 77)}), "refuse", "77 (unknown)"),
    ("19 trailing .nii", uncompressed(lambda b: b + b"end"), "warn", "3 bytes after the last voxel"),
    ("19 trailing inside gz", content(lambda b: b + bytes(7)), "warn", "7 bytes after the last voxel"),
    ("19 trailing after gz", raw(lambda b: b + b"garbage"), "warn", "7 bytes after the last voxel"),
    ("20 resource fork", lambda root: (root / "images" / "._b.nii.gz").write_bytes(b"x"), "warn", "macOS"),
    ("unit", image(edits={UNITS: ("B", 3)}), "refuse", "micrometre; expected millimetre"),
    ("21 value outside", labels(voxels=with_value(7)), "refuse", "value 7 in 3 voxels"),
    ("21 negative", labels(voxels=with_value(-1, np.int16)), "refuse", "value -1 in 3 voxels"),
    ("22 integral float", labels(voxels=lambda a: a.astype(np.float64)), "warn", "whole numbers stored as float64"),
    ("23 not integral", labels(voxels=with_value(0.5, np.float32)), "refuse", "3 voxels that are no whole number"),
    ("23 NaN in label", labels(voxels=with_value(NAN, np.float32)), "refuse", "3 of 504 are NaN"),
    ("24 empty label", labels(voxels=np.zeros_like), "warn", "label: found empty"),
    ("25 single voxel", labels(voxels=lambda a: np.eye(504, 1, dtype=np.uint8).reshape(SHAPE)), "warn", "one voxel of"),
    ("28 label without image", lambda root: (root / "images" / "b.nii.gz").unlink(), "refuse", "without image"),
]


@pytest.mark.parametrize(("fault", "severity", "words"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_fault_is_named_with_its_file(tmp_path: Path, fault: Fault, severity: str, words: str) -> None:
    root = plain_dataset(tmp_path / "data", cases=4)
    write_json(root, {"labels": {"background": 0, "organ": 1, "lesion": 2}})
    assert check(root).problems == []
    fault(root)
    report = check(root)
    found = [problem for problem in report.problems if words in str(problem)]
    assert len(found) == 1, [str(problem) for problem in report.problems]
    assert found[0].severity == severity
    assert report.ok == (found[0].severity != "refuse")
    assert len(report.problems) == 1, "one fault, one message"
    assert found[0].expected
    assert found[0].fix
    assert str(root) in found[0].file


def test_all_faults_of_a_dataset_come_in_one_pass(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path, cases=5)
    edit(root / "images" / "a.nii.gz", {SLOPE: ("f", NAN), PIXDIM + 4: ("f", 0.0)})
    (root / "images" / "b.nii.gz").write_bytes(b"")
    _rewrite(root / "labels" / "c.nii.gz", label(), voxels=with_value(0.5, np.float32))
    report = check(root)
    assert {(Path(problem.file).name, problem.field) for problem in report.problems} == {
        ("a.nii.gz", "scl_slope"),
        ("a.nii.gz", "pixdim"),
        ("b.nii.gz", "content"),
        ("c.nii.gz", "label values"),
    }
    assert {problem.case for problem in report.problems} == {"a", "b", "c"}


def test_huge_dimensions_allocate_nothing(tmp_path: Path) -> None:
    import tracemalloc

    root = plain_dataset(tmp_path)
    edit(root / "images" / "b.nii.gz", {DIM: ("4h", 3, 32767, 32767, 32767)})
    tracemalloc.start()
    report = check(root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not report.ok
    assert peak < 64 << 20


def png(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def pictures(root: Path) -> Path:
    for number, name in enumerate("abcdef"):
        png(root / "images" / f"{name}.png", np.random.default_rng(number).integers(0, 255, (12, 10, 3), np.uint8))
        mask = np.zeros((12, 10), np.uint8)
        mask[3:6, 2:8] = 1
        png(root / "labels" / f"{name}.png", mask)
    return root


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pixel_bomb(root: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (root / "images" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def exif(path: str, orientation: int) -> Fault:
    def fault(root: Path) -> None:
        with Image.open(root / path) as picture:
            picture.load()
        tags = Image.Exif()
        tags[274] = orientation
        picture.save(root / path, exif=tags)

    return fault


def saved_as(mode: str, name: str = "b.png") -> Fault:
    def fault(root: Path) -> None:
        with Image.open(root / "images" / "b.png") as picture:
            converted = picture.convert(mode)
        (root / "images" / "b.png").unlink()
        converted.save(root / "images" / name)

    return fault


def jpeg_label(root: Path) -> None:
    with Image.open(root / "labels" / "b.png") as mask:
        mask.save(root / "labels" / "b.jpg", quality=95)
    (root / "labels" / "b.png").unlink()


def transparent(root: Path) -> None:
    with Image.open(root / "images" / "b.png") as picture:
        converted = picture.convert("RGBA")
    converted.putpixel((0, 0), (1, 2, 3, 4))
    converted.save(root / "images" / "b.png")


def cut(root: Path) -> None:
    path = root / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:-60])


PICTURE_FAULTS: list[tuple[str, Fault, str, str]] = [
    ("50 pixel bomb", pixel_bomb, "refuse", "pixels; expected at most 178,956,970"),
    ("51 opaque alpha", saved_as("RGBA"), "warn", "opaque everywhere"),
    ("51 transparent", transparent, "refuse", "1 pixels that are not opaque"),
    ("51 CMYK", saved_as("CMYK", "b.jpg"), "refuse", "colours: found CMYK"),
    ("51 grey among RGB", saved_as("L"), "refuse", "1 in 1 cases (b, ...); 3 in 5 cases"),
    ("52 EXIF upside down", exif("images/b.png", 3), "warn", "orientation 3"),
    ("52 EXIF on its side", exif("images/b.png", 6), "refuse", "One of the two is turned by 90 degrees"),
    ("truncated", cut, "refuse", "b.png: pixels: found damaged picture data"),
    ("1 other shape", lambda root: png(root / "labels" / "b.png", np.ones((12, 9), np.uint8)), "refuse", "12 x 9"),
    ("colour label", lambda root: (root / "labels" / "b.png").write_bytes((root / "images" / "b.png").read_bytes()),
     "refuse", "a colour picture"),
    ("label as JPEG", jpeg_label, "refuse", "not the class numbers any more"),
    ("17 HTML", lambda root: (root / "images" / "b.png").write_text("<html>"), "refuse", "an HTML page"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "severity", "words"), [row[1:] for row in PICTURE_FAULTS], ids=[row[0] for row in PICTURE_FAULTS]
)
def test_fault_of_a_picture(tmp_path: Path, fault: Fault, severity: str, words: str) -> None:
    root = pictures(tmp_path)
    assert check(root).problems == []
    fault(root)
    report = check(root)
    found = [problem for problem in report.problems if words in str(problem)]
    assert len(found) == 1, [str(problem) for problem in report.problems]
    assert found[0].severity == severity
    assert report.ok == (severity == "warn")
