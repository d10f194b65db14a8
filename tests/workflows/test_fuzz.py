"""Thousands of hostile items, contracts and configs: each is taken, or refused in an error of ours, at once.

The oracle of who is asked is the socket itself: nothing is connected to but public addresses. The examples
are the same in every run.
"""

import json
import signal
import socket
from copy import deepcopy
from dataclasses import asdict, replace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landuse.contract import LearnedClasses
from landuse.errors import LanduseError, UsageError
from landuse.model.checkpoint import DAMAGE, contract_from_dict
from landuse.pipeline.blocks.plan import cell_px, make_plan
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.hosts import is_public
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.area import parse_bbox
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.pipeline.search.source import HeldItems
from landuse.pipeline.search.stac_files import FoundItem
from landuse.workflows.nightly.config import load_config
from tests.servers import stac_item
from tests.workflows.pixel_models import pixel_contract
from tests.workflows.small_maps import BrightnessClassifier

LONGEST_S = 5
NAN, INF = float("nan"), float("inf")
AREA = parse_bbox("10.2,50.2,10.25,50.25")
WEB = "https://catalogue.example.org/items/one.json"
AT_ONCE = RetryPolicy(attempts=1, first_pause_s=0.0, rest_s=0.0)

PRIVATE = """http://127.0.0.1/B04.tif http://localhost:22/B04.tif http://169.254.169.254/latest/x.tif
    http://[::1]:80/x.tif http://[::ffff:10.0.0.1]/x.tif http://2130706433/x.tif http://0/x.tif
    http://user@10.0.0.1/x.tif http://x.org@192.168.1.1/x.tif http://x.org\\@127.0.0.1/x.tif
    //127.0.0.1/x.tif http://127.1#@x.org/x.tif HTTP://LOCALHOST./x.tif http://inner.corp/x.tif""".split()  # noqa: SIM905  # legible
TEXTS = """file:///etc/passwd /vsicurl/http://127.0.0.1/x ../../../etc/passwd s3:///x http://[/x -1 [] {} nan
    ${HOME} B02 EPSG:4326 EPSG:32633 EPSG:999999 PROJ:x +proj=utm L1C 04.00 2024-06-15T10:20:30Z
    9999-99-99""".split()  # noqa: SIM905  # legible
NUMBERS = (0, 1, -1, 4096, 10**18, -(10**18), 10**400, 1e300, -1e300, 1e-300, 0.5, 180.5, NAN, INF)
SHAPES = (
    {"type": "Polygon", "coordinates": [[[10, 50], [11, 51], [11, 50], [10, 51], [10, 50]]]},
    {"type": "Polygon", "coordinates": [[[0, 0]]]},
    {"type": "Point", "coordinates": [1, 2]},
    {"type": "GeometryCollection", "geometries": []},
)
LISTS = (
    [],
    {},
    [[]],
    [None],
    [1e300] * 4,
    [0, 0, 0, 0],
    [10.0, 50.0, 11.0, 51.0],
    {"": {"": []}},
    [{"href": "x"}],
)
ODD = (None, True, False, "", "\0", "a" * 5000, "\u202e\ud7ff")
HOSTILE = (*PRIVATE, *TEXTS, *NUMBERS, *SHAPES, *LISTS, *ODD)

PIXELS = pixel_contract()
LEARNED = replace(
    PIXELS,
    classes=("wheat", "maize"),
    learned=LearnedClasses(colors=((240, 200, 80), (30, 105, 50)), temperature=1.5),
)
CONTRACTS = tuple(
    json.loads(json.dumps(asdict(one))) for one in (BrightnessClassifier(64).contract, PIXELS, LEARNED)
)
ITEMS = (
    stac_item("one", proj__code="EPSG:32632", proj__bbox=[500000, 5540000, 600000, 5650000]),
    stac_item(
        "S2A_MSIL2A_20240615T101031_N0510_R022_T32UNA_20240615T000000",
        href="https://storage.example.org/{band}.tif",
        platform="sentinel-2a",
        proj__epsg=32632,
        grid__code="MGRS-32UNA",
        earthsearch__boa_offset_applied=True,
    ),
)
for item in ITEMS:
    item["assets"]["B04"] |= {
        "raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}],
        "bands": [{"name": "B04", "eo:common_name": "red"}],
        "proj:shape": [10980, 10980],
        "proj:transform": [10, 0, 500000, 0, -10, 5650000],
        "file:size": 100_000_000,
    }
CONFIG = {
    "out": "maps",
    "source": ["planetary-computer", "https://example.org/stac"],
    "model": "balanced-pixel",
    "cell_m": 10,
    "max_cloud": 40,
    "window_days": 1,
    "change": {"threshold": 0.7, "confirm": 1},
    "workers": 2,
    "allow_private_hosts": False,
    "areas": [
        {"name": "a", "bbox": [10.2, 50.2, 10.3, 50.3]},
        {"name": "b", "file": "b.geojson", "bands": "rgb"},
    ],
}


