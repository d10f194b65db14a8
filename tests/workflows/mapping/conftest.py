"""Maps of real scenes, which several tests look at and none changes; workers that start soon."""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from landuse.workflows.mapping.map_area import load_classifier, map_area
from landuse.workflows.mapping.report import MapReport
from tests.workflows.patch_models import save_patch_model
from tests.workflows.small_maps import SCENES, catalog_of, request


@dataclass(frozen=True, slots=True, kw_only=True)
class RealMap:
    """A map of a whole scene."""

    raster: Path
    """The scene as it was catalogued."""
    source: str
    """Its catalogue."""
    out: Path
    """The map's folder."""
    report: MapReport


WORKERS_NEED = (
    "distributed.nanny",
    "landuse.model.predict_pixels",
    "landuse.workflows.imagery.one_step",
    "landuse.workflows.mapping.map_area",
    "landuse.workflows.mapping.on_dask",
)


@pytest.fixture
def warm_workers() -> Iterator[None]:
    """Workers that this process starts are forked from one that has imported what they need.

    That takes each worker four seconds else, as it does those of a command in a process of its own.
    """
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context()  # dask says once what to import
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(WORKERS_NEED))
        yield


@pytest.fixture(scope="session")
def real_map(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RealMap]:
    """The map of a scene (a name in ``SCENES``) by a model, made once. Tests must not change it.

    Without a model's name it is a small one of patches.
    """

    @cache
    def mapped(scene: str, model: str | None = None) -> RealMap:
        name, level, acquired = SCENES[scene]
        folder = tmp_path_factory.mktemp(f"{scene}-{model}")
        if model is None:
            model = str(save_patch_model(folder / "balanced-fast-rgb.safetensors"))
        source = catalog_of(folder, data_dir / name, level=level, acquired=acquired)
        report = map_area(request(folder, source), load_classifier(model, "cpu"))
        return RealMap(raster=data_dir / name, source=source, out=folder / "map", report=report)

    return mapped
