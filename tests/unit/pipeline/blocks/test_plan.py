"""Plans: oracles are plain arithmetic on the UTM lattice, and pyproj for places."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from landuse.contract import LevelInput, ModelContract
from landuse.errors import ModelError, UsageError
from landuse.pipeline.blocks.plan import RunPlan, cut_into_blocks, make_plan
from landuse.pipeline.geometry import utm_crs
from landuse.pipeline.scene import AreaView, BandAsset, Scene

RGB = ("B04", "B03", "B02")
CONTRACT = ModelContract(
    name="test",
    bands=RGB,
    levels=(LevelInput(level="L2A", gain=(1.0,) * 3, offset_dn=(0.0,) * 3),),
    saturation_dn=(2750.0,) * 3,
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    classes=("A", "B"),
    patch_size_px=64,
    resolution_m=10.0,
)


def utm_area(crs: str, west: float, south: float, east: float, north: float) -> shapely.Geometry:
    """A UTM rectangle's corners in degrees."""
    to_degrees = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform
    return shapely.Polygon(
        [to_degrees(x, y) for x, y in ((west, south), (east, south), (east, north), (west, north))]
    )


def scene(
    area: shapely.Geometry, crs: str | None = None, bounds=None, bands=(*RGB, "SCL"), level="L2A"
) -> Scene:
    return Scene(
        id="scene",
        provider="local",
        acquired_utc=datetime(2024, 6, 1, tzinfo=UTC),
        level=level,
        baseline=None,
        cloud_percent=None,
        footprint=(tuple((float(lon), float(lat)) for lon, lat in shapely.get_coordinates(area)),),
        crs=crs,
        bounds_m=bounds,
        assets=tuple(BandAsset(band=band, href=f"/data/{band}.tif") for band in bands),
    )


def plan_of(area, scenes, **options) -> RunPlan:
    values = {"weights_sha256": "0", "stride_px": 16, "composite": "best", "clip": False} | options
    return make_plan(area, scenes, CONTRACT, **values)


@pytest.mark.parametrize(
    ("width_m", "options", "said"),
    [
        (
            1_900_000,
            {},
            r"has 3\d\.\d thousand million pixels of 10 m .* at most 20\. Map it in parts",
        ),
        (600_000, {"block_px": 16}, r"takes 1\d{7} blocks of 16 px, .* larger --block-px, such as 1024"),
    ],
)
def test_a_map_that_would_cost_too_much_is_refused_before_anything_is_made(
    monkeypatch, width_m, options, said
):
    monkeypatch.setattr("landuse.pipeline.blocks.plan.cut_into_blocks", lambda *_: pytest.fail("too late"))
    area = utm_area("EPSG:32633", 500_000 - width_m / 2, 1e6, 500_000 + width_m / 2, 1e6 + width_m)
    with pytest.raises(UsageError, match=said):
        plan_of(area, [scene(area, "EPSG:32633")], crs="EPSG:32633", **options)


@settings(max_examples=60, deadline=None)
@given(
    left=st.integers(300_000, 700_000),
    top=st.integers(4_000_000, 6_000_000),
    width=st.integers(15, 20_000),
    height=st.integers(15, 20_000),
    stride_px=st.sampled_from([1, 8, 16, 32, 64]),
    block_px=st.sampled_from([64, 100, 1024]),
)
def test_grid_covers_the_area_on_the_lattice_and_blocks_tile_it(
    left, top, width, height, stride_px, block_px
):
    crs = "EPSG:32633"
    area = utm_area(crs, left, top - height, left + width, top)
    plan = plan_of(area, [scene(area, crs)], stride_px=stride_px, block_px=block_px)
    cell = stride_px * 10
    assert plan.cell_m == cell
    assert plan.left_m % cell == 0
    assert plan.top_m % cell == 0
    box = plan.cell_geobox.boundingbox
    slack = 0.02
    assert box.left <= left + slack
    assert box.right >= left + width - slack
    assert box.top >= top - slack
    assert box.bottom <= top - height + slack
    # The area's own edges are straight in degrees, so the projected box may bulge by a cell at most.
    assert box.right - box.left < width + 4 * cell + width * 0.01 + height * 0.05
    covered = [[0] * plan.cols for _ in range(plan.rows)] if plan.rows * plan.cols < 20_000 else None
    assert sum(b.shape[0] * b.shape[1] for b in plan.blocks) == plan.rows * plan.cols
    if covered is not None:
        for block in plan.blocks:
            for row in range(block.row_start, block.row_stop):
                for col in range(block.col_start, block.col_stop):
                    covered[row][col] += 1
        assert all(count == 1 for row in covered for count in row)


