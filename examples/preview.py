"""Draw a map beside the image it was made from: ``python examples/preview.py MAP_FOLDER PICTURE.png``.

Reads ``landuse.tif`` with its colours and names, and the first scene that ``run.json`` lists.
"""

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

WIDTH_PX = 512
BRIGHTEST = 0.2  # reflectance that becomes white


def main(folder: Path, picture: Path) -> None:
    """Write the picture."""
    run = json.loads((folder / "run.json").read_text("utf-8"))
    with rasterio.open(folder / "landuse.tif") as file:
        classes, colors = file.read(1), file.colormap(1)
        height_px = round(WIDTH_PX * file.height / file.width)
        scale = file.transform.a * file.width / WIDTH_PX
        grid = {
            "crs": file.crs,
            "transform": rasterio.transform.from_origin(file.bounds.left, file.bounds.top, scale, scale),
            "width": WIDTH_PX,
            "height": height_px,
        }
    rgb = np.zeros((height_px, WIDTH_PX, 3), np.uint8)
    for channel, band in enumerate(("B04", "B03", "B02")):
        asset = run["scenes"][0]["assets"][band]
        with (
            rasterio.open(asset["href"]) as file,
            WarpedVRT(file, resampling=Resampling.average, **grid) as warped,
        ):
            reflectance = warped.read(1) * asset["scale"] + asset["offset"]
        rgb[..., channel] = np.clip(reflectance / BRIGHTEST, 0, 1) * 255
    palette = np.array([colors.get(value, (255, 255, 255))[:3] for value in range(256)], np.uint8)
    palette[255] = 255
    land = Image.fromarray(palette[classes]).resize((WIDTH_PX, height_px), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (2 * WIDTH_PX + 12, height_px + 56), "white")
    sheet.paste(Image.fromarray(rgb), (0, 0))
    sheet.paste(land, (WIDTH_PX + 12, 0))
    draw = ImageDraw.Draw(sheet)
    for index, entry in enumerate(run["classes"]):
        left, top = 4 + index % 5 * 205, height_px + 8 + index // 5 * 24
        draw.rectangle((left, top, left + 16, top + 16), fill=tuple(palette[entry["id"]].tolist()))
        draw.text((left + 22, top + 3), f"{entry['name']} {entry['share']:.0%}", fill="black")
    sheet.save(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
