"""Five algorithms of the Processing toolbox, each a command of ``landuse``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsMapLayer,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingOutputFile,
    QgsProcessingOutputMapLayer,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsRasterLayer,
    QgsVectorLayer,
)

from .command import INCOMPLETE, SETTING, Answer, CommandError, options, paths, run, style

_FOLDER = QgsProcessingParameterFile.Folder
_NUMBER = QgsProcessingParameterNumber
_VECTORS = "Points (*.gpkg *.geojson *.fgb *.parquet *.shp)"


class _Styled(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer its style once it is loaded."""

    kept: list[_Styled] = []  # noqa: RUF012  # QGIS holds no reference of its own
    """All that QGIS may still call."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        _Styled.kept.append(self)

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """What QGIS calls."""
        layer.loadNamedStyle(self.path)
        layer.triggerRepaint()


class LanduseAlgorithm(QgsProcessingAlgorithm):
    """What the five have in common."""

    NAME = ""
    TITLE = ""
    HELP = ""

    def createInstance(self) -> LanduseAlgorithm:
        """A new one, which QGIS asks for."""
        return type(self)()

    def name(self) -> str:
        """In scripts."""
        return self.NAME

    def displayName(self) -> str:
        """In the toolbox."""
        return self.TITLE

    def shortHelpString(self) -> str:
        """Beside the form."""
        return self.HELP

    def add_folder(self, *outputs: tuple[str, str]) -> None:
        """Parameters of those that write a folder, and the layers that lie in it then."""
        self.addParameter(QgsProcessingParameterFolderDestination("OUT", "Folder for the results"))
        self.addParameter(
            QgsProcessingParameterBoolean("OVERWRITE", "Replace results that are there", defaultValue=False)
        )
        self.addParameter(
            QgsProcessingParameterBoolean("LOAD", "Open the results when done", defaultValue=True)
        )
        for name, title in outputs:
            self.addOutput(QgsProcessingOutputMapLayer(name, title))

    def add_text(self, name: str, title: str, default: str = "", *, optional: bool = True) -> None:
        """A parameter of text."""
        self.addParameter(QgsProcessingParameterString(name, title, defaultValue=default, optional=optional))

    def add_map(self, name: str = "MAP", title: str = "Folder of a map") -> None:
        """A parameter for the folder of a map."""
        self.addParameter(QgsProcessingParameterFile(name, title, behavior=_FOLDER))

    def text(self, parameters: dict[str, Any], name: str, context: QgsProcessingContext) -> str:
        """A parameter as text."""
        return str(self.parameterAsString(parameters, name, context)).strip()

    def answer(self, arguments: list[str], feedback: QgsProcessingFeedback) -> Answer:
        """Run ``landuse``.

        Raises:
            QgsProcessingException: it failed; with its message.
        """
        configured = str(ProcessingConfig.getSetting(SETTING) or "")
        feedback.pushInfo(" ".join(["landuse", *arguments]))
        try:
            found = run(
                arguments, configured=configured, tell=feedback.pushInfo, is_cancelled=feedback.isCanceled
            )
        except CommandError as error:
            raise QgsProcessingException(str(error)) from error
        if found.code == INCOMPLETE:
            feedback.reportError("The map is incomplete; run.json in its folder says why.")
        feedback.pushInfo(found.out)
        return found

    def loaded(
        self,
        out: Path,
        layers: tuple[tuple[str, str, str], ...],
        parameters: dict[str, Any],
        context: QgsProcessingContext,
    ) -> dict[str, str]:
        """Layers of a folder that are there, by output; they are opened where the user wants it.

        Args:
            out: the folder.
            layers: name of the output, file or ``file|layer``, and title.
            parameters: as the user filled them in.
            context: of the run.
        """
        found = {}
        for output, file, title in layers:
            path = out / file.partition("|")[0]
            if not path.is_file():
                continue
            source = str(out / file)
            found[output] = source
            if not self.parameterAsBool(parameters, "LOAD", context) or context.project() is None:
                continue
            layer = (
                QgsRasterLayer(source, title)
                if path.suffix == ".tif"
                else QgsVectorLayer(source, title, "ogr")
            )
            if not layer.isValid():
                continue
            context.temporaryLayerStore().addMapLayer(layer)
            details = QgsProcessingContext.LayerDetails(title, context.project(), output)
            wanted = style(path.stem)
            if wanted is not None:
                details.setPostProcessor(_Styled(wanted))
            context.addLayerToLoadOnCompletion(layer.id(), details)
        return found


class MapAlgorithm(LanduseAlgorithm):
    """``landuse map``."""

    NAME, TITLE = "map", "Map"
    HELP = "Finds Sentinel-2 scenes, classifies each pixel and writes land use, land cover and confidence."
    LAYERS = (
        ("LANDUSE", "landuse.tif", "Land use"),
        ("COVER", "cover.tif", "Land cover"),
        ("CONFIDENCE", "confidence.tif", "Confidence"),
        ("IMAGE", "image.tif", "Image"),
        ("POLYGONS", "landuse.gpkg|layername=landuse", "Land use, polygons"),
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        """Its parameters."""
        self.add_text(
            "SOURCE", "Provider, URL or path of a STAC catalogue", "planetary-computer", optional=False
        )
        self.addParameter(QgsProcessingParameterExtent("EXTENT", "Area", optional=True))
        self.addParameter(
            QgsProcessingParameterFile(
                "AOI", "Area as a file of polygons, instead of an extent", optional=True
            )
        )
        self.add_text("DATE", "Dates: 2024-06 or 2024-06-01/2024-06-30")
        self.add_text("MODEL", "Model; empty: balanced-pixel")
        self.add_text("LEGEND", "Legend: eurosat, cover, worldcover, io-lulc, ipcc, corine-1 or a file")
        self.addParameter(
            _NUMBER("SMOOTH", "Smoothing; 0: none, 0.5 is recommended", _NUMBER.Double, 0.0, False, 0.0)
        )
        self.addParameter(
            QgsProcessingParameterBoolean(
                "PROBABILITIES", "Keep the probabilities, which Change needs", defaultValue=False
            )
        )
        self.add_folder(*((name, title) for name, _, title in self.LAYERS))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Make the map."""
        out = Path(self.parameterAsString(parameters, "OUT", context))
        wgs84 = QgsCoordinateReferenceSystem("EPSG:4326")
        extent = self.parameterAsExtent(parameters, "EXTENT", context, wgs84)
        edges = (extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum())
        self.answer(
            [
                "map",
                *options(
                    source=self.text(parameters, "SOURCE", context),
                    bbox=""
                    if extent.isNull() or extent.isEmpty()
                    else ",".join(f"{edge:.7f}" for edge in edges),
                    aoi=self.text(parameters, "AOI", context),
                    date=self.text(parameters, "DATE", context),
                    model=self.text(parameters, "MODEL", context),
                    legend=self.text(parameters, "LEGEND", context),
                    smooth=self.parameterAsDouble(parameters, "SMOOTH", context) or None,
                    probabilities=self.parameterAsBool(parameters, "PROBABILITIES", context),
                    out=out,
                    overwrite=self.parameterAsBool(parameters, "OVERWRITE", context),
                ),
            ],
            feedback,
        )
        return {"OUT": str(out), **self.loaded(out, self.LAYERS, parameters, context)}


