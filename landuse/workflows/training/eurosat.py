"""EuroSAT from its publisher into a folder that ``landuse train`` reads, with the paper's split.

``pooch`` downloads the archive and compares its checksum. The archive is then unpacked as a whole and
removed. An archive that was downloaded by other means, such as ``curl -C -``, is given as ``--archive``.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import stat
import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pooch
import requests

import landuse
from landuse.errors import OutputError, ProviderError, UsageError
from landuse.pipeline.remote.retry import (
    BUSY_STATUS,
    ExhaustedError,
    Patience,
    RetryPolicy,
    TransientError,
    retry_after_s,
)
from landuse.pipeline.search.stac_files import cause
from landuse.pipeline.write.folder import clear_up, replacing, write_whole
from landuse.redact import redact_href

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)

EUROSAT_PATCHES = 27_000
"""Patches of EuroSAT, in RGB as in 13 bands."""

SPLIT_SEED = 42

SPLIT_ROWS = {"train": slice(0, 18_900), "val": slice(18_900, 22_950), "test": slice(22_950, 27_000)}
"""Rows of the permuted list of patches that belong to each part of the paper's split."""

SOURCE_FILE = "source.json"
"""Says which archive a folder came from; it lies beside the class folders."""

PATIENCE = RetryPolicy(attempts=5, first_pause_s=1.0, deadline_s=6 * 3600.0, connect_timeout_s=15.0)
"""How often a download is tried, and for how long in all."""

MAX_ARCHIVE_BYTES = MAX_UNPACKED_BYTES = 4 << 30
"""Limit of what is downloaded, and of what is unpacked. The larger archive has 2.1 GB, its patches 2.9 GB."""

MAX_MEMBERS = 100_000
"""Limit of files in an archive, more than three times EuroSAT's."""

MAX_PATCH_BYTES = 1 << 20
"""Limit of one patch, ten times a 13-band patch of EuroSAT."""

_CHUNK_BYTES = 1 << 16

_FILE_OVERHEAD_BYTES = 4096
"""A file takes whole blocks of the disk."""

_MD5 = re.compile(r"[0-9a-f]{32}")

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
"""What zipfile raises where a file is not a valid archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One archive of EuroSAT."""

    folder: str
    """Name of the folder that it is unpacked to."""
    url: str
    """Where it is."""
    md5: str
    """Its checksum: 32 hexadecimal digits in lower case."""
    size_bytes: int
    """Its size; 0 where it is not known."""
    unpacked_bytes: int
    """Space on disk that its patches need, about; 0 where it is not known."""
    suffixes: tuple[str, ...]
    """Endings of its patches' file names, lower case."""


