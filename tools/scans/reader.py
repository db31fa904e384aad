"""The one door for image files: what is read is whole, 3-D, real-valued, and says where it lies."""

from __future__ import annotations

import gzip
import logging
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

__all__ = [
    "ENDINGS",
    "bare_name",
    "count_not_finite",
    "existing_files",
    "is_image_name",
    "open_image",
    "read_planes",
    "read_values",
    "require_finite",
    "require_hu",
    "scaling",
]

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
OTHERS = (".nrrd", ".nhdr", ".mha", ".mhd")  # read by ITK
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")  # one per image
LEFT_OVER = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini", re.IGNORECASE)
MOST_BYTES = 16 << 30
MOST_SURPLUS = 64 << 20  # bytes behind the last voxel
GZIP_RATIO = 1032  # deflate reaches no more
SPACINGS_MM = (0.01, 100.0)
GZIP_MAGIC = b"\x1f\x8b"
ITK_PREAMBLE = re.compile(r".*\bERROR: (\w+\(0x[0-9a-f]+\): )?")  # its source file and address
FLATTEST = 1e-3  # volume of a voxel as a share of the product of its edges
CHUNK = 1 << 22
SMALLEST_RANGE_HU = 50  # of any piece of a patient; scaled images span 1 or 2
LEAST_FAT_HU = -25  # of a CT whose highest values are those of bone, some voxel is below
BONE_HU = 1200

logger = logging.getLogger(__name__)
# nibabel mends headers and says so for each field; what matters is said here, in one sentence
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


def is_image_name(name: str) -> bool:
    """Return whether a file is named as an image is, and not as a left-over of a system."""
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def existing_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among paths; of left-overs of systems and links to nowhere the log tells."""
    left = []
    for path in paths:
        if LEFT_OVER.fullmatch(path.name):
            left.append(path)
        elif path.is_symlink() and not path.exists():
            logger.warning("%s is a link to a file that is not there, passed over", path)
        elif path.is_file():
            yield path
    if left:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        logger.warning("%s%s is a left-over of another system, passed over", left[0], more)


def bare_name(name: str) -> str:
    """Return a file name without the ending of an image.

    Example:
        >>> [bare_name(n) for n in ("a.nii.gz", "b.NRRD", "c")]
        ['a', 'b', 'c']
    """
    ending = next((e for e in ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def open_image(path: str | Path, argument: str = "scan") -> Any:
    """Return an image whose header is fit; its values are read by :func:`read_values`.

    NIfTI-1 and NIfTI-2 of any byte order, their pairs of files, Analyze; NRRD and MetaImage. Axes
    of length 1 beyond the third are left out.

    Args:
        path: of the file.
        argument: its name in messages.

    Returns:
        An image of nibabel with three axes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such image, of colours or complex numbers, not 3-D, larger than
            its file can hold or than 16 GiB, has voxels of less than 0.01 or more than 100 mm, or
            an affine that cannot be inverted.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{argument} must be an existing image, got a link to none: {path}")
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must be an existing image file, got {path}")
    if not path.stat().st_size:
        raise ValueError(f"{argument} must be an image, got the empty file {path}")
    name = path.name.lower()
    if not name.endswith((*NIFTI, *OTHERS)):
        raise ValueError(
            f"{argument} must be NIfTI (.nii, .nii.gz, .hdr), NRRD or MetaImage, got {path}"
        )
    try:
        image = _open_nifti(path) if name.endswith(NIFTI) else _open_itk(path)
        problem = _problem(image, path)
    except Exception as error:  # whatever broken bytes lead the libraries to
        raise ValueError(
            f"{argument} must be an image that can be read, got {path} ({_short(error)})"
        ) from error
    if problem:
        raise ValueError(f"{argument} must {problem} in {path}")
    return image


def read_values(image: Any, path: str | Path | None = None, argument: str = "scan") -> np.ndarray:
    """Return the stored values of an image, three axes, before header scaling.

    A compressed file is read to its end, where its checksum is, which nibabel leaves out.

    Raises:
        ValueError: if the file is cut short or damaged.
    """
    proxy = image.dataobj
    shape = tuple(image.shape[:3])
    try:
        if not nib.is_proxy(proxy):
            return np.asanyarray(proxy).reshape(shape)
        file = str(proxy.file_like)
        if not file.lower().endswith(".gz"):
            return np.asanyarray(proxy.get_unscaled()).reshape(shape)
        values = np.empty(math.prod(shape), proxy.dtype)
        with gzip.open(file) as stream:
            _skip(stream, int(proxy.offset))
            _fill(stream, values.view(np.uint8).data)
            _finish(stream)
        return values.reshape(shape, order="F")
    except Exception as error:
        raise ValueError(
            f"{argument} must be whole, got {path or 'an image'} which is cut short or damaged "
            f"({_short(error)})"
        ) from error


def read_planes(
    image: Any, path: str | Path | None = None, argument: str = "scan"
) -> Iterator[np.ndarray]:
    """Yield the stored values of an image, one plane of its first two axes after the other.

    For what need not be in memory as a whole; else as :func:`read_values`, at the end of which a
    damaged file is known.
    """
    proxy = image.dataobj
    file = str(proxy.file_like) if nib.is_proxy(proxy) else ""
    shape = tuple(image.shape[:3])
    if not file.lower().endswith(".gz"):
        values = read_values(image, path, argument)
        yield from (values[..., k] for k in range(shape[2]))
        return
    try:
        with gzip.open(file) as stream:
            _skip(stream, int(proxy.offset))
            for _ in range(shape[2]):
                plane = np.empty(shape[0] * shape[1], proxy.dtype)
                _fill(stream, plane.view(np.uint8).data)
                yield plane.reshape(shape[:2], order="F")
            _finish(stream)
    except Exception as error:
        raise ValueError(
            f"{argument} must be whole, got {path or file} which is cut short or damaged "
            f"({_short(error)})"
        ) from error


