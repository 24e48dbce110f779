"""Small DICOM series made by hand, and ways to spoil them."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
RIGHT, DOWN, NORMAL = nib.eulerangles.euler2mat(0.2, -0.1, 0.4).T  # oblique, LPS
ORIGIN = np.array([-20.5, 33.25, 7.0])
SPACING = (0.75, 1.25)  # mm between rows, between columns
STEP = 2.5  # mm; the SliceThickness written is another one
# voxel (column, row, slice) -> RAS mm, in closed form
AFFINE = np.diag([-1.0, -1, 1, 1]) @ np.vstack(
    [np.column_stack([RIGHT * SPACING[1], DOWN * SPACING[0], NORMAL * STEP, ORIGIN]), [0, 0, 0, 1]]
)
Spoil = Callable[[Dataset, int], object]


def stored(slices: int = 4, seed: int = 0, dtype: str = "i2") -> np.ndarray:
    """Values ``[rows, columns, slices]`` of 12 bits."""
    low = -2048 if np.dtype(dtype).kind == "i" else 0
    return np.random.default_rng(seed).integers(low, 2048, (6, 5, slices)).astype(dtype)


def dicom_slice(values: np.ndarray, number: int, uid: str = "1.2.3", **fields: object) -> Dataset:
    """One slice ``[rows, columns]``. uid: that of its series; its study is the same without the last part."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MR
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta, data.preamble = meta, bytes(128)
    data.SOPClassUID = MR
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = uid.rpartition(".")[0]
    data.SeriesInstanceUID = uid
    data.FrameOfReferenceUID = f"{data.StudyInstanceUID}.99"
    data.PatientID, data.PatientName, data.Modality = "P1", "P1", "MR"
    data.InstanceNumber = 100 - number  # against the order of the positions
    data.ImageOrientationPatient = [*RIGHT, *DOWN]
    data.ImagePositionPatient = list(ORIGIN + number * STEP * NORMAL)
    data.PixelSpacing = list(SPACING)
    data.SliceThickness = 1
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * values.itemsize, min(12, 8 * values.itemsize), 11
    if values.itemsize == 1:
        data.HighBit = 7
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def write_series(
    folder: Path, values: np.ndarray | None = None, spoil: Spoil | None = None, uid: str = "1.2.3", **fields: object
) -> Path:
    """A series of ``values [rows, columns, slices]``, a file each. spoil: called with each dataset and its number."""
    folder.mkdir(parents=True, exist_ok=True)
    values = stored() if values is None else values
    for number in range(values.shape[2]):
        data = dicom_slice(values[..., number], number, uid, **fields)
        if spoil is not None:
            spoil(data, number)
        data.save_as(folder / f"{(7 * number + 3) % 10}_{number}.dcm")
    return folder


def group(**fields: object) -> Sequence:
    item = Dataset()
    for key, value in fields.items():
        setattr(item, key, value)
    return Sequence([item])


def enhanced(values: np.ndarray) -> Dataset:
    """``values [rows, columns, slices]`` in one file, with functional groups; in reverse, each with its slope."""
    count = values.shape[2]
    data = dicom_slice(values[..., 0], 0)
    for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ENHANCED_MR
    data.NumberOfFrames = count
    data.PixelData = np.moveaxis(values[..., ::-1], 2, 0).tobytes()
    shared = Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[*RIGHT, *DOWN])
    shared.PixelMeasuresSequence = group(PixelSpacing=list(SPACING), SliceThickness=1)
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number in reversed(range(count)):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=list(ORIGIN + number * STEP * NORMAL))
        frame.PixelValueTransformationSequence = group(RescaleSlope=1 + number, RescaleIntercept=-number)
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return data