def test_bounds_that_went_through_degrees_and_back_cost_no_further_cells():
    crs = "EPSG:32633"
    bounds = (359_040.0, 5_348_480.0, 364_800.0, 5_352_320.0)  # multiples of 160
    area = shapely.segmentize(shapely.box(*bounds), 100)  # dense: its edges stay straight in UTM
    area = shapely.transform(
        area, pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform, interleaved=False
    )
    plan = plan_of(area, [scene(area, crs, bounds)])
    assert (plan.left_m, plan.top_m) == (bounds[0], bounds[3])
    assert (plan.rows, plan.cols) == (24, 36)
    assert plan.data_rows_px == (0, 384)
    assert plan.data_cols_px == (0, 576)


def test_neighbouring_areas_share_their_cells():
    crs = "EPSG:32633"
    a = utm_area(crs, 400_003, 5_000_007, 403_111, 5_004_999)
    b = utm_area(crs, 401_017, 5_001_234, 405_555, 5_003_333)
    whole = scene(utm_area(crs, 390_000, 4_990_000, 410_000, 5_010_000), crs)
    first, second = plan_of(a, [whole]), plan_of(b, [whole])
    assert (first.left_m - second.left_m) % 160 == 0
    assert (first.top_m - second.top_m) % 160 == 0


def test_plan_survives_json_and_blocks_do_not_decide_pixels():
    crs = "EPSG:32633"
    area = utm_area(crs, 400_000, 5_000_000, 405_000, 5_003_000)
    plan = plan_of(area, [scene(area, crs, (399_960.0, 4_990_240.0, 509_760.0, 5_100_040.0))], clip=True)
    again = RunPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.digest == plan.digest
    assert replace(plan, blocks=cut_into_blocks(plan.rows, plan.cols, 3)).digest == plan.digest
    assert replace(plan, stride_px=32).digest != plan.digest


def test_a_renewed_signature_is_no_other_plan():
    crs = "EPSG:32633"
    area = utm_area(crs, 400_000, 5_000_000, 405_000, 5_003_000)

    def signed(token):
        assets = [BandAsset(band=band, href=f"https://a.example/{band}.tif?sig={token}") for band in RGB]
        return plan_of(area, [replace(scene(area, crs), assets=tuple(assets))])

    assert signed("one").digest == signed("two").digest
    assert signed("one").blocks_key == signed("two").blocks_key


def test_blocks_of_a_rewritten_file_are_kept_apart_though_the_plan_is_the_same():
    area = shapely.box(13, 48, 13.1, 48.1)
    plain = scene(area)
    marked = replace(plain, assets=tuple(replace(a, fingerprint="12 34") for a in plain.assets))
    first, second = plan_of(area, [plain]), plan_of(area, [marked])
    assert first.digest == second.digest
    assert first.blocks_key != second.blocks_key


@pytest.mark.parametrize(
    ("lon", "lat", "expected"),
    [
        (13.1, 48.3, "EPSG:32633"),
        (-0.7, 38.1, "EPSG:32630"),
        (179.9, -10, "EPSG:32760"),
        (-180, 5, "EPSG:32601"),
    ],
)
def test_without_utm_scenes_the_zone_is_the_centres(lon, lat, expected):
    area = shapely.box(lon, lat, lon + 0.05, lat + 0.05)
    assert utm_crs(area, [scene(area, "EPSG:4326"), scene(area, None)]) == expected


def test_the_zone_is_the_one_that_holds_most_of_the_area_however_many_scenes_there_are():
    area = shapely.box(11.8, 48, 12.3, 48.2)
    west, east = shapely.box(11, 47, 12.2, 49), shapely.box(11.9, 47, 13, 49)
    for count in (1, 5):
        scenes = [scene(west, "EPSG:32632")] * count + [scene(east, "EPSG:32633")]
        assert utm_crs(area, scenes) == "EPSG:32633"
    assert utm_crs(area, [scene(west, "EPSG:32632")]) == "EPSG:32632"


def test_where_tiles_reach_beyond_their_zone_their_cover_tells():
    # South-western Norway: tile 32VKM lies west of 6 degrees, in the strip that is zone 31 elsewhere.
    area = shapely.box(5.0, 60.0, 5.5, 60.4)
    wide, narrow = shapely.box(4.9, 59.9, 6.5, 60.8), shapely.box(5.3, 59.9, 6.5, 60.8)
    assert utm_crs(area, [scene(narrow, "EPSG:32633"), scene(wide, "EPSG:32632")]) == "EPSG:32632"


def test_a_map_far_from_its_zone_warns_of_its_areas():
    """Oracle: PROJ's own areal scale."""
    zone = pyproj.Proj("EPSG:32633")
    for lon, warned in ((15, False), (21, False), (24, True)):
        area = shapely.box(lon, 48, lon + 0.1, 48.1)
        warnings = plan_of(area, [scene(area)], crs="EPSG:32633").warnings
        scale = zone.get_factors(lon + 0.1, 48.05).areal_scale
        assert (scale > 1.01) == warned == bool(warnings)
        if warned:
            (warning,) = warnings
            told = float(re.search(r"are told ([\d.]+) % too large", warning)[1])
            assert told == pytest.approx(100 * (scale - 1), abs=0.06)
            assert "--zones each" in warning


