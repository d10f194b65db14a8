"""The import directions of the design, read from the source and from a fresh interpreter.

Oracle: the design's rules, each written out below; the reader itself is tried on a module that
breaks them.
"""

import ast
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

import landuse

PACKAGE = Path(landuse.__file__).parent
EDGE = ("typer", "rich", "landuse.cli", "landuse.commands")
"""What a user meets; the library knows nothing of it, and reports through callbacks and logging."""
TABLES = ("landuse.model.bands", "landuse.classes")
"""Pure tables, which need the standard library alone."""


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else getattr(test, "attr", None)
    return name == "TYPE_CHECKING"


def imports_of(source: str, module: str, *, is_package: bool = False, typing_too: bool = True) -> set[str]:
    """Everything ``source`` imports, anywhere in it: ``from a import b`` counts as ``a.b``."""
    found: set[str] = set()
    package = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("__import__", "import_module", "importlib.import_module"):
                found.update(a.value for a in node.args if isinstance(a, ast.Constant))
        elif isinstance(node, ast.If) and not typing_too and is_type_checking(node.test):
            for child in node.orelse:
                visit(child)
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


@lru_cache  # the package is parsed once, not once a rule
def package_imports(*, typing_too: bool = True) -> dict[str, set[str]]:
    return {
        module_name(path, PACKAGE): imports_of(
            path.read_text("utf-8"),
            module_name(path, PACKAGE),
            is_package=path.name == "__init__.py",
            typing_too=typing_too,
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def reaches(imported: str, target: str) -> bool:
    """True where ``imported`` is ``target`` or something inside it."""
    return f"{imported}.".startswith(f"{target}.")


def breaches(
    imports: dict[str, set[str]], stage: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()
) -> list[str]:
    return [
        f"{module} imports {imported}"
        for module, names in imports.items()
        if reaches(module, stage)
        for imported in sorted(names)
        if any(reaches(imported, target) for target in forbidden)
        and not any(reaches(imported, target) for target in allowed)
    ]


RULES = [
    pytest.param(
        "landuse.pipeline",
        ("torch", "safetensors", "landuse.model", "landuse.workflows", *EDGE),
        (),
        id="pipeline",
    ),
    pytest.param(
        "landuse.model",
        ("landuse.pipeline", "landuse.workflows", *EDGE),
        (),
        id="model",
    ),
    *(
        pytest.param(f"landuse.model.{name}", ("landuse.model.training",), (), id=name)
        for name in (
            "bands",
            "checkpoint",
            "cover_and_use",
            "devices",
            "networks",
            "normalize",
            "pixel_network",
            "predict",
            "predict_pixels",
        )
    ),
    pytest.param("landuse.workflows", EDGE, (), id="workflows"),
    pytest.param("landuse.commands", ("landuse.cli", "rasterio", "numpy", "torch"), (), id="commands"),
    pytest.param(
        "landuse.pipeline.read", ("landuse.pipeline.blocks", "landuse.pipeline.write"), (), id="read"
    ),
    pytest.param(
        "landuse.pipeline.search",
        ("rasterio", "landuse.pipeline.read", "landuse.pipeline.blocks", "landuse.pipeline.write"),
        (),
        id="search reads no pixels",
    ),
    pytest.param(
        "landuse.pipeline.remote",
        tuple(f"landuse.pipeline.{room}" for room in ("search", "read", "blocks", "write", "pages", "maps")),
        (),
        id="remote",
    ),
    pytest.param(
        "landuse.pipeline.blocks",
        ("rasterio", "landuse.pipeline.search", "landuse.pipeline.read"),
        (),
        id="blocks",
    ),
    pytest.param(
        "landuse.workflows.nightly.ledger",
        ("rasterio", "torch", "landuse.model", "landuse.workflows", *EDGE),
        ("landuse.workflows.nightly.ledger",),
        id="ledger",
    ),
    pytest.param("landuse.sentinel2", ("landuse",), (), id="sentinel2"),
    pytest.param("landuse.plausible", ("landuse", "rasterio"), ("landuse.sentinel2",), id="plausible"),
    pytest.param("landuse.classes", ("landuse",), (), id="classes"),
    pytest.param("landuse.contract", ("landuse",), ("landuse.sentinel2",), id="contract"),
    pytest.param(
        "landuse.legends",
        ("landuse", "numpy", "rasterio"),
        ("landuse.legends", "landuse.errors", "landuse.redact", "landuse.classes"),
        id="legends",
    ),
    pytest.param("landuse.pipeline.scene", ("landuse",), ("landuse.sentinel2",), id="scene"),
    pytest.param("landuse.pipeline.cells", ("landuse",), (), id="cells"),
    pytest.param("landuse.errors", ("landuse",), (), id="errors"),
]


@pytest.mark.parametrize(("stage", "forbidden", "allowed"), RULES)
def test_imports_run_in_one_direction(stage, forbidden, allowed):
    imports = package_imports()
    assert any(reaches(module, stage) for module in imports), f"no module {stage}"
    assert breaches(imports, stage, forbidden, allowed) == []


def test_only_workflows_see_both_pipeline_and_model():
    both = set()
    for module, names in package_imports(typing_too=False).items():
        kinds = {
            kind for kind in ("landuse.pipeline", "landuse.model") for name in names if reaches(name, kind)
        }
        if len(kinds) == 2 and not reaches(module, "landuse.workflows"):
            both.add(module)
    assert both == set()


def test_only_datasets_reads_images_inside_model():
    readers = ("PIL", "rasterio", "geopandas", "pyogrio", "xarray", "odc", "tifffile", "imageio", "cv2")
    found = breaches(package_imports(), "landuse.model", readers)
    sources = ("landuse.model.training.datasets ", "landuse.model.training.pixels.sources ")
    assert [line for line in found if not line.startswith(sources)] == []
    assert any(line == "landuse.model.training.datasets imports PIL.Image" for line in found)


@pytest.mark.parametrize(
    "module", ["landuse", "landuse.contract", "landuse.errors", "landuse.sentinel2", "landuse.model", *TABLES]
)
def test_the_contract_errors_and_tables_import_only_the_standard_library(module):
    names = package_imports(typing_too=False)[module]
    foreign = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not reaches(name, "landuse.sentinel2")} == set()


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``code``; the last line that is printed names them."""
    told = "import sys; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    command = [sys.executable, "-W", "error", "-c", f"{code}\n{told}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


HEAVY = {
    "PIL",
    "dask",
    "distributed",
    "geopandas",
    "matplotlib",
    "numpy",
    "odc",
    "pandas",
    "planetary_computer",
    "pooch",
    "pyogrio",
    "pyproj",
    "pystac",
    "pystac_client",
    "rasterio",
    "requests",
    "rioxarray",
    "rustac",
    "safetensors",
    "shapely",
    "torch",
    "xarray",
}


@pytest.mark.parametrize(
    "statement",
    ["import landuse", "import landuse.contract, landuse.errors", *(f"import {table}" for table in TABLES)],
)
def test_light_modules_stay_light(statement):
    assert loaded_by(statement) & (HEAVY | {"typer"}) == set()


def test_the_command_line_answers_before_anything_heavy_is_loaded():
    loaded = loaded_by("import landuse.cli")
    assert "typer" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["map", "--help"], ["train", "--help"], ["data", "eurosat", "--help"]]
)
def test_help_answers_before_anything_heavy_is_loaded(arguments):
    # Its cost in seconds belongs to a benchmark; what would cost them is seen here.
    code = f"from landuse.cli import app\ntry: app({arguments!r})\nexcept SystemExit as e: assert e.code == 0"
    assert loaded_by(code) & HEAVY == set()


def test_the_pipeline_runs_without_torch_and_typer():
    modules = sorted(m for m in package_imports() if reaches(m, "landuse.pipeline"))
    assert len(modules) >= 5
    loaded = loaded_by(f"import {', '.join(modules)}")
    assert "numpy" in loaded
    assert loaded & {"torch", "typer", "safetensors"} == set()


def test_the_ledger_opens_without_imagery_networks_and_the_command():
    modules = sorted(m for m in package_imports() if reaches(m, "landuse.workflows.nightly.ledger"))
    assert len(modules) >= 5
    loaded = loaded_by(f"import {', '.join(modules)}")
    assert "sqlalchemy" in loaded
    assert loaded & HEAVY <= {"numpy", "shapely"}  # outlines of scenes are simplified and compared
    assert loaded & {"typer", "rich", "pydantic", "yaml"} == set()


def test_training_runs_where_no_raster_library_is_loaded():
    assert (
        loaded_by("import landuse.model.training.train, landuse.model.predict")
        & {"rasterio", "xarray", "typer"}
        == set()
    )


def test_models_load_without_torchs_compiler():
    """It takes two seconds to import, in each process, and nothing needs it."""
    loads = (
        "from landuse.model.predict import Predictor\n"
        "from landuse.model.predict_pixels import PixelPredictor\n"
        "Predictor.load('balanced-fast-rgb', 'cpu')\n"
        "PixelPredictor.load('balanced-pixel', 'cpu')"
    )
    assert "sympy" not in loaded_by(loads)  # of all it needs, what nothing else loads


def test_the_reader_sees_every_kind_of_import():
    source = """
import typer as t
from ..model import predict
from . import read
from landuse.classes import EUROSAT
if TYPE_CHECKING:
    import geopandas
else:
    import fallback
def inside():
    if True:
        from torch.nn import functional
    importlib.import_module("landuse.cli")
class Inside:
    from landuse.workflows import map_area
"""
    found = imports_of(source, "landuse.pipeline.bad")
    assert found == {
        "typer",
        "landuse.model.predict",
        "landuse.pipeline.read",
        "landuse.classes.EUROSAT",
        "geopandas",
        "fallback",
        "torch.nn.functional",
        "landuse.cli",
        "landuse.workflows.map_area",
    }
    assert found - imports_of(source, "landuse.pipeline.bad", typing_too=False) == {"geopandas"}
    rule = RULES[0].values
    told = breaches({"landuse.pipeline.bad": found}, rule[0], rule[1], rule[2])
    assert [line.rpartition(" ")[2] for line in told] == [
        "landuse.cli",
        "landuse.model.predict",
        "landuse.workflows.map_area",
        "torch.nn.functional",
        "typer",
    ]