# URLs and MD5 are those of the authors' record, https://doi.org/10.5281/zenodo.7711810. They and the sizes
# were not read off the record itself but off public projects that download from it and agree with each
# other: ten for the MD5 of the RGB archive and eight for that of the other, three and two for the sizes.
# The room for the patches is 27,000 times the 3.4 kB (JPEG) and 107.2 kB (GeoTIFF) that one has, in blocks
# of 4 KiB.
ARCHIVES: Mapping[str, Archive] = {
    "rgb": Archive(
        folder="EuroSAT_RGB",
        url="https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
        md5="f46e308c4d50d4bf32fedad2d3d62f3b",
        size_bytes=94_658_721,
        unpacked_bytes=130_000_000,
        suffixes=(".jpg", ".jpeg"),
    ),
    "all": Archive(
        folder="EuroSAT_MS",
        url="https://zenodo.org/records/7711810/files/EuroSAT_MS.zip",
        md5="091174add3c8e680a49244acf185b9f0",
        size_bytes=2_065_402_329,
        unpacked_bytes=3_000_000_000,
        suffixes=(".tif", ".tiff"),
    ),
}
"""EuroSAT's archives by the bands that they hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EurosatRequest:
    """What ``landuse data eurosat`` is asked for."""

    bands: str
    """``"rgb"`` (JPEG) or ``"all"`` (13-band GeoTIFF)."""
    out: Path
    """Folder that gains the data set's folder and ``splits/``."""
    url: str | None = None
    """Another address of the archive, such as a mirror; its checksum stays the published one."""
    archive: Path | None = None
    """The archive on this machine, downloaded already. Nothing is downloaded then."""
    md5: str | None = None
    """Checksum, where another archive than the published one is meant."""
    overwrite: bool = False
    """Replace what is there already."""

    def __post_init__(self) -> None:
        if self.bands not in ARCHIVES:
            raise UsageError(f"--bands {self.bands!r} is unknown. Use {' or '.join(ARCHIVES)}.")
        if self.url is not None and self.archive is not None:
            raise UsageError("--url and --archive name the same thing. Give one of them.")
        if self.url is not None and not _is_web(self.url):
            raise UsageError(
                f"--url {redact_href(self.url)!r} is no http(s) URL. Give the whole address of an archive."
            )
        if self.md5 is not None and not _MD5.fullmatch(self.md5.lower()):
            raise UsageError(f"--md5 {self.md5!r} is no MD5. Give its 32 hexadecimal digits.")

    @property
    def wanted(self) -> Archive:
        """The archive that is meant; its URL is that of the file ``archive`` where there is one."""
        known = ARCHIVES[self.bands]
        url = self.url or (known.url if self.archive is None else self.archive.absolute().as_uri())
        if self.md5 is None or self.md5.lower() == known.md5:
            return replace(known, url=url)
        return replace(known, url=url, md5=self.md5.lower(), size_bytes=0, unpacked_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How far a download is."""

    stage: str
    """``"downloading"`` (in bytes) or ``"unpacking"`` (in files)."""
    done: int
    """Bytes or files done."""
    total: int | None
    """Bytes or files in all, where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which archive a folder came from, and what is in it: the content of ``source.json``."""

    url: str
    """Where the archive came from, without a query."""
    md5: str
    """Its checksum."""
    archive_bytes: int
    """Its size."""
    patches: int
    """Number of patches in it."""
    patch_bytes: int
    """Sum of their sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EurosatData:
    """A data set that is in place."""

    path: Path
    """Folder with one folder of patches for each class."""
    patches: int
    """How many patches it holds."""
    source: Source | None
    """Where it came from; None where it was unpacked by other means."""
    splits: tuple[Path, ...]
    """The paper's lists; empty where this is not all of EuroSAT."""
    already_there: bool
    """Whether it was in place before."""

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "path": str(self.path),
            "patches": self.patches,
            "bytes": None if self.source is None else self.source.archive_bytes,
            "md5": None if self.source is None else self.source.md5,
            "url": None if self.source is None else self.source.url,
            "splits": [str(path) for path in self.splits],
            "already_there": self.already_there,
        }


def get_eurosat(
    request: EurosatRequest,
    on_progress: Callable[[Transfer], None] | None = None,
    patience: RetryPolicy = PATIENCE,
) -> EurosatData:
    """Put EuroSAT into ``request.out``: its folder, and the paper's split where it is complete.

    Example:
        ``get_eurosat(EurosatRequest(bands="rgb", out=Path("data"))).path`` is ``data/EuroSAT_RGB``.

    Raises:
        UsageError: something else is in its place, or ``--archive`` is not the file that is meant.
        ProviderError: the archive cannot be downloaded, or cannot be unpacked.
        OutputError: the folder cannot be written, or the disk is too small.
    """
    archive = request.wanted
    target = request.out / archive.folder
    with _writing(request.out):
        request.out.mkdir(parents=True, exist_ok=True)
        clear_up(target)
        found = _find(target, archive, overwrite=request.overwrite)
        if found is None:
            report = on_progress or (lambda _: None)
            if request.archive is not None:
                _check_md5(request.archive, archive.md5)
                found = _unpacked(request.archive, archive, target, report)
            else:
                found = _downloaded(archive, target, report, patience)
        return replace(found, splits=_write_splits(target, archive, overwrite=request.overwrite))


