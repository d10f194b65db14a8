"""Packs the plugin as QGIS installs it.

``python qgis/make_zip.py FOLDER`` writes ``landuse_qgis-VERSION.zip`` there. The same files give the same
bytes.
"""

from __future__ import annotations

import configparser
import sys
import zipfile
from pathlib import Path

PLUGIN = Path(__file__).parent / "landuse_qgis"
KINDS = (".py", ".txt", ".svg", ".qml")


def pack(folder: Path) -> Path:
    """Write the archive into a folder and return its path."""
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(PLUGIN / "metadata.txt", "utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PLUGIN.name}-{metadata['general']['version']}.zip"
    files = [path for path in PLUGIN.rglob("*") if path.suffix in KINDS or path.name == "LICENSE"]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(str(path.relative_to(PLUGIN.parent)), (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return target


if __name__ == "__main__":
    print(pack(Path(sys.argv[1])))
