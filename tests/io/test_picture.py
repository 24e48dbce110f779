"""Pictures keep their values; what is done with the less usual kinds is what the module says."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from foveate.errors import InputError
from foveate.io import inspect_image, inspect_label, read_image, read_label

GREY = np.random.default_rng(0).integers(0, 256, (6, 9), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (6, 9), np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("pixels", [GREY, RGB, DEEP], ids=["grey", "rgb", "16-bit"])
def test_values_are_kept(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(pixels).save(path)
    volume, problems = inspect_image([path])
    assert problems == []
    expected = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.array.dtype == np.float32
    assert (volume.dims, volume.spacing) == (2, (1.0, 1.0))


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"x{suffix}", quality=95)
    with Image.open(tmp_path / f"x{suffix}") as picture:
        expected = np.moveaxis(np.asarray(picture), -1, 0)
    np.testing.assert_array_equal(read_image([tmp_path / f"x{suffix}"], 3).array, expected)


@pytest.mark.parametrize(("name", "keywords"), [("x.jpg", {"quality": 100}), ("x.tif", {"compression": "jpeg"})])
def test_a_label_in_a_lossy_file_is_refused(tmp_path: Path, name: str, keywords: dict) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 17:43] = 1
    Image.fromarray(mask).save(tmp_path / name, **keywords)
    with pytest.raises(InputError, match=r"label: found .*JPEG.*not the class numbers.* as PNG"):
        read_label(tmp_path / name)
    assert read_image([tmp_path / name]).shape == (64, 64)  # as an image it is good
    Image.fromarray(mask).save(tmp_path / "named_wrong.jpg", "PNG")  # what is inside counts
    np.testing.assert_array_equal(read_label(tmp_path / "named_wrong.jpg").array[0], mask)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [GREY, RGB, DEEP], ids=["grey", "rgb", "16-bit"])
def test_compressed_tiff(tmp_path: Path, pixels: np.ndarray, compression: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.tif", compression=compression)
    expected = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    np.testing.assert_array_equal(read_image([tmp_path / "x.tif"]).array, expected)


def test_float_and_planar_tiff(tmp_path: Path) -> None:
    values = GREY.astype(np.float32) / 7 - 3
    tifffile.imwrite(tmp_path / "float.tif", values)
    np.testing.assert_array_equal(read_image([tmp_path / "float.tif"]).array[0], values)
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image([tmp_path / "planar.tif"]).array, np.moveaxis(RGB, -1, 0))
    values[2, 3] = np.nan
    tifffile.imwrite(tmp_path / "float.tif", values)
    with pytest.raises(InputError, match="1 of 54 are NaN"):
        read_image([tmp_path / "float.tif"])


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_16_bits_are_read_as_those_of_8(tmp_path: Path, alpha: bool) -> None:
    """A model that learned from pictures of 8 bits must see the same one."""
    deep = RGB.astype(np.uint16) * 257
    if alpha:
        deep = np.dstack([deep, np.full(deep.shape[:2], 65535, np.uint16)])
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb", extrasamples=["unassalpha"] if alpha else None)
    volume, problems = inspect_image([tmp_path / "x.tif"])
    np.testing.assert_array_equal(volume.array, np.moveaxis(RGB, -1, 0))
    assert [p.severity for p in problems if p.field == "bit depth"] == ["warn"]


def test_colours_of_8_bits_in_a_wider_type_keep_their_values(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", RGB.astype(np.uint16), photometric="rgb")
    volume, problems = inspect_image([tmp_path / "x.tif"])
    np.testing.assert_array_equal(volume.array, np.moveaxis(RGB, -1, 0))
    assert not problems


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_palette_is_colour_for_an_image_and_index_for_a_label(tmp_path: Path, suffix: str) -> None:
    indices = (GREY % 4).astype(np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette([255, 0, 0, 0, 200, 0, 0, 0, 150, 10, 20, 30])
    picture.save(tmp_path / f"x{suffix}")
    colours = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 150], [10, 20, 30]])
    np.testing.assert_array_equal(read_image([tmp_path / f"x{suffix}"]).array, np.moveaxis(colours[indices], -1, 0))
    np.testing.assert_array_equal(read_label(tmp_path / f"x{suffix}").array[0], indices)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("options", [(".png", {}), (".jpg", {}), (".tif", {}), (".tif", {"compression": "tiff_lzw"})])
def test_orientation_is_applied_and_recorded(tmp_path: Path, orientation: int, options: tuple) -> None:
    suffix, keywords = options
    path = tmp_path / f"x{suffix}"
    tags = Image.Exif()
    tags[274] = orientation
    Image.fromarray(RGB).save(path, exif=tags, **keywords)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    volume, problems = inspect_image([path])
    np.testing.assert_array_equal(np.moveaxis(volume.array, 0, -1), expected)
    assert [(problem.field, problem.severity) for problem in problems] == [("EXIF orientation", "warn")]


def test_orientation_of_a_label_is_applied_too(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[274] = 6
    Image.fromarray(GREY % 3).save(tmp_path / "x.png", exif=tags)
    volume, problems = inspect_label(tmp_path / "x.png")
    np.testing.assert_array_equal(volume.array[0], np.rot90(GREY % 3, -1))
    assert [problem.field for problem in problems] == ["EXIF orientation"]


def test_binary_and_grey_alpha(tmp_path: Path) -> None:
    Image.fromarray(GREY > 99).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png").array[0], (GREY > 99).astype(np.uint8))
    Image.fromarray(np.stack([GREY, np.full_like(GREY, 255)], -1), "LA").save(tmp_path / "y.png")
    volume, problems = inspect_image([tmp_path / "y.png"])
    np.testing.assert_array_equal(volume.array[0], GREY)
    assert "opaque everywhere" in str(problems[0])


def test_white_is_zero_is_inverted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", GREY, photometric="miniswhite")
    volume, problems = inspect_image([tmp_path / "x.tif"])
    np.testing.assert_array_equal(volume.array[0], 255 - GREY)
    assert [problem.field for problem in problems] == ["photometric"]
    np.testing.assert_array_equal(read_label(tmp_path / "x.tif").array[0], GREY)


def test_wrong_suffix_is_read_and_said(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.jpg", "PNG")
    volume, problems = inspect_image([tmp_path / "x.jpg"])
    np.testing.assert_array_equal(volume.array[0], GREY)
    assert [(problem.field, problem.severity) for problem in problems] == [("name", "warn")]


def test_several_pages_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.stack([GREY] * 3), photometric="minisblack")
    with pytest.raises(InputError, match="pages: found 3"):
        read_image([tmp_path / "x.tif"])
    Image.fromarray(GREY).save(tmp_path / "x.png", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    with pytest.raises(InputError, match="frames: found 2"):
        read_image([tmp_path / "x.png"])


def test_tiff_bomb_and_truncation(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="damaged picture data"):
        read_image([path])
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        tags = tiff.pages[0].tags
        width, length = tags["ImageWidth"].valueoffset, tags["ImageLength"].valueoffset
    content = bytearray(whole)
    for offset in (width, length):
        content[offset : offset + 2] = (60_000).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"60,000 x 60,000 = 3,600,000,000 pixels"):
        read_image([path])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the decoders, which the refusal repeats
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_whatever_was_damaged_is_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path, random = tmp_path / f"x{suffix}", np.random.default_rng(0)
    Image.fromarray(GREY).save(path, **({"compression": "tiff_lzw"} if suffix == ".tif" else {}))
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        refused += inspect_image([path])[0] is None
    assert 0 < refused < 200


def test_bits_whose_0_is_white_are_inverted(tmp_path):
    bits = np.eye(8, dtype=bool)
    tifffile.imwrite(tmp_path / "x.tif", bits, photometric="miniswhite")
    volume, problems = inspect_image([tmp_path / "x.tif"])
    assert [problem.field for problem in problems] == ["photometric"]
    np.testing.assert_array_equal(volume.array[0], ~bits)