def paper_split(names: Sequence[str]) -> dict[str, list[str]]:
    """The paper's lists of ``Class/file``: train (18,900), val and test (4,050 each), in its order.

    It is ``torch.randperm(27000)`` of a generator seeded with 42, over the patches sorted as strings.

    Example:
        ``paper_split(list_patches(Path("data/EuroSAT_RGB")))["val"]`` has 4,050 names.

    Raises:
        UsageError: these are not all of EuroSAT's patches.
    """
    import torch  # takes seconds

    ordered = sorted(set(names))
    if len(ordered) != EUROSAT_PATCHES:
        raise UsageError(
            f"The paper's split is one of {EUROSAT_PATCHES} patches; these are {len(ordered)}. "
            "Give all of EuroSAT."
        )
    order = torch.randperm(EUROSAT_PATCHES, generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    return {part: [ordered[row] for row in order[rows]] for part, rows in SPLIT_ROWS.items()}


def _is_web(url: str) -> bool:
    """Whether a URL is http(s) with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _check_md5(path: Path, md5: str) -> None:
    """Refuse a file of the user's that is not the archive that is meant.

    MD5 is what is published. It reveals a damaged file or another one, but not one made by a forger.

    Raises:
        UsageError: it is not, or it cannot be read.
    """
    try:
        found = pooch.file_hash(str(path), alg="md5")
    except OSError as error:
        raise UsageError(
            f"--archive {path} cannot be read ({error.strerror or error}). Give a zip file."
        ) from error
    if found != md5:
        raise UsageError(
            f"--archive {path}: its MD5 is {found}, not {md5}. Download the rest of it or download it again; "
            "if another file is meant, give its --md5."
        )


def _downloaded(
    archive: Archive, target: Path, on_progress: Callable[[Transfer], None], patience: RetryPolicy
) -> EurosatData:
    """Download and unpack. The archive stays for the next run only where writing to the disk failed."""
    folder = target.with_name(f".{target.name}.download")
    file = folder / f"{target.name}.zip"
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        if left != file:
            left.unlink()  # pooch's temporary file of a run that was killed
    downloader = _Downloader(archive, folder, on_progress, patience)
    # pooch writes the URL that it is given to stderr, so it is given one without secrets and kept quiet.
    url = redact_href(archive.url)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        try:
            pooch.retrieve(url, f"md5:{archive.md5}", file.name, folder, downloader=downloader)
        except ValueError as error:  # the checksum; pooch has deleted the file
            raise ProviderError(
                f"{url}: the file that came does not have the MD5 {archive.md5} and is "
                "deleted. Run again, or use a mirror (--url); if another file is meant, give its --md5."
            ) from error
        data = _unpacked(file, archive, target, on_progress)
        file.unlink()
        return data
    except ProviderError:
        file.unlink(missing_ok=True)
        raise
    finally:
        if not file.exists():
            shutil.rmtree(folder)


class _Downloader:
    """Downloads for pooch: busy services are asked again, and what cannot succeed ends at once.

    It is also the progress bar that pooch's own downloader reports to.
    """

    def __init__(
        self,
        archive: Archive,
        folder: Path,
        on_progress: Callable[[Transfer], None],
        patience: RetryPolicy,
    ) -> None:
        self._archive = archive
        self._name = redact_href(archive.url)
        self._folder = folder
        self._on_progress = on_progress
        self._patience = patience
        self._done = 0
        self._total = 0

    def __call__(self, _: str, output_file: str, pooch_instance: object) -> None:
        """Download the archive to ``output_file``; pooch calls this.

        Raises:
            ProviderError: it cannot be had.
            OutputError: the disk is too small.
        """
        download = pooch.HTTPDownloader(
            progressbar=self,
            chunk_size=_CHUNK_BYTES,
            timeout=self._patience.timeouts_s,
            headers={"User-Agent": f"landuse/{landuse.__version__}", "Accept-Encoding": "identity"},
        )

        def attempt() -> None:
            self._done = 0
            try:
                download(self._archive.url, output_file, pooch_instance)
            except requests.HTTPError as error:
                code = 0 if error.response is None else error.response.status_code
                if error.response is None or code not in BUSY_STATUS:
                    raise ProviderError(
                        f"{self._name} answered HTTP {code}, not the file. Check the address, or use a "
                        "mirror (--url)."
                    ) from error
                raise TransientError(
                    f"HTTP {code}", retry_after_s(error.response.headers.get("Retry-After"))
                ) from error
            except (requests.exceptions.SSLError, requests.TooManyRedirects, ValueError) as error:
                # ValueError: what requests and urllib3 raise for addresses and headers that are not valid.
                raise ProviderError(
                    f"{self._name} cannot be downloaded ({cause(error)}). Check "
                    "--url, the clock, REQUESTS_CA_BUNDLE and the proxy settings, or use a mirror (--url)."
                ) from error
            except requests.RequestException as error:
                raise TransientError(f"{cause(error)} after {self._done} bytes") from error

        try:
            Patience(self._patience).run(attempt, self._name)
        except ExhaustedError as error:
            raise ProviderError(
                f"{self._name} cannot be downloaded: {error}. Run the same command again later, use a mirror "
                f"(--url), or download it with a tool that resumes, such as curl -C - -O {self._name}, and "
                "give the file as --archive."
            ) from error

    @property
    def total(self) -> int:
        """Size that the server announces; 0 where it announces none."""
        return self._total

    @total.setter
    def total(self, size_bytes: int) -> None:
        """Refuse what cannot be the archive, or has no room, before its bytes come."""
        self._total = size_bytes
        expected = self._archive.size_bytes
        if size_bytes and expected and size_bytes != expected:
            raise ProviderError(
                f"{self._name} has {size_bytes} bytes; the published file has {expected}. Give the address "
                "of the file itself, or its checksum with --md5 if it is meant to be another."
            )
        self._check_limit(size_bytes)
        _require_space(self._folder, (size_bytes or expected) + self._archive.unpacked_bytes)

    def update(self, count: int) -> None:
        """Count the bytes of a chunk; pooch states a whole one for the last chunk too."""
        self._done += count
        self._check_limit(self._done - _CHUNK_BYTES)
        total = self._total or self._archive.size_bytes or None
        self._on_progress(
            Transfer(stage="downloading", done=min(self._done, total or self._done), total=total)
        )

    def reset(self) -> None:
        """Begin to count again; pooch calls this at the end."""
        self._done = 0

    def close(self) -> None:
        """Nothing is left to do at the end."""

    def _check_limit(self, size_bytes: int) -> None:
        if size_bytes > MAX_ARCHIVE_BYTES:
            raise ProviderError(
                f"{self._name} has {size_bytes} bytes or more; at most {MAX_ARCHIVE_BYTES} are taken. Give "
                "the address of the file that is meant."
            )


class _RefusedError(Exception):
    """Why an archive is not unpacked."""


def _unpacked(
    file: Path, archive: Archive, target: Path, on_progress: Callable[[Transfer], None]
) -> EurosatData:
    """Unpack the archive ``file`` to ``target/Class/patch``, completely or not at all.

    Nothing is written before every member has been checked, since an archive may be hostile.

    Raises:
        ProviderError: it is no archive of patches, or a member cannot be a patch.
        OutputError: the disk is too small.
    """
    try:
        with replacing(target) as fresh, zipfile.ZipFile(file) as opened:
            members = _patches_of(opened.infolist(), archive.suffixes)
            patch_bytes = sum(info.file_size for info in members.values())
            _require_space(fresh, patch_bytes + _FILE_OVERHEAD_BYTES * len(members))
            for done, (name, info) in enumerate(members.items(), 1):
                path = fresh / name
                path.parent.mkdir(exist_ok=True)
                with opened.open(info) as member:
                    # Given a limit, zipfile does not inflate more than that.
                    content = member.read(info.file_size + 1)
                if len(content) != info.file_size:
                    raise _RefusedError(f"member {_shown(info)} is shorter than it states")
                path.write_bytes(content)
                if done % 100 == 0 or done == len(members):
                    on_progress(Transfer(stage="unpacking", done=done, total=len(members)))
            source = Source(
                url=redact_href(archive.url),
                md5=archive.md5,
                archive_bytes=file.stat().st_size,
                patches=len(members),
                patch_bytes=patch_bytes,
            )
            (fresh / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=2) + "\n", "utf-8")
    except (_RefusedError, *_MALFORMED) as error:
        raise ProviderError(
            f"The archive is refused: {error or type(error).__name__}. Nothing of it is unpacked. Give a zip "
            "file of Class/file patches."
        ) from error
    return EurosatData(path=target, patches=source.patches, source=source, splits=(), already_there=False)


def _patches_of(infos: Sequence[zipfile.ZipInfo], suffixes: tuple[str, ...]) -> dict[str, zipfile.ZipInfo]:
    """The patches among the members, by ``Class/file``; one folder above the classes is left out.

    Raises:
        _RefusedError: a member leaves the folder or is a link or a device; two patches would be one file;
            or a limit is exceeded.
    """
    if len(infos) > MAX_MEMBERS:
        raise _RefusedError(f"it has {len(infos)} members; at most {MAX_MEMBERS} are taken")
    patches: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    tops: set[tuple[str, ...]] = set()
    for info in infos:
        name = info.orig_filename  # as it is stored: zipfile cuts ``filename`` at the first NUL
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or any(character in name for character in "\\:\0"):
            raise _RefusedError(f"member {_shown(info)} is no path inside a folder")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _RefusedError(f"member {_shown(info)} is a link or a device")
        # macOS puts a file whose name begins with a dot beside each file.
        if len(parts) not in (2, 3) or parts[-1].startswith(".") or not parts[-1].lower().endswith(suffixes):
            continue
        if not all(_PLAIN_NAME.fullmatch(part) for part in parts[-2:]):
            raise _RefusedError(f"member {_shown(info)} is not named as a patch")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _RefusedError(f"member {_shown(info)} is encrypted or packed in an unusual way")
        if info.file_size > MAX_PATCH_BYTES:
            raise _RefusedError(
                f"member {_shown(info)} has {info.file_size} bytes; a patch has at most {MAX_PATCH_BYTES}"
            )
        key = "/".join(parts[-2:])
        if key.lower() in seen:
            raise _RefusedError(f"two members are {_shown(info)}")
        seen.add(key.lower())
        tops.add(tuple(parts[:-2]))
        patches[key] = info
    if len(tops) != 1:
        raise _RefusedError(f"its Class/file{suffixes[0]} lie in {len(tops)} folders; one is expected")
    total = sum(info.file_size for info in patches.values())
    if total > MAX_UNPACKED_BYTES:
        raise _RefusedError(f"it holds {total} bytes; at most {MAX_UNPACKED_BYTES} are taken")
    if len(patches) < len(infos):
        log.info("%d of %d members are no patches and are left out", len(infos) - len(patches), len(infos))
    return patches


def _shown(info: zipfile.ZipInfo) -> str:
    return ascii(info.orig_filename)[:120]


def _require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse work that the disk has no room for.

    Raises:
        OutputError: it is too small.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise OutputError(
            f"{folder.parent} has {free_bytes / 1e6:.0f} MB free; {needed_bytes / 1e6:.0f} MB are needed. "
            "Free space, or choose another --out."
        )


def _find(target: Path, archive: Archive, *, overwrite: bool) -> EurosatData | None:
    """What is in place already; None where the archive is to be fetched.

    Raises:
        UsageError: what is there is not whole, or something else.
    """
    if not target.exists() and not target.is_symlink():
        return None
    if not target.is_dir() or (overwrite and target.is_symlink()):
        raise UsageError(f"{target} is not a folder. Move it away, or choose another --out.")
    if overwrite:
        return None
    paths = _patches(target, archive)
    source = _read_source(target / SOURCE_FILE)
    if source is not None:
        expected = source.patches
        found_bytes = sum(path.stat().st_size for path in paths)
        whole = (source.md5, source.patch_bytes) == (archive.md5, found_bytes)
    else:
        # Unpacked by hand: whether it is whole can be told of the published archive alone.
        expected = EUROSAT_PATCHES
        whole = archive.md5 in {known.md5 for known in ARCHIVES.values()}
    if not whole or len(paths) != expected:
        raise UsageError(
            f"{target} holds {len(paths)} patches; it is not the whole of the archive with MD5 "
            f"{archive.md5}. Replace it with --overwrite, or choose another --out."
        )
    return EurosatData(path=target, patches=len(paths), source=source, splits=(), already_there=True)


def _patches(target: Path, archive: Archive) -> list[Path]:
    """Every patch in the class folders of ``target``."""
    return [
        path
        for folder in target.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
        for path in folder.iterdir()
        if path.name.lower().endswith(archive.suffixes)
    ]


def _read_source(path: Path) -> Source | None:
    """What ``source.json`` says; None where there is none, or where it has other keys."""
    try:
        return Source(**json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None


def _write_splits(target: Path, archive: Archive, *, overwrite: bool) -> tuple[Path, ...]:
    """The paper's lists in ``splits/`` beside ``target``, where all of EuroSAT is there.

    RGB and 13 bands share them: they name the JPEGs, for which a reader of patches takes the TIFFs.
    """
    names = {f"{path.parent.name}/{path.stem}.jpg" for path in _patches(target, archive)}
    if len(names) != EUROSAT_PATCHES:
        return ()
    folder = target.parent / "splits"
    folder.mkdir(exist_ok=True)
    written = []
    for part, listed in paper_split(sorted(names)).items():
        path = folder / f"paper-{part}.txt"
        written.append(path)
        text = "".join(f"{name}\n" for name in listed)
        there = path.read_bytes() if path.exists() else None
        if there is not None and there != text.encode() and not overwrite:
            log.warning("%s is not the paper's list and is left as it is; --overwrite replaces it", path)
        elif there != text.encode():
            write_whole(path, text)
    return tuple(written)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns what the file system refuses into an error of ours; the network's are so already."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({error.strerror or error}). Free space or choose another --out, then "
            "run again: an archive that is complete is kept."
        ) from error
