"""The nightly config: what it takes, and that each mistake is told with its line, all of them at once.

Oracles: the values as a reader of the YAML writes them down, ``grep`` for the lines, SQLAlchemy and GDAL.
"""

import json
import re
import string
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from landuse.errors import UsageError
from landuse.legends.legend import load_legend
from landuse.model import MAP_MODEL
from landuse.pipeline.cells import CHANGE_THRESHOLD
from landuse.workflows.nightly.config import ChangeConfig, NightlyConfig, load_config
from landuse.workflows.nightly.yaml_file import MAX_BYTES, MAX_TOLD

SMALL = """\
out: maps
areas:
  - name: north
    bbox: [13.10, 48.27, 13.18, 48.31]
"""
FULL = """\
out: s3://bucket/maps
ledger: postgresql+psycopg://landuse:${LEDGER_PASSWORD}@db.example/landuse?sslmode=require
scheduler: tls://${DASK_HOST}:8786
source: [planetary-computer, earth-search]
model: models/own.safetensors
stride_px: 8
composite: median
max_cloud: 30
min_valid: 5.5
window_days: 10
look_back_days: 60
attempts: 3
lease_minutes: 90
change: {threshold: 0.6, confirm: 1}
max_age_days: 14
areas:
  - name: North-1
    bbox: [13.10, 48.27, 13.18, 48.31]
    change: false
    stride_px: 16
  - name: "2024"
    file: shapes/district.geojson
    source: earth-search-l1c,https://stac.example/v1
    change: yes
"""
ENVIRON = {"LEDGER_PASSWORD": "ge@he:1%41/", "DASK_HOST": "10.0.0.5"}


