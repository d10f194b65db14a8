"""EuroSAT from its publisher into a folder that ``landuse train`` reads, with the paper's split.

The archive is fetched (``fetch``), checked, unpacked whole (``unpack``) and removed. A run that was
interrupted is taken up by the next one.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from landuse.errors import OutputError, ProviderError, UsageError
from landuse.pipeline.write.folder import clear_up, replacing, write_whole
from landuse.redact import redact_href
from landuse.workflows.fetch import (
    PATIENCE,
    PublishedFile,
    Transfer,
    discard,
    fetch,
    is_web,
    read_object,
)
from landuse.workflows.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from landuse.pipeline.remote.retry import RetryPolicy

log = logging.getLogger(__name__)

EUROSAT_PATCHES = 27_000
"""Patches of EuroSAT, in RGB as in 13 bands."""

SPLIT_SEED = 42

SPLIT_ROWS = {"train": slice(0, 18_900), "val": slice(18_900, 22_950), "test": slice(22_950, 27_000)}
"""Where the paper cuts its permutation of the sorted patches."""

SOURCE_FILE = "source.json"
"""Which archive a folder came in; it lies beside the class folders."""

_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One archive of EuroSAT."""

    folder: str
    """Name of the folder it is unpacked to."""
    file: PublishedFile
    """The zip file."""
    unpacked_bytes: int
    """What its patches take on disk, about; 0 where that is not known before it is opened."""
    suffixes: tuple[str, ...]
    """Endings of its patches, lower case."""


