"""Folders and files that appear whole or not at all, here or at any path that fsspec knows."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from landuse.errors import BusyError, OutputError, UsageError
from landuse.redact import redact, redact_href

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fsspec import AbstractFileSystem


_HIDDEN = ".partial-"
"""What the names of hidden folders begin with."""

ROOM_BYTES = 64 << 20
"""What has to find room where files are to be written: more than most maps take."""

_WRITE_ERRORS = (OSError, RasterioError, CPLE_BaseError, DataSourceError, DataLayerError, FeatureError)


def prepare_folder(out: Path, option: str = "--out") -> None:
    """Make the output folder and see that it can be written.

    Args:
        out: the folder.
        option: what named it.

    Raises:
        OutputError: it cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(
            f"Output folder {out} cannot be written ({error.strerror or error}). Choose another {option}."
        ) from error


def _hidden_folder(parent: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=parent))
    except OSError as error:
        raise OutputError(
            f"{parent} cannot be written ({error.strerror or error}). Is the disk full or the folder gone? "
            "Free space or choose another --out, then run again."
        ) from error


def keep(path: Path) -> None:
    """See that a file's content, or the names in a folder, outlast a loss of power.

    Raises:
        OSError: they could not be kept.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot say when it is done
            raise
    finally:
        os.close(descriptor)


def clear_staged(parent: Path) -> None:
    """Remove what runs that were killed left of their hidden folders; none may be at work there."""
    for folder in parent.glob(f"{_HIDDEN}*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path to write to that becomes ``target`` when the block ends well, and vanishes otherwise.

    Raises:
        OutputError: the file could not be written; what was at ``target`` is untouched.
    """
    folder = _hidden_folder(target.parent)
    try:
        partial = folder / target.name
        yield partial
        stays = not target.parent.name.startswith(_HIDDEN)  # else `staged` sees to it
        if stays:
            keep(partial)
        partial.replace(target)
        if stays:
            keep(target.parent)
    except _WRITE_ERRORS as error:
        raise OutputError(
            f"{target} cannot be written ({error}). Is the disk full or the folder read-only? "
            "Free space or choose another --out, then run again."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def staged(out: Path, names: Sequence[str]) -> Iterator[Path]:
    """A hidden folder in ``out`` whose files replace those of ``out`` together when the block ends well.

    Args:
        out: where the files go.
        names: all files that may lie there; one that was not made anew is removed, since beside the
            new ones it would lie. The last one tells that the others are whole: it goes first and comes last.

    Raises:
        OutputError: the files could not be moved into place.
    """
    folder = _hidden_folder(out)
    try:
        yield folder
        in_the_way = [name for name in names if (out / name).is_dir()]
        if in_the_way:
            raise IsADirectoryError(0, f"{in_the_way[0]} is a folder there")
        for name in names:
            if (folder / name).exists():
                keep(folder / name)
        if (out / names[-1]).exists():  # an old one would tell of a mixture that it is whole
            (out / names[-1]).unlink()
            keep(out)
        for name in names:
            if name == names[-1]:  # it tells that the others are whole
                keep(out)
            if (folder / name).exists():
                (folder / name).replace(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        keep(out)
    except OSError as error:
        raise OutputError(
            f"The files in {out} cannot be replaced ({error.strerror or error}). Move them away, or choose "
            "another --out."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(target: Path, values: Mapping[str, object]) -> None:
    """Write JSON, readable by people, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(target) as partial:
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A folder of files. It can be pickled: whoever opens it elsewhere finds the same files."""

    shown: str
    """Its address without passwords, for messages."""
    path: Path | None
    """Its folder on this machine, or None where it lies elsewhere."""
    filesystem: AbstractFileSystem | None = None
    """What reaches it elsewhere; may hold a password."""
    root: str = ""
    """Its path there."""

    @classmethod
    def at(cls, location: Path | str) -> Self:
        """The store at a local path or at an fsspec URL such as ``s3://bucket/folder``.

        Raises:
            UsageError: fsspec does not know such a URL, or what it needs for it is not installed.
        """
        if isinstance(location, Path) or "://" not in location:
            return cls(shown=str(location), path=Path(location))
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        shown = redact_href(location)
        try:
            filesystem, root = url_to_fs(location)
        except (ImportError, ValueError, OSError) as error:
            raise UsageError(
                f"--out {shown} cannot be opened ({redact(str(error)).rstrip('.')}). Give a folder or a URL "
                "that fsspec knows, and install what its protocol needs, such as s3fs."
            ) from error
        if isinstance(filesystem, LocalFileSystem):
            return cls(shown=root, path=Path(root))
        return cls(shown=shown.rstrip("/"), path=None, filesystem=filesystem, root=root.rstrip("/"))

    def __str__(self) -> str:
        return self.shown

    def child(self, name: str) -> Self:
        """The folder of that name in it."""
        return replace(
            self,
            shown=f"{self.shown}/{name}",
            path=None if self.path is None else self.path / name,
            root=f"{self.root}/{name}",
        )

    def absolute(self) -> Self:
        """The same, for a process with another working directory."""
        return self if self.path is None else replace(self, path=self.path.absolute())

    def prepare(self) -> None:
        """Make the folder and, on this machine, see that it can be written.

        Elsewhere what is above it must be there: a bucket is not made for a slip of the pen.

        Raises:
            OutputError: it cannot be made or written.
        """
        if self.path is not None:
            prepare_folder(self.path)
            return
        with self._elsewhere("made") as there, suppress(FileExistsError):
            there.mkdir(self.root, create_parents=False)

    def names(self) -> list[str]:
        """What is in the folder, sorted; nothing where there is no folder.

        Raises:
            OutputError: it cannot be looked into.
        """
        with self._readable():
            if self.path is not None:
                return sorted(entry.name for entry in self.path.iterdir())
            with self._elsewhere("read") as there:
                there.invalidate_cache()
                return sorted(
                    entry.rstrip("/").rpartition("/")[2] for entry in there.ls(self.root, detail=False)
                )
        return []

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file.

        Raises:
            OutputError: it cannot be read.
        """
        try:
            if self.path is not None:
                return (self.path / name).read_bytes()
            with self._elsewhere("read") as there:
                content: bytes = there.cat_file(f"{self.root}/{name}")
                return content
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(
                f"{self}/{name} cannot be read ({error.strerror or error}). Move it away, or choose another "
                "--out."
            ) from error

    def sizes(self) -> dict[str, int]:
        """The size in bytes of each file in the folder, by name; none where there is no folder.

        Raises:
            OutputError: it cannot be looked into.
        """
        with self._readable():
            if self.path is not None:
                return {entry.name: entry.stat().st_size for entry in self.path.iterdir() if entry.is_file()}
            with self._elsewhere("read") as there:
                there.invalidate_cache()
                return {
                    entry["name"].rpartition("/")[2]: entry["size"]
                    for entry in there.ls(self.root, detail=True)
                    if entry["type"] == "file"
                }
        return {}

    def sha256(self, name: str) -> str:
        """The digest of a file's content, in hex.

        Raises:
            OutputError: it cannot be read.
        """
        try:
            if self.path is not None:
                with (self.path / name).open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            with self._elsewhere("read") as there, there.open(f"{self.root}/{name}") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise OutputError(f"{self}/{name} cannot be read ({error.strerror or error}).") from error

    def check_room(self) -> None:
        """See that files of some size can be written to the folder.

        Raises:
            OutputError: they cannot.
        """
        if self.path is None:
            name = f"{_HIDDEN}{uuid.uuid4().hex}"
            self.write(name, b" ")
            with self._elsewhere("written") as there:
                there.rm_file(f"{self.root}/{name}")
            return
        try:
            with tempfile.TemporaryFile(dir=self.path) as file:
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
        except OSError as error:
            raise OutputError(
                f"{self} has no room ({error.strerror or error}). Free space, or choose another --out."
            ) from error

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to this machine, where there is one.

        Raises:
            OutputError: it cannot be read.
        """
        if self.path is not None:
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, target)
            return
        with suppress(FileNotFoundError), self._elsewhere("read") as there:
            there.get_file(f"{self.root}/{name}", str(target))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        if self.path is not None:
            with atomic_path(self.path / name) as partial:
                partial.write_bytes(content)
            return
        with self._elsewhere("written") as there:
            there.pipe_file(f"{self.root}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file in a folder elsewhere where there is none of that name; False where there is one.

        Raises:
            OutputError: it cannot be written.
        """
        with self._elsewhere("written") as there:
            try:
                there.pipe_file(f"{self.root}/{name}", content, mode="create")
            except FileExistsError:
                return False
        return True

    def remove_file(self, name: str) -> None:
        """Remove a file of a folder elsewhere, where there is one.

        Raises:
            OutputError: it cannot be removed.
        """
        with self._elsewhere("removed") as there, suppress(FileNotFoundError):
            there.rm_file(f"{self.root}/{name}")

    def remove(self) -> None:
        """Remove the folder and all in it, as far as that goes."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        elif self.names():
            with self._elsewhere("removed") as there:
                there.rm(self.root, recursive=True)

    @contextmanager
    def replaced(self, names: Sequence[str], check: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """A folder on this machine whose files replace the store's when the block ends well.

        Args:
            names: all files that may lie there; one that was not made anew is removed. The last one tells
                that the others are whole: it goes first and comes last.
            check: is called elsewhere before the first file is touched, and before each one comes.

        Raises:
            OutputError: the files could not be put into place.
        """
        if self.path is not None:
            with staged(self.path, names) as folder:
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix="landuse-") as temporary:
            yield Path(temporary)
            check()
            there_already = self.names()
            with self._elsewhere("written") as there:
                for name in reversed(names):
                    made = (Path(temporary) / name).exists()
                    if name in there_already and (name == names[-1] or not made):
                        there.rm_file(f"{self.root}/{name}")
                for name in names:
                    if (Path(temporary) / name).exists():
                        check()
                        there.put_file(str(Path(temporary) / name), f"{self.root}/{name}")

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """For one run at a time.

        On this machine a lock ends with its process, however that ends. Elsewhere it is a file, which expires
        where its holder does not renew it.

        Yields:
            What raises ``BusyError`` where the lock was lost, to be called before others see what is written.

        Raises:
            BusyError: another run is at work in the folder.
            OutputError: a folder elsewhere cannot be written.
        """
        if self.path is None:
            from landuse.pipeline.write.lock import locked_elsewhere

            with locked_elsewhere(self) as check:
                yield check
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"Another run is at work in {self}. Wait for it or end it, or choose another --out."
                ) from None
            except OSError:
                pass  # a file system that knows no locks
            clear_staged(self.path)
            yield lambda: None
        finally:
            os.close(descriptor)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """For a look into the folder; it ends early where there is none."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:  # a name too long, a folder that may not be looked into
            raise OutputError(
                f"Output folder {self} cannot be read ({error.strerror or error}). Choose another --out."
            ) from error

    @contextmanager
    def _elsewhere(self, doing: str) -> Iterator[AbstractFileSystem]:
        """The file system; its errors as ours, but for a missing file where one is read."""
        try:
            yield self.filesystem
        except _errors() as error:
            if doing == "read" and isinstance(error, FileNotFoundError):
                raise
            raise OutputError(
                f"{self} cannot be {doing} ({redact(str(error)).rstrip('.')}). Check the address, the rights "
                "and the credentials of --out, then run again; finished blocks are kept."
            ) from error


def _errors() -> tuple[type[Exception], ...]:
    """What file systems raise; what botocore raises s3fs lets through."""
    from botocore.exceptions import BotoCoreError  # takes a while, and a folder needs it not

    return (OSError, BotoCoreError)


def write_whole(path: Path, text: str) -> None:
    """Write a small file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``target`` when the block ends well, and vanishes otherwise.

    Raises:
        OSError: the folder above cannot be written; what was at ``target`` is untouched.
    """
    clear_up(target)
    fresh, stale = _hidden(target)
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            target.rename(stale)
        fresh.rename(target)
    finally:
        clear_up(target)


def clear_up(target: Path) -> None:
    """Undo what an interrupted ``replacing`` left: a folder without its files, or one set aside."""
    fresh, stale = _hidden(target)
    shutil.rmtree(fresh, ignore_errors=True)
    if stale.exists() and not target.exists():
        stale.rename(target)
    shutil.rmtree(stale, ignore_errors=True)


def _hidden(target: Path) -> tuple[Path, Path]:
    """Where the folder to come and the one to go lie, beside it."""
    return target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