def scaling(image: Any) -> tuple[float, float]:
    """Return slope and intercept; nibabel takes them out of the header into the proxy."""
    data = image.dataobj
    return (float(data.slope), float(data.inter)) if nib.is_proxy(data) else (1.0, 0.0)


def require_finite(values: np.ndarray, argument: str, path: object = None) -> None:
    """Refuse NaN and infinite values, and say how many there are.

    Raises:
        ValueError: if there is one.
    """
    broken = count_not_finite(values)
    if broken:
        where = f" in {path}" if path else ""
        raise ValueError(
            f"{argument} must hold finite values, got NaN or infinity in {broken} of "
            f"{values.size} voxels{where}"
        )


def require_hu(values: np.ndarray, argument: str, path: object = None) -> None:
    """Refuse what cannot be a CT in HU: scaled values, or bone without any fat.

    Raises:
        ValueError: if it is such.
    """
    low, high = float(values.min()), float(values.max())
    # a crop of nothing but air or padding may be as even, and has no room, which is no mistake
    scaled = 0 < high - low < SMALLEST_RANGE_HU and low > -SMALLEST_RANGE_HU
    if scaled or (low > LEAST_FAT_HU and high > BONE_HU):
        where = f" in {path}" if path else ""
        raise ValueError(
            f"{argument} must be in HU, before intensities are scaled, got values from {low:g} to "
            f"{high:g}{where} (hu_offset adds what is missing, such as -1024)"
        )


def count_not_finite(values: np.ndarray) -> int:
    """Return how many values are NaN or infinite, in little memory."""
    if values.dtype.kind != "f":
        return 0
    return sum(int((~np.isfinite(part)).sum()) for part in values)


def _open_nifti(path: Path) -> Any:
    if not path.name.lower().endswith(".gz") and _is_gzip(path):
        raise ValueError("it is compressed: its name must end with .gz")
    image: Any = nib.load(path)
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
        logger.warning("%s is of the Analyze format, which does not say which side is left", path)
        proxy = image.dataobj
        image = nib.Nifti1Image(proxy, image.affine)
    return image


def _open_itk(path: Path) -> nib.Nifti1Image:
    import SimpleITK  # slow to import, rarely needed

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = math.prod(reader.GetSize())
    if size * 8 > MOST_BYTES or reader.GetNumberOfComponents() > 1:
        raise ValueError(
            f"{reader.GetNumberOfComponents()} components of {size} voxels are no scan"
        )
    image = reader.Execute()
    values = SimpleITK.GetArrayFromImage(image).T
    if image.GetDimension() != 3:
        return nib.Nifti1Image(values, np.eye(4), dtype=values.dtype)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3] = np.c_[direction * image.GetSpacing(), image.GetOrigin()]
    result = nib.Nifti1Image(values, np.diag([-1, -1, 1, 1]) @ affine, dtype=values.dtype)
    result.header.set_xyzt_units("mm")
    return result


def _problem(image: Any, path: Path) -> str:
    """Return what rule the header breaks and by what value; empty where it breaks none."""
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or 0 in shape:
        return f"have 3 dimensions, got shape {tuple(shape)}"
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "colours" if dtype.names else str(dtype)
        return f"hold whole or real numbers of at most 64 bits, got {kind}"
    size = math.prod(shape) * dtype.itemsize
    held = _room(image, path)
    if size > min(held, MOST_BYTES):
        return (
            f"hold as many voxels as its header says, at most 16 GiB, got {tuple(shape)} of "
            f"{dtype} ({size} bytes, the file can hold {held})"
        )
    affine = np.asarray(image.affine, float)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e6:
        return f"have a finite affine, got {affine.tolist()}"
    low, high = SPACINGS_MM
    if edges.all() and not (low <= edges.min() and edges.max() <= high):
        spacing = ", ".join(f"{edge:g}" for edge in edges)
        return f"have voxels of {low:g} to {high:g} mm, got {spacing} (are they millimetres?)"
    if abs(np.linalg.det(affine[:3, :3])) < FLATTEST * edges.prod() or not edges.all():
        return f"have an invertible affine, got {affine.tolist()}"
    return ""


def _room(image: Any, path: Path) -> int:
    """Return how many bytes of voxels the file may hold at most."""
    proxy = image.dataobj
    if not nib.is_proxy(proxy):
        return MOST_BYTES
    file = Path(str(proxy.file_like))
    size = file.stat().st_size
    if file.suffix.lower() == ".gz":
        return size * GZIP_RATIO
    return size - int(proxy.offset)


def _skip(stream: Any, offset: int) -> None:
    while offset:
        skipped = len(stream.read(min(offset, CHUNK)))
        if not skipped:
            raise EOFError("it ends before its voxels")
        offset -= skipped


def _fill(stream: Any, target: memoryview) -> None:
    done = 0
    while done < len(target):
        count = stream.readinto(target[done : done + CHUNK])
        if not count:
            raise EOFError(f"{len(target) - done} bytes are missing")
        done += count


def _finish(stream: Any) -> None:
    """Read what is left behind the voxels: the last bytes are a checksum."""
    surplus = 0
    while part := stream.read(CHUNK):
        surplus += len(part)
        if surplus > MOST_SURPLUS:
            raise ValueError("it goes on behind its voxels")


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _short(error: Exception) -> str:
    text = ITK_PREAMBLE.sub("", " ".join(str(error).split())) or type(error).__name__
    return text[:160]
