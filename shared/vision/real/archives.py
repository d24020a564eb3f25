"""Archives of class folders, read in place: an index of offsets instead of files taken out."""

import gzip
import hashlib
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from shared.disk import PART, sync_folder
from shared.errors import Rejected, Unavailable

from .folders import StoredFile, Tree, is_hidden

CHUNK_BYTES = 1 << 20
COMPRESSED_TARS = (".tar.gz", ".tgz")
KINDS = (".tar", *COMPRESSED_TARS, ".zip")
ENCRYPTED = 0x1
# A ZIP member's own header: 26 bytes that its central entry repeats, then the lengths of name and extra field
# (APPNOTE.TXT 6.3.10, section 4.3.7). Only this header says where the data begins.
ZIP_HEADER = struct.Struct("<4s22xHH")
ZIP_MAGIC = b"PK\x03\x04"


class Unpacking(NamedTuple):
    """Where a compressed tar is unpacked, once, and how large it may become."""

    cache_dir: Path
    most_bytes: int


def read_archive(archive: Path, unpacking: Unpacking | None) -> Tree:
    """Its files by offset; raises Rejected for damage, links, and names that lead out of it."""
    if not archive.is_file():
        raise Rejected(f"{archive} is no file; give the path of a {', '.join(KINDS)} archive")
    if archive.name.endswith(".zip"):
        return read_zip(archive)
    if archive.name.endswith(COMPRESSED_TARS):
        if unpacking is None:
            raise Rejected(f"{archive} is compressed and there is no folder to unpack it to; unpack it yourself")
        return read_tar(gunzipped(archive, unpacking), known_as=archive)
    if archive.name.endswith(".tar"):
        return read_tar(archive, known_as=archive)
    raise Rejected(f"{archive} is no archive that can be read; known are {', '.join(KINDS)}")


def read_tar(path: Path, *, known_as: Path) -> Tree:
    tree = Tree([], [])
    for member in tar_members(path, known_as=known_as):
        name = safe_name(member.name, known_as)
        if is_hidden(name):
            continue
        if member.isdir():
            tree.folders.append(name)
        else:
            tree.files.append(StoredFile(name, str(path), member.offset_data, member.size, member.size))
    return tree


def tar_members(path: Path, *, known_as: Path | str) -> Iterator[tarfile.TarInfo]:
    """Folders and plain files; a tar may hold millions, so none is kept."""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out
                if not (member.isdir() or (member.isreg() and not member.issparse())):
                    raise Rejected(f"{known_as} holds {member.name}, a link or device; pack plain files")
                yield member
    except (tarfile.TarError, OSError) as error:
        raise Rejected(f"{known_as} cannot be read as a tar: {error}") from error


def safe_name(name: str, archive: Path | str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise Rejected(f"{archive} holds {name!r}, which leads out of the archive; pack it with relative names")
    return path.as_posix()


def read_zip(path: Path) -> Tree:
    tree = Tree([], [])
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for member in archive.infolist():
                name = safe_name(member.filename, path)
                if is_hidden(name):
                    continue
                if member.is_dir():
                    tree.folders.append(name)
                else:
                    tree.files.append(zip_member(member, name, file, path))
    except (zipfile.BadZipFile, struct.error, OSError) as error:
        raise Rejected(f"{path} cannot be read as a ZIP: {error}") from error
    return tree


def zip_member(member: zipfile.ZipInfo, name: str, file: IO[bytes], path: Path) -> StoredFile:
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise Rejected(f"{path} holds {name}, a link or device; pack plain files")
    if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Rejected(f"{path} holds {name} encrypted or packed by another method than deflate; pack it with zip -r")
    file.seek(member.header_offset)
    magic, name_bytes, extra_bytes = ZIP_HEADER.unpack(file.read(ZIP_HEADER.size))
    if magic != ZIP_MAGIC:
        raise Rejected(f"{path} has no member where its index names {name}; it is damaged")
    offset = member.header_offset + ZIP_HEADER.size + name_bytes + extra_bytes
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    return StoredFile(name, str(path), offset, member.compress_size, member.file_size, deflated)


def gunzipped(archive: Path, unpacking: Unpacking) -> Path:
    """A plain tar in the cache folder: no member is ever written under a name that the archive chose.

    A changed archive (size or time) is unpacked anew; two processes that unpack at once put the same bytes there.
    """
    status = archive.stat()
    identity = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    target = unpacking.cache_dir / f"{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()}.tar"
    if target.is_file():
        return target
    try:
        unpacking.cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=unpacking.cache_dir, prefix=PART, delete=False) as part:
            try:
                unpack(archive, part, unpacking.most_bytes)
                part.flush()
                os.fsync(part.fileno())
                os.replace(part.name, target)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        sync_folder(unpacking.cache_dir)
    except OSError as error:
        raise Unavailable(f"cannot unpack {archive} to {unpacking.cache_dir}: {error.strerror}") from error
    return target


def unpack(archive: Path, target: IO[bytes], most_bytes: int) -> None:
    written = 0
    try:
        with gzip.open(archive) as source:
            while chunk := source.read(CHUNK_BYTES):
                written += len(chunk)
                if written > most_bytes:
                    raise Rejected(f"{archive} unpacks to more than {most_bytes} bytes; unpack it yourself")
                target.write(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Rejected(f"{archive} is damaged: {error}") from error