def written(folder, text, name="nightly.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder, text, environ=None):
    """The lines that are told of a file, without its path, which stands before each."""
    path = written(folder, text)
    with pytest.raises(UsageError) as caught:
        load_config(path, environ or {})
    lines = str(caught.value).split("\n")
    assert [line for line in lines if not line.startswith(f"{path}") or not line.isprintable()] == []
    return [line.removeprefix(f"{path}:") for line in lines]


def test_defaults(tmp_path):
    config = load_config(written(tmp_path, SMALL), {})
    assert config.out.get_secret_value() == str(tmp_path / "maps")
    assert make_url(config.ledger.get_secret_value()).database == str(tmp_path / "maps" / "ledger.sqlite")
    assert (config.attempts, config.lease_minutes) == (5, 240)
    assert (config.scheduler, config.workers, config.metrics_file) == (None, None, None)
    (area,) = config.areas
    assert area.name == "north"
    assert area.place().bbox == pytest.approx((13.10, 48.27, 13.18, 48.31))
    assert area.place().clip
    assert (area.source, area.model) == (("planetary-computer",), MAP_MODEL)
    assert (area.stride_px, area.composite, area.max_cloud, area.min_valid) == (None, "best", 40, 10)
    assert (area.window_days, area.look_back_days, area.max_age_days) == (1, 45, None)
    assert area.change == ChangeConfig(threshold=CHANGE_THRESHOLD, confirm=0)


def test_a_model_s_file_lies_beside_the_config(tmp_path):
    config = load_config(written(tmp_path, f"model: crops.onnx\n{SMALL}"), {})
    assert config.areas[0].model == str(tmp_path / "crops.onnx")


def test_every_key_and_what_areas_say_for_themselves(tmp_path):
    (tmp_path / "shapes").mkdir()
    ring = [[13.1, 48.2], [13.2, 48.2], [13.2, 48.3], [13.1, 48.2]]
    outline = {"type": "Polygon", "coordinates": [ring]}
    (tmp_path / "shapes" / "district.geojson").write_text(json.dumps(outline))
    config = load_config(written(tmp_path, FULL), ENVIRON)
    url = make_url(config.ledger.get_secret_value())
    assert (url.username, url.password, url.host, url.database) == (
        "landuse",
        "ge@he:1%41/",
        "db.example",
        "landuse",
    )
    assert url.query == {"sslmode": "require"}
    assert config.scheduler.get_secret_value() == "tls://10.0.0.5:8786"
    assert config.out.get_secret_value() == "s3://bucket/maps"
    assert (config.attempts, config.lease_minutes) == (3, 90)
    north, year = config.areas
    assert (north.name, year.name) == ("North-1", "2024")
    assert (north.change, north.stride_px) == (None, 16)
    assert north.source == ("planetary-computer", "earth-search")
    assert (year.change, year.stride_px) == (ChangeConfig(), 8)
    assert year.source == ("earth-search-l1c", "https://stac.example/v1")
    assert year.place().clip
    assert year.place().bbox == pytest.approx((13.1, 48.2, 13.2, 48.3))
    for area in config.areas:
        assert area.model == str(tmp_path / "models" / "own.safetensors")
        assert (area.composite, area.max_cloud, area.min_valid) == ("median", 30, 5.5)
        assert (area.window_days, area.look_back_days, area.max_age_days) == (10, 60, 14)
    assert config.area("2024") is year
    with pytest.raises(UsageError, match=r"no area 'north-1'\. Did you mean North-1\?"):
        config.area("north-1")
    with pytest.raises(ValidationError):
        north.stride_px = 4


def test_a_legend_by_name_or_from_the_files_folder(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own.csv").write_text("class,new\nForest,Woods\nRiver,Water\n")
    text = SMALL + "    legend: own.csv\n  - {name: south, bbox: [1, 2, 3, 4]}\nlegend: ipcc\n"
    north, south = load_config(written(elsewhere, text), {}).areas
    assert (north.legend, south.legend) == (str(elsewhere / "own.csv"), "ipcc")
    assert load_config(written(tmp_path, SMALL), {}).areas[0].legend is None
    assert load_legend(north.legend).class_of == {"Forest": "Woods", "River": "Water"}


def test_paths_start_from_the_files_folder(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "catalog").mkdir(parents=True)
    text = SMALL + "source: catalog\nledger: sqlite:///books/ledger.sqlite\nmetrics_file: ./metrics/a.prom\n"
    written(elsewhere, text)
    monkeypatch.chdir(tmp_path)
    config = load_config((elsewhere / "nightly.yaml").relative_to(tmp_path), {})
    assert config.out.get_secret_value() == str(elsewhere / "maps")
    assert make_url(config.ledger.get_secret_value()).database == str(elsewhere / "books" / "ledger.sqlite")
    assert config.areas[0].source == (str(elsewhere / "catalog"),)
    assert config.metrics_file == "metrics/a.prom"
    absolute = SMALL.replace("maps", "/srv/maps") + "ledger: sqlite:////srv/ledger.sqlite\n"
    config = load_config(written(elsewhere, absolute), {})
    assert config.out.get_secret_value() == "/srv/maps"
    assert make_url(config.ledger.get_secret_value()).database == "/srv/ledger.sqlite"


@pytest.mark.parametrize("folder", ["a b", "a#b", "a%20b", "ä", "a@b:c"])
def test_the_ledger_lies_in_a_folder_of_any_name(tmp_path, folder):
    config = load_config(written(tmp_path, SMALL.replace("maps", f'"{folder}"')), {})
    ledger = make_url(config.ledger.get_secret_value()).database
    assert ledger == str(tmp_path / folder / "ledger.sqlite")


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path):
    text = """\
leger: x
stride_px: eight
areas:
  - name: no
    bbox: [13.2, 48.2, 13.1, 48.3]
  - name: North
    bbox: [1, 2, 3]
    strid_px: 8
  - name: north
    file: nowhere.gpkg
    bbox: [1, 2, 3, 4]
    attempts: 3
  - name: a
    name: b
    bbox: [1, 2, 3, 4]
    change: {threshold: 2, confrm: 1}
  - x
  - name: c
source: [planetary-computr]
workers: 0
metrics_file: ../x.prom
"""
    told = refusal(tmp_path, text)
    assert [line.rstrip() for line in told] == [
        "1: out: it is missing. Give a folder, or a URL that fsspec knows, such as s3://bucket/maps.",
        "1: leger: unknown key. Did you mean ledger?",
        "2: stride_px: 'eight' does not fit. Give whole pixels of 10 m, such as 8 or 16, or leave it out.",
        "4: areas[0].name: false does not fit. Give 1 to 60 letters, digits, - and _, the first a letter or "
        "digit; in quotes where YAML takes it for something else.",
        "5: areas[0].bbox: '13.2,48.2,13.1,48.3' has west 13.2 beyond east 13.1; they are swapped. Give "
        "W,S,E,N in degrees, for example -4.1,52.3,-3.9,52.5.",
        "7: areas[1].bbox: [1, 2, 3] does not fit. Give [west, south, east, north] in degrees.",
        "8: areas[1].strid_px: unknown key. Did you mean stride_px?",
        "10: areas[2].file: it is given beside `bbox`. Give one of them.",
        "12: areas[2].attempts: unknown key. It belongs at the top of the file and holds for all.",
        "13: areas[3].name: given again in line 14. Keep one of the two.",
        "16: areas[3].change.threshold: 2 does not fit. Give a share, 0 to 1.",
        "16: areas[3].change.confrm: unknown key. Did you mean confirm?",
        "17: areas[4]: 'x' does not fit. Give a list, each with `name` and with `bbox` or `file`.",
        "18: areas[5].file: neither it nor `bbox` is given. Give one of them.",
        "19: source: 'planetary-computr' is neither a provider nor a path that exists. Did you mean "
        "planetary-computer?",
        "20: workers: 0 does not fit. Give whole processes, 1 or more, or leave it out.",
        "21: metrics_file: '../x.prom' does not fit. Give a path inside `out` that ends in .prom.",
    ]


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        pytest.param("", 1, "this is no mapping", id="empty"),
        pytest.param("- a\n", 1, "this is no mapping", id="list"),
        pytest.param("out: a\n---\nout: b\n", 2, "this is no YAML", id="two documents"),
        pytest.param("out: a\nareas: [\n", 3, "this is no YAML", id="broken off"),
        pytest.param("out: a\n\tareas: 1\n", 2, "this is no YAML", id="tab"),
        pytest.param(b"out: a\n\xff: 1\n", 2, "this is not UTF-8", id="bytes"),
        pytest.param("out: a\nb: \x07\n", 2, "a character that YAML forbids", id="control character"),
        pytest.param('out: "a\\u202eb"\n' + SMALL[10:], 1, "out: it has characters", id="hidden"),
        pytest.param("out: a\n? [b]\n: c\n", 1, "line 2 has a key that is no text", id="key"),
        pytest.param("out: &a b\n", 1, "anchors (&) and aliases (*) are not read", id="anchor"),
        pytest.param("out: !!python/name:os.system x\n", 1, "tags (!) are not read", id="Python"),
        pytest.param("out: a\nx: !!binary aGk=\n", 2, "tags (!) are not read", id="tag"),
        pytest.param("out: a\nx: " + "[" * 5000 + "\n", 2, "more than 8 lists", id="deep"),
        pytest.param(SMALL + f"workers: {'9' * 5000}\n", 5, "workers: it is no number", id="digits"),
        pytest.param(SMALL + "<<: {workers: 2}\n", 5, "'<<': unknown key", id="merge"),
        pytest.param(SMALL + "max_cloud: .nan\n", 5, "max_cloud: nan does not fit", id="nan"),
        pytest.param(SMALL + "workers: 2.0\n", 5, "workers: 2.0 does not fit", id="float"),
        pytest.param(SMALL + "stride_px: yes\n", 5, "stride_px: true does not fit", id="bool"),
        pytest.param(SMALL + "change:\n", 5, "change: it is empty", id="change"),
        pytest.param(SMALL + "legend: no.csv\n", 5, "legend: ", id="legend"),
        pytest.param(SMALL + "source: []\n", 5, "source: it is empty", id="no source"),
        pytest.param(
            SMALL + "composite: mean\n", 5, "composite: 'mean' does not fit. Give best", id="choice"
        ),
        pytest.param(SMALL + "metrics_file: /etc/x.prom\n", 5, "metrics_file: '/etc/x.prom'", id="absolute"),
        pytest.param(SMALL + "metrics_file: x.txt\n", 5, "metrics_file: 'x.txt' does not fit", id="ending"),
        pytest.param(SMALL + "ledger: books\n", 5, "ledger: this is no URL of a database", id="no URL"),
        pytest.param(SMALL + "ledger: mysql://h/d\n", 5, "ledger: 'mysql' is no database", id="MySQL"),
        pytest.param(SMALL + "ledger: 'sqlite://'\n", 5, "ledger: a database in memory", id="memory"),
        pytest.param("out: a\nareas: []\n", 2, "areas: it is empty", id="no areas"),
        pytest.param("out: ''\nareas: []\n", 1, "out: it is empty", id="no out"),
        pytest.param(
            SMALL.replace("maps", "s3://b/m"), 1, "ledger: it is needed, as `out` is a URL", id="no ledger"
        ),
        pytest.param(
            SMALL.replace("maps", "s3://b/m\nledger: sqlite:///l.sqlite\nmetrics_file: a.prom"),
            3,
            "metrics_file: nobody reads it",
            id="metrics elsewhere",
        ),
        pytest.param(
            SMALL + "scheduler: tcp://h:1\nworkers: 2\n", 6, "workers: it is given beside", id="two clusters"
        ),
        pytest.param("out: a\nareas: [{name: a, file: no.gpkg}]\n", 2, "areas[0].file: '", id="no file"),
        pytest.param(
            SMALL + "  - {name: NORTH, bbox: [1, 2, 3, 4]}\n",
            5,
            "areas[1].name: 'NORTH' is the name of another area, 'north'; case makes no difference.",
            id="same name",
        ),
    ],
)
def test_one_problem(tmp_path, text, line, told):
    lines = refusal(tmp_path, text)
    assert lines[0].startswith(f"{line}: {told}")
    assert re.search(r"[.?] [A-Z][^.]+|[?]$", lines[0]), "no mend"


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/abs", ".", "..", "a.b", "-a", "_a", "", "a b", "ä", "a" * 61, "a\\n"]
)
def test_names_of_areas_are_names_of_folders(tmp_path, name):
    (line,) = refusal(tmp_path, SMALL.replace("north", f'"{name}"'))
    assert line.startswith("3: areas[0].name: ")


