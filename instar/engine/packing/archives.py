"""Archives: what a tar or a zip holds, by its directory or its headers; nothing of it is unpacked.

They come from anywhere. A member whose name is absolute or leads upwards, that is a link or a device, is encrypted, or
would unpack to far more than it takes, comes with the reason why it is left out.
"""

import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from instar.engine.scan import listing
from instar.errors import DataError

CUT = "the archive"  # reasons that begin so are of the archive, and not of the member only
_MOST = 1 << 32  # bytes of one member: more is no sample
_RATIO, _HARMLESS = 200, 1 << 26  # a member that unpacks to more than that many times its size, unless it is small

Member = tuple[str, int, int, str]  # name, where, size, why it is left out


def members(path: Path) -> tuple[str, Iterable[Member]]:
    """Which kind of archive this is, tar or zip, and its members. Where: the offset in a tar, the number in a zip.

    Raises DataError for what is neither, and for a zip that cannot be read.
    """
    if zipfile.is_zipfile(path):
        return "zip", _zip_members(path)
    if _is_tar(path):
        return "tar", _tar_members(path)
    raise DataError(
        f"{path}: this is no folder, no zip and no uncompressed tar. Uncompress it first (xz -dk, gunzip -k, "
        f"unzstd), because nothing can be found in a compressed tar without reading all of it."
    )


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, OSError, EOFError):
        return False


def _tar_members(path: Path) -> Iterable[Member]:
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                reason = _against(member.name, member.size)
                if not member.isfile():
                    if member.isdir():
                        continue
                    reason = reason or "a link or a device, and no file"
                elif member.sparse is not None:
                    reason = reason or "a sparse member; its bytes do not lie in one piece"
                elif member.offset_data + member.size > size:
                    reason = reason or f"{CUT} ends before it does"
                yield member.name, member.offset_data, member.size, reason
    except (tarfile.TarError, OSError, EOFError) as error:
        yield path.name, 0, 0, f"{CUT} cannot be read to its end ({error})"


def _zip_members(path: Path) -> Iterable[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            for number, member in enumerate(archive.infolist()):
                if member.is_dir():
                    continue
                reason = _against(member.filename, member.file_size)
                if stat.S_ISLNK(member.external_attr >> 16):
                    reason = reason or "a link or a device, and no file"
                if member.flag_bits & 1:
                    reason = reason or "encrypted"
                if member.file_size > max(_HARMLESS, _RATIO * member.compress_size):
                    reason = reason or f"a bomb: {member.compress_size} bytes say that they are {member.file_size}"
                yield member.filename, number, member.file_size, reason
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: cannot be read as a zip ({error}). Copy it again.") from error


def _against(name: str, size: int) -> str:
    """Why a member of this name and size is left out; '' where it is not."""
    if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":"):
        return "an absolute name"
    if ".." in name.replace("\\", "/").split("/"):
        return "its name leads out of the archive"
    if not name or "\0" in name:
        return "no name"
    if not listing.is_utf8(name):
        return listing.NOT_UTF8
    return f"{size} bytes are too many for one sample" if size > _MOST else ""
