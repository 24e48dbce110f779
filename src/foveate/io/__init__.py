"""Files <-> Volume: NIfTI, DICOM series, PNG, JPEG, TIFF. Every file is judged before its content is used."""

from foveate.io.dicom import image_files, is_series
from foveate.io.files import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    case_stem,
    image_suffix,
    inspect_image,
    inspect_label,
    read_image,
    read_label,
    write_label,
    write_map,
)
from foveate.io.grid import corner_distance, tolerance
from foveate.io.volume import Volume

__all__ = [
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "Volume",
    "case_stem",
    "corner_distance",
    "image_files",
    "image_suffix",
    "inspect_image",
    "inspect_label",
    "is_series",
    "read_image",
    "read_label",
    "tolerance",
    "write_label",
    "write_map",
]