@given(st.text(alphabet=string.ascii_letters + string.digits + "-_./ \\~:", max_size=20))
def test_a_name_that_is_taken_stays_inside(name):
    try:
        config = NightlyConfig(out="/srv/maps", areas=({"name": name, "bbox": (1, 2, 3, 4)},))
    except ValidationError:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", config.areas[0].name)


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path):
    """The billion laughs, whose last line stands for 10^9 values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    start = time.perf_counter()
    assert refusal(tmp_path, "\n".join(lines))[0].startswith("1: anchors")
    assert time.perf_counter() - start < 5


def test_a_file_that_is_too_large_or_none(tmp_path):
    path = written(tmp_path, b"#" * (MAX_BYTES + 1))
    with pytest.raises(UsageError, match=f"more than {MAX_BYTES} bytes"):
        load_config(path, {})
    with pytest.raises(UsageError, match=r"nothing\.yaml cannot be read \(No such file"):
        load_config(tmp_path / "nothing.yaml", {})
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(tmp_path, {})


def test_many_problems_are_counted(tmp_path):
    lines = refusal(tmp_path, SMALL + "".join(f"x{i}: 1\n" for i in range(MAX_TOLD + 7)))
    assert len(lines) == MAX_TOLD + 1
    assert lines[-1].endswith(" 7 more problems. Mend these first.")


@pytest.mark.parametrize(
    ("line", "environ", "told"),
    [
        ("ledger: ${LEDGER}", {}, "ledger: the environment variable LEDGER is not set"),
        ("ledger: ${LEDGER}", {"LEDGER": ""}, "ledger: the environment variable LEDGER is not set"),
        ("ledger: ${LEDGER}", {"LEDGER": "a\nb"}, "ledger: the environment variable LEDGER holds more than"),
        ("ledger: sqlite:///${}", {}, "ledger: a ${ without a name and }"),
        ("model: ${MODEL}", {"MODEL": "x"}, "model: ${...} has no meaning here. Only out, ledger, scheduler"),
    ],
)
def test_references_to_the_environment(tmp_path, line, environ, told):
    (found,) = refusal(tmp_path, f"{SMALL}{line}\n", environ)
    assert found.startswith(f"5: {told}")


def test_the_root_from_the_environment(tmp_path):
    text = SMALL.replace("maps", "${ROOT}/maps-${SITE}")
    config = load_config(written(tmp_path, text), {"ROOT": "/srv", "SITE": "x"})
    assert config.out.get_secret_value() == "/srv/maps-x"


@pytest.mark.parametrize(
    "line",
    [
        "ledger: postgresql://u:Gehe1m@h/d",
        "ledger: postgresql://u:Gehe1m/@h/d",
        "ledger: postgresql://h/d?user=u&password=Gehe1m",
        "ledger: postgresql//u:Gehe1m@h/d",
        "ledger: u:Gehe1m@h/d",
        "ledger: [postgresql://u:Gehe1m@h/d]",
        "scheduler: {Gehe1m: Gehe1m}",
        "legder: postgresql://u:Gehe1m@h/d",
        "source: [https//u:Gehe1m@h/d]",
        "source: x?token=Gehe1m",
        "metrics_file: https://u:Gehe1m@h/d",
        "'postgresql://u:Gehe1m@h/d': 1",
        "ledger: 'postgresql://u:Gehe1m@h/d",
        "ledger: postgresql://u:Gehe1m@h/d: x",
        "ledger: &x postgresql://u:Gehe1m@h/d",
        "stride_px: https://u:Gehe1m@h/d",
    ],
)
def test_passwords_in_the_file_are_refused_and_never_shown(tmp_path, line):
    told = refusal(tmp_path, f"{SMALL}{line}\n")
    assert "Gehe1m" not in "\n".join(told)


@pytest.mark.parametrize("value", ["Gehe1m", "postgresql//u:Gehe1m@h/d", "postgresql://u:Gehe1m@h:x/d"])
def test_passwords_of_the_environment_are_never_shown(tmp_path, value):
    told = refusal(tmp_path, f"{SMALL}ledger: ${{LEDGER}}\nworkers: 0\n", {"LEDGER": value})
    assert [line.partition(" ")[0] for line in told] == ["5:", "6:"]
    assert "Gehe1m" not in "\n".join(told)


def test_a_config_shows_no_password(tmp_path):
    text = FULL.replace("shapes/district.geojson", "nightly.yaml").replace(
        "https://stac.example/v1", "https://stac.example/v1?token=Gehe1m"
    )
    environ = {"LEDGER_PASSWORD": "Gehe1m", "DASK_HOST": "u:Gehe1m@h"}
    config = load_config(written(tmp_path, text), environ)
    for area in config.areas:
        assert "Gehe1m" not in repr(area) + str(area)
    assert "Gehe1m" not in repr(config) + str(config)


def test_as_many_areas_as_a_file_holds_are_read_in_seconds(tmp_path):
    areas = [{"name": f"area-{i}", "bbox": [13.1, 48.2, 13.2, 48.3]} for i in range(2000)]
    text = yaml.safe_dump({"out": "maps", "areas": areas}, default_flow_style=None)
    start = time.perf_counter()
    config = load_config(written(tmp_path, text), {})
    assert [area.name for area in config.areas] == [area["name"] for area in areas]
    assert time.perf_counter() - start < 30