def test_blurred_imagery_is_warned_of():
    area = shapely.box(13, 48, 13.1, 48.1)
    sharp = scene(area)
    assert plan_of(area, [sharp]).warnings == ()
    blurred = replace(
        sharp, id="blurred", assets=tuple(replace(asset, pixel_m=20.0) for asset in sharp.assets)
    )
    (warning,) = plan_of(area, [sharp, blurred]).warnings
    assert "1 of 2 scenes have pixels of up to 20 m, such as 'blurred'" in warning
    assert "towns and single houses are hardly found" in warning


def test_what_looks_like_cloud_may_be_a_wrong_level_or_offset():
    area = shapely.box(13, 48, 13.1, 48.1)
    white = replace(scene(area, bands=RGB), view=AreaView(seen=1.0, clear=0.62, estimated=True))
    told = plan_of(area, [white]).warnings[-1]
    assert told.startswith("About 38 % of what 'scene' shows of the area looks like cloud or snow")
    assert told.endswith("or the stated level or offset is wrong.")


def test_imagery_smaller_than_a_patch_is_warned_of():
    area = shapely.box(13, 48, 13.1, 48.1)
    west, south = 500_000.0, 5_316_200.0
    small = scene(area, "EPSG:32633", (west, south, west + 630, south + 5_000))
    (warning,) = plan_of(area, [small]).warnings
    assert warning.startswith("The imagery is 63 x 500 pixels, smaller than the 64 x 64 that")
    beside = scene(area, "EPSG:32633", (west + 630, south, west + 640, south + 5_000))
    assert plan_of(area, [small, beside]).warnings == ()


def test_imagery_without_a_cloud_mask_is_warned_of():
    area = shapely.box(13, 48, 13.1, 48.1)
    (warning,) = plan_of(area, [scene(area, bands=RGB)]).warnings
    assert "1 of 1 scenes have no scene classification" in warning


@pytest.mark.parametrize(("code", "votes"), [(32601, True), (32760, True), (32661, False), (32699, False)])
def test_only_utm_zones_vote(code, votes):
    area = shapely.box(13, 48, 13.1, 48.1)
    assert (utm_crs(area, [scene(area, f"EPSG:{code}")]) == f"EPSG:{code}") is votes


def test_areas_too_large_for_one_map_are_refused_before_anything_is_read():
    world = shapely.box(-80, -10, 90, 60)
    with pytest.raises(UsageError, match="too far from UTM zone"):
        plan_of(world, [scene(shapely.box(13, 48, 13.1, 48.1), "EPSG:32633")])


def test_what_does_not_fit_is_refused_with_the_mend():
    area = shapely.box(13, 48, 13.1, 48.1)
    with pytest.raises(
        UsageError, match=r"--stride-px 20 does not divide the 64 px patch. Use one of 1, 2, 4"
    ):
        plan_of(area, [scene(area)], stride_px=20)
    with pytest.raises(ModelError, match=r"needs B04, B03, B02.*offers B04, B03 \(no B02\)"):
        plan_of(area, [scene(area, bands=("B04", "B03"))])
    with pytest.raises(ModelError, match="reads L2A; the source offers L1C"):
        plan_of(area, [scene(area, level="L1C")])
    with pytest.raises(UsageError, match="mix levels L1C, L2A"):
        plan_of(area, [scene(area), scene(area, level="L1C")])
    with pytest.raises(UsageError, match="'mean' is unknown"):
        plan_of(area, [scene(area)], composite="mean")


def test_the_digest_of_a_fixed_plan_stays():
    # Finished blocks, maps and ledgers are recognised by this value. A change of it makes every earlier run
    # start anew, so it may change only on purpose; then the version of landuse changes too.
    area = utm_area("EPSG:32633", 380_000, 5_340_000, 384_000, 5_343_000)
    seen = replace(scene(area, "EPSG:32633", (379_980.0, 5_330_000.0, 390_000.0, 5_350_000.0)), id="pinned")
    plan = replace(plan_of(area, [seen], clip=True), version="0.1.0")
    rounded = replace(plan, area_wkt=shapely.to_wkt(shapely.from_wkt(plan.area_wkt), rounding_precision=0))
    fixed = tuple(
        replace(
            each,
            footprint=tuple(tuple((round(x, 6), round(y, 6)) for x, y in ring) for ring in each.footprint),
        )
        for each in rounded.scenes
    )
    digest = replace(rounded, scenes=fixed).digest
    assert digest == "b161a2f43a1668070c248a20554ee42ce9a7bf74ccb230e0e58463e62fdeef71"