class ChangeAlgorithm(LanduseAlgorithm):
    """``landuse change``."""

    NAME, TITLE = "change", "Change"
    HELP = "What changed between two maps of one place that were made with their probabilities kept."
    LAYERS = (
        ("CHANGE", "change.tif", "Change"),
        ("DIFFERENCE", "difference.tif", "Moved probability"),
        ("POLYGONS", "change.gpkg|layername=change", "Change, polygons"),
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        """Its parameters."""
        self.add_map("BEFORE", "Folder of the earlier map")
        self.add_map("AFTER", "Folder of the later map")
        self.addParameter(
            _NUMBER(
                "THRESHOLD", "Share of the probability that has to move", _NUMBER.Double, 0.7, False, 0.0, 1.0
            )
        )
        self.addParameter(
            _NUMBER(
                "MIN_PATCH_HA",
                "Smallest patch in hectares; empty: 0.5 of pixels",
                _NUMBER.Double,
                None,
                True,
                0.0,
            )
        )
        self.add_folder(*((name, title) for name, _, title in self.LAYERS))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Find the change."""
        out = Path(self.parameterAsString(parameters, "OUT", context))
        least = parameters.get("MIN_PATCH_HA")
        self.answer(
            [
                "change",
                *options(
                    threshold=self.parameterAsDouble(parameters, "THRESHOLD", context),
                    min_patch_ha=None
                    if least is None
                    else self.parameterAsDouble(parameters, "MIN_PATCH_HA", context),
                    out=out,
                    overwrite=self.parameterAsBool(parameters, "OVERWRITE", context),
                ),
                *paths(self.text(parameters, "BEFORE", context), self.text(parameters, "AFTER", context)),
            ],
            feedback,
        )
        return {"OUT": str(out), **self.loaded(out, self.LAYERS, parameters, context)}


class SampleAlgorithm(LanduseAlgorithm):
    """``landuse sample``."""

    NAME, TITLE = "sample", "Sample"
    HELP = "Draws a stratified random sample of a map's cells, to be labelled in the column reference."

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        """Its parameters."""
        self.add_map()
        self.addParameter(
            _NUMBER("N", "Points; empty: as a standard error of 0.02 needs", _NUMBER.Integer, None, True, 1)
        )
        self.addParameter(_NUMBER("MIN_PER_CLASS", "Fewest points in a class", _NUMBER.Integer, 50, False, 0))
        self.addParameter(_NUMBER("SEED", "Seed: the same draws the same points", _NUMBER.Integer, 0))
        self.addParameter(QgsProcessingParameterFileDestination("OUT", "Points", "GeoPackage (*.gpkg)"))
        self.addParameter(
            QgsProcessingParameterBoolean("OVERWRITE", "Replace it, with its labels", defaultValue=False)
        )
        self.addParameter(QgsProcessingParameterBoolean("LOAD", "Open it when done", defaultValue=True))
        self.addOutput(QgsProcessingOutputMapLayer("POINTS", "Points to label"))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Draw the points."""
        out = Path(self.parameterAsFileOutput(parameters, "OUT", context))
        points = parameters.get("N")
        self.answer(
            [
                "sample",
                *options(
                    n=None if points is None else self.parameterAsInt(parameters, "N", context),
                    min_per_class=self.parameterAsInt(parameters, "MIN_PER_CLASS", context),
                    seed=self.parameterAsInt(parameters, "SEED", context),
                    out=out,
                    overwrite=self.parameterAsBool(parameters, "OVERWRITE", context),
                ),
                *paths(self.text(parameters, "MAP", context)),
            ],
            feedback,
        )
        layers = (("POINTS", f"{out.name}|layername=samples", "Points to label"),)
        return {"OUT": str(out), **self.loaded(out.parent, layers, parameters, context)}


class AccuracyAlgorithm(LanduseAlgorithm):
    """``landuse area``."""

    NAME, TITLE = "accuracy", "Accuracy"
    HELP = "Accuracy of a map, and areas with 95 % intervals, from labelled points (Olofsson et al. 2014)."

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        """Its parameters."""
        self.add_map()
        self.addParameter(QgsProcessingParameterFile("SAMPLES", "Labelled points", fileFilter=_VECTORS))
        self.add_text("COLUMN", "Column with the class on the ground", "reference", optional=False)
        self.addParameter(QgsProcessingParameterFileDestination("OUT", "Report", "JSON (*.json)"))
        for name, title in (("OVERALL", "Overall accuracy"), ("LOW", "95 % from"), ("HIGH", "95 % to")):
            self.addOutput(QgsProcessingOutputNumber(name, title))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Judge the map."""
        out = Path(self.parameterAsFileOutput(parameters, "OUT", context))
        found = self.answer(
            [
                "area",
                *options(
                    samples=self.text(parameters, "SAMPLES", context),
                    column=self.text(parameters, "COLUMN", context),
                    out=out,
                    overwrite=True,  # the user has agreed to it in the dialogue for the file
                    json=True,
                ),
                *paths(self.text(parameters, "MAP", context)),
            ],
            feedback,
        )
        overall = json.loads(found.out)["overall_accuracy"]
        return {
            "OUT": str(out),
            "OVERALL": overall["value"],
            "LOW": overall["low_95"],
            "HIGH": overall["high_95"],
        }


class CompareAlgorithm(LanduseAlgorithm):
    """``landuse compare``."""

    NAME, TITLE = "compare", "Compare"
    HELP = "Agreement of a map with another map, raster or polygons, and where they differ."
    LAYERS = (
        ("DISAGREEMENT", "disagreement.tif", "Disagreement"),
        ("POLYGONS", "disagreement.gpkg", "Disagreement, polygons"),
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        """Its parameters."""
        self.add_map()
        self.addParameter(QgsProcessingParameterFile("REFERENCE", "Raster or polygons to compare with"))
        self.add_text("CROSSWALK", "Crosswalk: eurosat, cover, worldcover, io-lulc, ipcc, corine-1 or a file")
        self.add_text("COLUMN", "Of polygons: the column with their class")
        self.add_folder(*((name, title) for name, _, title in self.LAYERS))
        self.addOutput(QgsProcessingOutputFile("PAGE", "Page"))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Compare."""
        out = Path(self.parameterAsString(parameters, "OUT", context))
        self.answer(
            [
                "compare",
                *options(
                    crosswalk=self.text(parameters, "CROSSWALK", context),
                    column=self.text(parameters, "COLUMN", context),
                    out=out,
                    overwrite=self.parameterAsBool(parameters, "OVERWRITE", context),
                ),
                *paths(self.text(parameters, "MAP", context), self.text(parameters, "REFERENCE", context)),
            ],
            feedback,
        )
        layers = self.loaded(out, self.LAYERS, parameters, context)
        return {"OUT": str(out), "PAGE": str(out / "index.html"), **layers}


ALGORITHMS = (MapAlgorithm, ChangeAlgorithm, SampleAlgorithm, AccuracyAlgorithm, CompareAlgorithm)
"""In the order of the work."""
