"""ImageNet's validation images as they are given out: in one heap, with their classes in the development kit.

The kit's readme.txt: line N of the ground truth is the ILSVRC2012_ID of the class of image N, and meta.mat says which
WordNet id that is. Of its 1,860 synsets those without children are the classes.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import scipy.io  # type: ignore[import-untyped]  # scipy ships no types
from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]  # scipy ships no types

from shared.errors import Rejected

from .archives import read_tar
from .folders import Labelled, StoredFile, file_of_its_own

KIT = "ILSVRC2012_devkit_t12"
KIT_ARCHIVE = f"{KIT}.tar.gz"
META = "data/meta.mat"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
IMAGES = "ILSVRC2012_img_val.tar"
IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG")
# The published kit has 2.5 MB; the first may hold all that WordNet says of 1,860 synsets.
MOST_BYTES = 64 << 20


def read_validation(location: Path) -> list[Labelled]:
    """Of a folder with both downloads, each as the archive that it is or unpacked there."""
    wnid_of = wnids_by_number(kit_file(location, META), where=location)
    truth = numbers(kit_file(location, TRUTH), where=location)
    return [labelled(image, truth, wnid_of, where=location) for image in validation_images(location)]


def validation_images(location: Path) -> list[StoredFile]:
    archive = location / IMAGES
    if archive.is_file():
        files = read_tar(archive, known_as=archive).files
    else:
        files = [file_of_its_own(location, path.name) for path in location.iterdir() if IMAGE.fullmatch(path.name)]
    if not files:
        raise Rejected(f"{location} holds neither {IMAGES} nor its images; put them there")
    return files


def labelled(image: StoredFile, truth: Sequence[int], wnid_of: dict[int, str], *, where: Path) -> Labelled:
    match = IMAGE.fullmatch(image.name)
    if match is None:
        raise Rejected(f"{where} holds {image.name}, which is no image of the validation set; give {IMAGES} as it is")
    number = int(match[1])
    if not 1 <= number <= len(truth):
        raise Rejected(f"{where} holds {image.name} and the ground truth ends with image {len(truth)}; is it whole?")
    if truth[number - 1] not in wnid_of:
        raise Rejected(f"{where}: the class of {image.name} is {truth[number - 1]}, which {META} does not know")
    return Labelled(wnid_of[truth[number - 1]], image)


def kit_file(location: Path, name: str) -> bytes:
    """From the unpacked kit, or from its archive."""
    folder, archive = location / KIT, location / KIT_ARCHIVE
    try:
        if folder.is_dir():
            with (folder / name).open("rb") as file:
                return at_most(file.read(MOST_BYTES + 1), folder / name)
        with tarfile.open(archive, "r:gz") as tar:
            member = tar.extractfile(f"{KIT}/{name}")
            if member is None:
                raise Rejected(f"{archive} holds no file {KIT}/{name}; download the development kit again")
            return at_most(member.read(MOST_BYTES + 1), archive)
    except FileNotFoundError as error:
        raise Rejected(f"{error.filename} is missing; put {KIT_ARCHIVE} of image-net.org into {location}") from error
    except (KeyError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise Rejected(f"cannot read {name} of the development kit in {location}: {error}") from error


def at_most(data: bytes, source: Path) -> bytes:
    if len(data) > MOST_BYTES:
        raise Rejected(f"{source} unpacks to more than {MOST_BYTES} bytes; download the development kit again")
    return data


def numbers(truth: bytes, *, where: Path) -> list[int]:
    lines = truth.split()
    if wrong := [line for line in lines if not line.isdigit() or len(line) > 4]:
        raise Rejected(f"{where}: {TRUTH} holds {wrong[0][:50]!r}, which is no number of a class")
    return [int(line) for line in lines]


def wnids_by_number(meta: bytes, *, where: Path) -> dict[int, str]:
    """WordNet id by ILSVRC2012_ID."""
    try:
        rows = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {
            int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows.reshape(-1) if int(row["num_children"]) == 0
        }
    # What scipy raises for a file that is none of MATLAB's, of another form, or damaged.
    except (MatReadError, ValueError, LookupError, TypeError, NotImplementedError, OSError, zlib.error) as error:
        raise Rejected(f"{where}: {META} cannot be read ({error}); download the development kit again") from error