# URLs and MD5 are those of the authors' record, https://doi.org/10.5281/zenodo.7711810. They and the sizes
# were not read off the record itself but off public projects that download from it and agree with each
# other: ten for the MD5 of the RGB archive and eight for that of the other, three and two for the sizes.
# The room for the patches is 27,000 times the 3.4 kB (JPEG) and 107.2 kB (GeoTIFF) that one has, in blocks
# of 4 KiB.
ARCHIVES: Mapping[str, Archive] = {
    "rgb": Archive(
        folder="EuroSAT_RGB",
        file=PublishedFile(
            url="https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
            md5="f46e308c4d50d4bf32fedad2d3d62f3b",
            size_bytes=94_658_721,
        ),
        unpacked_bytes=130_000_000,
        suffixes=(".jpg", ".jpeg"),
    ),
    "all": Archive(
        folder="EuroSAT_MS",
        file=PublishedFile(
            url="https://zenodo.org/records/7711810/files/EuroSAT_MS.zip",
            md5="091174add3c8e680a49244acf185b9f0",
            size_bytes=2_065_402_329,
        ),
        unpacked_bytes=3_000_000_000,
        suffixes=(".tif", ".tiff"),
    ),
}
"""EuroSAT's archives by the bands they hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """What ``landuse data eurosat`` is asked for."""

    bands: str
    """``"rgb"`` (JPEG) or ``"all"`` (13-band GeoTIFF)."""
    out: Path
    """Folder that gains the data set's folder and ``splits/``."""
    url: str | None = None
    """Where the archive is instead, such as a mirror; its checksum stays the published one."""
    md5: str | None = None
    """Checksum of another archive than the published one."""
    overwrite: bool = False
    """Fetch and replace what is there already."""

    def __post_init__(self) -> None:
        if self.bands not in ARCHIVES:
            raise UsageError(f"--bands {self.bands!r} is unknown. Use {' or '.join(ARCHIVES)}.")
        if self.url is not None and not is_web(self.url):
            raise UsageError(
                f"--url {redact_href(self.url)!r} is no http(s) URL. Give the whole address of an archive."
            )
        if self.md5 is not None and not _MD5.fullmatch(self.md5.lower()):
            raise UsageError(f"--md5 {self.md5!r} is no MD5. Give its 32 hexadecimal digits.")

    @property
    def archive(self) -> Archive:
        """The archive that is meant."""
        known = ARCHIVES[self.bands]
        url = self.url or known.file.url
        if self.md5 is None or self.md5.lower() == known.file.md5:
            return replace(known, file=replace(known.file, url=url))
        return replace(known, file=PublishedFile(url=url, md5=self.md5.lower()), unpacked_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which archive a folder came in, and how much of it there is to be: ``source.json``."""

    url: str
    """Where the archive came from, without a query."""
    md5: str
    """Its checksum."""
    archive_bytes: int
    """Its size."""
    patches: int
    """Number of patches in it."""
    patch_bytes: int
    """Their sizes, summed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadedData:
    """A data set that is in place."""

    path: Path
    """Folder with one folder of patches a class."""
    patches: int
    """How many patches it holds."""
    source: Source | None
    """Where it came from; None where it was unpacked by other means."""
    splits: tuple[Path, ...]
    """The paper's lists; empty where this is not all of EuroSAT."""
    already_there: bool
    """Whether nothing had to be fetched."""

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


def download_eurosat(
    request: DownloadRequest,
    on_progress: Callable[[Transfer], None] | None = None,
    patience: RetryPolicy = PATIENCE,
) -> DownloadedData:
    """Put EuroSAT into ``request.out``: its folder, and the paper's split where it is whole.

    Raises:
        UsageError: something else is in its place.
        ProviderError: the archive cannot be had, or is not the one that was published.
        OutputError: the folder cannot be written, or the disk is too small.
    """
    archive = request.archive
    target = request.out / archive.folder
    with _writing(request.out):
        request.out.mkdir(parents=True, exist_ok=True)
        clear_up(target)
        found = _find(target, archive, overwrite=request.overwrite)
        if found is None:
            found = _download(archive, target, on_progress or (lambda _: None), patience)
        return replace(found, splits=_write_splits(target, archive, overwrite=request.overwrite))


def paper_split(names: Sequence[str]) -> dict[str, list[str]]:
    """The paper's lists of ``Class/file``: train (18,900), val and test (4,050 each), in its order.

    It is ``torch.randperm(27000)`` of a generator seeded with 42, over the patches sorted as strings.

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


def _download(
    archive: Archive, target: Path, on_progress: Callable[[Transfer], None], patience: RetryPolicy
) -> DownloadedData:
    """Fetch and unpack; the archive is kept only where the disk stood in the way."""
    part = target.with_name(f"{target.name}.zip.part")
    fetch(archive.file, part, on_progress, spare_bytes=archive.unpacked_bytes, patience=patience)
    try:
        with replacing(target) as fresh:
            unpacked = unpack(part, fresh, archive.suffixes, on_progress)
            source = Source(
                url=redact_href(archive.file.url),
                md5=archive.file.md5,
                archive_bytes=part.stat().st_size,
                patches=unpacked.patches,
                patch_bytes=unpacked.patch_bytes,
            )
            (fresh / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=2) + "\n", "utf-8")
    except ProviderError:
        discard(part)
        raise
    discard(part)
    return DownloadedData(path=target, patches=source.patches, source=source, splits=(), already_there=False)


def _find(target: Path, archive: Archive, *, overwrite: bool) -> DownloadedData | None:
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
        whole = (source.md5, source.patch_bytes) == (archive.file.md5, found_bytes)
    else:
        # Unpacked by hand: whether it is whole can be told of the published archive alone.
        expected = EUROSAT_PATCHES
        whole = archive.file.md5 in {known.file.md5 for known in ARCHIVES.values()}
    if not whole or len(paths) != expected:
        raise UsageError(
            f"{target} holds {len(paths)} patches; it is not the whole of the archive with MD5 "
            f"{archive.file.md5}. Replace it with --overwrite, or choose another --out."
        )
    return DownloadedData(path=target, patches=len(paths), source=source, splits=(), already_there=True)


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
    """What ``source.json`` says; None where there is none."""
    values = read_object(path)
    url, md5 = values.get("url"), values.get("md5")
    counts = [values.get(key) for key in ("archive_bytes", "patches", "patch_bytes")]
    archive_bytes, patches, patch_bytes = (count if isinstance(count, int) else -1 for count in counts)
    if not isinstance(url, str) or not isinstance(md5, str) or min(archive_bytes, patches, patch_bytes) < 0:
        return None
    return Source(url=url, md5=md5, archive_bytes=archive_bytes, patches=patches, patch_bytes=patch_bytes)


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
            "run again: what is downloaded is kept."
        ) from error
