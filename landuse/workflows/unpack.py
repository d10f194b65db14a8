"""IO: a zip archive of ``Class/file`` patches to a folder that appears whole or not at all.

An archive is hostile until every member has been judged; before that nothing of it is written.
"""

from __future__ import annotations

import logging
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from landuse.errors import ProviderError
from landuse.workflows.fetch import Transfer, require_space

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_MEMBERS = 100_000
"""Three times EuroSAT's."""

MAX_PATCH_BYTES = 1 << 20
"""Ten times a 13-band patch."""

MAX_UNPACKED_BYTES = 4 << 30
"""All 13-band patches come to 2.9 GB."""

_FILE_OVERHEAD_BYTES = 4096
"""A file takes whole blocks of the disk."""

_REPORT_EVERY = 100

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    UnicodeDecodeError,
)
"""What zipfile raises at archives that are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What came out of an archive."""

    patches: int
    """How many files."""
    patch_bytes: int
    """Their sizes, summed."""


class _RefusedError(Exception):
    """Why an archive is not unpacked."""


def unpack(
    archive: Path, folder: Path, suffixes: tuple[str, ...], on_progress: Callable[[Transfer], None]
) -> Unpacked:
    """Write the archive's patches to ``folder/Class/file``; a single folder above the classes is left out.

    Args:
        archive: a zip file.
        folder: where to; empty.
        suffixes: endings of patches, lower case; other members are left out.
        on_progress: told now and then.

    Raises:
        ProviderError: it is no archive of patches, or a member is not what a patch can be.
        OutputError: the disk is too small.
        OSError: ``folder`` cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _judged(file.infolist(), suffixes)
            patch_bytes = sum(info.file_size for info in members.values())
            require_space(folder, patch_bytes + _FILE_OVERHEAD_BYTES * len(members))
            for done, (name, info) in enumerate(members.items(), 1):
                path = folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(_content(file, info))
                if done % _REPORT_EVERY == 0 or done == len(members):
                    on_progress(Transfer(stage="unpacking", done=done, total=len(members)))
    except (_RefusedError, *_MALFORMED) as error:
        raise ProviderError(
            f"The archive is refused: {error or type(error).__name__}. Nothing of it is kept. Give the "
            "address of a zip file of Class/file patches."
        ) from error
    return Unpacked(patches=len(members), patch_bytes=patch_bytes)


def _judged(infos: Sequence[zipfile.ZipInfo], suffixes: tuple[str, ...]) -> dict[str, zipfile.ZipInfo]:
    """The patches among the members, by ``Class/file``.

    Raises:
        _RefusedError: any member leaves the folder or is a link or the like; two patches would be one
            file; or it is all too much.
    """
    if len(infos) > MAX_MEMBERS:
        raise _RefusedError(f"it has {len(infos)} members; at most {MAX_MEMBERS} are taken")
    patches: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    tops: set[tuple[str, ...]] = set()
    for info in infos:
        parts = _safe_parts(info)
        # A name that begins with a dot is what macOS puts beside each file.
        if len(parts) not in (2, 3) or parts[-1].startswith(".") or not parts[-1].lower().endswith(suffixes):
            continue
        _check_patch(info, parts[-2:])
        name = "/".join(parts[-2:])
        if name.lower() in seen:
            raise _RefusedError(f"two members are {_shown(info)}")
        seen.add(name.lower())
        tops.add(parts[:-2])
        patches[name] = info
    if len(tops) > 1:
        raise _RefusedError(f"its patches lie in {len(tops)} folders; one is expected")
    if not patches:
        raise _RefusedError(f"it holds no Class/file{suffixes[0]}")
    total = sum(info.file_size for info in patches.values())
    if total > MAX_UNPACKED_BYTES:
        raise _RefusedError(f"it holds {total} bytes; at most {MAX_UNPACKED_BYTES} are taken")
    if len(patches) < len(infos):
        log.info("%d of %d members are no patches and are left out", len(infos) - len(patches), len(infos))
    return patches


def _safe_parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The member's path, piece by piece; a folder's ends with an empty one."""
    # As it is stored: zipfile cuts ``filename`` at the first NUL.
    name = info.orig_filename
    parts = tuple(name.split("/"))
    if name.startswith("/") or ".." in parts or any(character in name for character in "\\:\0"):
        raise _RefusedError(f"member {_shown(info)} is no path inside a folder")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _RefusedError(f"member {_shown(info)} is a link or a device")
    return parts


def _check_patch(info: zipfile.ZipInfo, class_and_file: tuple[str, ...]) -> None:
    if not all(_PLAIN_NAME.fullmatch(part) for part in class_and_file):
        raise _RefusedError(f"member {_shown(info)} is not named as a patch")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _RefusedError(f"member {_shown(info)} is encrypted or packed in an unusual way")
    if info.file_size > MAX_PATCH_BYTES:
        raise _RefusedError(
            f"member {_shown(info)} has {info.file_size} bytes; a patch has at most {MAX_PATCH_BYTES}"
        )


def _content(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """One member's bytes, never more than it states: with a limit zipfile inflates no further than that."""
    with file.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise _RefusedError(f"member {_shown(info)} is shorter than it states")
    return content


def _shown(info: zipfile.ZipInfo) -> str:
    return ascii(info.orig_filename)[:120]