def places(value, at=()):
    """The way to every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inner:
        yield (*at, key)
        yield from places(entry, (*at, key))


@st.composite
def mutated(draw, bases):
    """One of ``bases`` with some of its values replaced, taken out, wrapped or exchanged."""
    found = deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(found))
        if not known:
            break
        *way, last = draw(st.sampled_from(known))
        holder = found
        for key in way:
            holder = holder[key]
        change = draw(st.sampled_from(("replace", "replace", "replace", "delete", "wrap", "double")))
        if change == "delete":
            del holder[last]
        elif change == "replace":
            holder[last] = deepcopy(draw(st.sampled_from(HOSTILE)))
        else:
            holder[last] = [holder[last]] if change == "wrap" else [holder[last], holder[last]]
    return found


def fuzz(count):
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _no_example_hangs():
    def hangs(number, frame):
        raise AssertionError(f"an example took more than {LONGEST_S} s of the processor")

    before = signal.signal(signal.SIGPROF, hangs)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def begin():
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)


@pytest.fixture
def connected(monkeypatch):
    """Every address that something tries to connect to; names resolve, and nobody answers."""
    tried = []
    real = socket.getaddrinfo

    def resolved(host, port, *_, flags=0, **__):
        try:
            return real(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            if flags & socket.AI_NUMERICHOST:
                raise
        inner = str(host).lower().rstrip(".") in ("localhost", "inner.corp")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.9" if inner else "93.184.216.34", port))]

    def connect(self, address):
        tried.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


def planned(scenes, contract):
    stride_px = cell_px(contract, cell_m=None, stride_px=None)
    return make_plan(
        AREA.geometry, scenes, contract, weights_sha256="0", stride_px=stride_px, composite="best", clip=True
    )


def first_bytes(href, provider):
    # A new one each time: a host that did not answer would be left alone for the next.
    with Remote(AT_ONCE, threads=1) as remote, remote.opened(href, provider) as opened:
        opened.opener(opened.name).read(8)
        opened.raise_failure()


@fuzz(2000)
@given(mutated(ITEMS))
def _mutated_items(read, item):
    begin()
    held = HeldItems(name="items", items=(FoundItem(item=item, location=WEB, item_href=None),))
    try:
        (scene,) = search(held, SceneQuery(area=AREA))
        plan = planned((scene,), BrightnessClassifier(64).contract)
    except LanduseError:
        return
    json.dumps(plan.to_dict(), allow_nan=False)
    for asset in scene.assets:
        if asset.href.startswith("http") and asset.href not in read:
            read.add(asset.href)
            with pytest.raises(LanduseError):
                first_bytes(asset.href, scene.provider)


def test_2000_mutated_items_end_in_a_plan_or_in_an_error_of_ours_and_reach_no_private_host(connected):
    read = set()
    _mutated_items(read)
    assert any(href.startswith("http://127.0.0.1") for href in read)  # they come as far as that
    assert len(set(connected)) > 0
    assert {address for address in connected if not is_public(address)} == set()


@fuzz(500)
@given(mutated(CONTRACTS))
def test_500_mutated_contracts_end_in_a_plan_or_are_damaged(values):
    begin()
    (scene,) = search(
        HeldItems(name="items", items=(FoundItem(item=ITEMS[0], location=WEB, item_href=None),)),
        SceneQuery(area=AREA),
    )
    try:
        contract = contract_from_dict(json.loads(json.dumps(values)))
    except DAMAGE:
        return
    try:
        plan = planned((scene,), contract)
    except LanduseError:
        return
    assert len(plan.blocks) < 1000
    assert plan.patch_px <= 512


def test_500_mutated_configs_are_read_or_refused_with_their_lines(tmp_path, connected):
    path = tmp_path / "config.yaml"
    polygon = {"type": "Polygon", "coordinates": [[[10, 50], [11, 50], [11, 51], [10, 50]]]}
    (tmp_path / "b.geojson").write_text(json.dumps(polygon))

    @fuzz(500)
    @given(
        mutated((CONFIG,)),
        st.sampled_from(("", "", "", "&", "*a", "!!python/name:os.system", "\t", "%", "\x07")),
    )
    def mutate(config, junk):
        begin()
        text = yaml.safe_dump(config, sort_keys=False)
        middle = len(text) // 2 if junk else 0
        path.write_text(text[:middle] + junk + text[middle:], encoding="utf-8")
        try:
            loaded = load_config(path, {})
            for area in loaded.areas:
                area.place()
        except UsageError:
            pass

    mutate()
    assert connected == []
