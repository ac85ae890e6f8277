"""Archives of tensors, as `torch.save` writes them: ZIP files with checksums that PyTorch does not read."""

import os
import zipfile

from resproto_fd.configs.readers.text import kind_instead

MOST_GROWTH, SMALL = 4, 16 << 20
"""An archive may unpack to this many times its size, and `SMALL` bytes more. Packed weights hardly shrink."""
BLOCK = 1 << 20


class DamagedArchive(ValueError):
    """The file is no whole archive; the message is the reason."""


def check_archive(path: str | os.PathLike) -> None:
    """Checks the unpacked size of an archive, then compares each member with its CRC-32, block by block.

    `torch.load` trusts the file: a flipped bit is another weight, and a few kilobytes may unpack to gigabytes.

    Raises:
        DamagedArchive: It is no file, no ZIP archive, cut short, damaged, or unpacks to far more than its size.
        OSError: It cannot be read.
    """
    if found := kind_instead(path):
        raise DamagedArchive(f"expected a file, got {found}")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, os.path.getsize(path))
    except (DamagedArchive, OSError):
        raise
    except Exception as error:  # a damaged directory raises many kinds
        raise DamagedArchive(f"not a whole ZIP archive: {error or type(error).__name__}") from error


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > MOST_GROWTH * size + SMALL:
        raise DamagedArchive(
            f"its {size} bytes unpack to {unpacked}; expected {MOST_GROWTH} times as many at most: weights are saved "
            "unpacked by torch.save"
        )
    for member in members:
        try:
            with archive.open(member) as file:  # reading to the end compares the checksum
                while file.read(BLOCK):
                    pass
        except zipfile.BadZipFile as error:
            raise DamagedArchive(f"damaged: {error}") from error
