"""Legends. Oracles: the tables' own sources, copied by hand; sums by a slow loop; files that are wrong."""

import json

import numpy as np
import pytest

from landuse.classes import LAND_COVER, LAND_COVER_NAMES, LAND_USE_NAMES, USES_OF_COVERS, legend
from landuse.contract import check_class_names
from landuse.errors import UsageError
from landuse.legends.legend import (
    BUILT_IN,
    check_known,
    colors_of,
    hexadecimal,
    load_legend,
    merged_classes,
)
from landuse.pipeline.blocks.votes import merged

WORLDCOVER = {
    **{"10": "Tree cover", "20": "Shrubland", "30": "Grassland", "40": "Cropland", "50": "Built-up"},
    **{"60": "Bare or sparse vegetation", "70": "Snow and ice", "80": "Permanent water bodies"},
    **{"90": "Herbaceous wetland", "95": "Mangroves", "100": "Moss and lichen"},
}
"""As the item of the collection esa-worldcover lists them."""

IO_LULC = {
    **{"1": "Water", "2": "Trees", "4": "Flooded vegetation", "5": "Crops", "7": "Built area"},
    **{"8": "Bare ground", "9": "Snow and ice", "11": "Rangeland"},
}
"""As an item of io-lulc-annual-v02 lists them; 0 is no data and 10 is cloud."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_table_holds_every_class_of_the_models_once_and_names_its_source(name):
    table = load_legend(name)
    assert "20" in table.source
    assert len(table.source) > 60
    for classes in (LAND_USE_NAMES, LAND_COVER_NAMES):
        if name == "eurosat" and classes is LAND_COVER_NAMES:
            continue  # a cover says nothing of what it is used for
        names, told = merged_classes(table, classes, "model")
        assert sorted(part for parts in told.of for part in parts) == sorted(classes)
        assert len(names) == len(told.of) == len(told.colors) == len(set(told.colors))
    assert len({entry.color for entry in table.classes}) == len(table.classes)


def test_codes_are_those_of_their_sources():
    assert load_legend("worldcover").class_of_code == {**WORLDCOVER, "0": None}
    assert load_legend("io-lulc").class_of_code == {**IO_LULC, "0": None, "10": None}
    covers = load_legend("cover")
    assert covers.class_of_code == {str(i): name for i, name in enumerate(LAND_COVER_NAMES)}
    assert [entry.color for entry in covers.classes] == [entry.color for entry in LAND_COVER]
    for cover, uses in zip(LAND_COVER_NAMES, USES_OF_COVERS, strict=True):
        assert {covers.class_of[use] for use in uses} == {cover}


def test_codes_of_corine_are_44_and_a_grid_code_means_what_its_three_digits_do():
    codes = load_legend("corine-1").class_of_code
    three = sorted(code for code in codes if len(code) == 3 and codes[code])
    grid = sorted((code for code in codes if len(code) < 3 and codes[code]), key=int)
    assert len(three) == len(grid) == 44
    # The rasters number the codes of three digits in their order.
    assert [codes[code] for code in grid] == [codes[code] for code in three]
    assert [codes[code] for code in ("111", "231", "321", "411", "523")] == [
        "Artificial surfaces",
        "Agricultural areas",
        "Forest and semi-natural areas",
        "Wetlands",
        "Water bodies",
    ]


def test_a_table_is_read_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_: pytest.fail("read"))
    import landuse.legends.legend  # noqa: F401  # nothing is read by that


def test_probabilities_are_added_before_the_largest_is_taken():
    names, told = merged_classes(load_legend("cover"), LAND_USE_NAMES, "model")
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(len(LAND_USE_NAMES), 0.7), (5, 7)).transpose(2, 0, 1).astype(np.float32)
    sums = merged(shares, told.members)
    expected = np.zeros((len(names), 5, 7))
    for i, name in enumerate(names):
        for use in USES_OF_COVERS[LAND_COVER_NAMES.index(name)]:
            expected[i] += shares[LAND_USE_NAMES.index(use)]
    np.testing.assert_allclose(sums, expected, atol=1e-6)
    np.testing.assert_allclose(sums.sum(0), 1, atol=1e-6)
    # What merges the largest class alone says otherwise in some cells.
    of_largest = np.array([names.index(load_legend("cover").class_of[n]) for n in LAND_USE_NAMES])
    assert (sums.argmax(0) != of_largest[shares.argmax(0)]).any()
    batch = np.moveaxis(shares[None], 0, 0)
    np.testing.assert_array_equal(merged(batch, told.members, axis=1)[0], sums)
    assert merged(shares, None) is shares
    assert merged(np.full((2, 1, 1), 0.50001, np.float32), [(0, 1)]).max() == 1


CSV = "class,new,colour\nDark,Night,#112233\nBright,Day,#ffee00\nGlaring,Day,\n"


def test_a_file_of_either_form_says_the_same(tmp_path):
    (tmp_path / "own.csv").write_text("\ufeff" + CSV, "utf-8")
    semicolons = CSV.replace(",", ";").replace("colour", "Color")
    (tmp_path / "excel.csv").write_text(semicolons, "utf-8")
    document = {
        "title": "Mine",
        "source": "me",
        "classes": [
            {"name": "Night", "colour": "#112233", "of": ["Dark"], "codes": [1]},
            {"name": "Day", "color": "FFEE00", "of": ["Bright", "Glaring"], "codes": ["2", 3]},
        ],
        "ignore": [255],
    }
    (tmp_path / "own.json").write_text(json.dumps(document), "utf-8")
    found = [load_legend(str(tmp_path / name)) for name in ("own.csv", "excel.csv", "own.json")]
    assert found[0].sha256 == found[1].sha256 == found[2].sha256
    assert found[2].class_of_code == {"1": "Night", "2": "Day", "3": "Day", "255": None}
    names, told = merged_classes(found[0], ("Dark", "Bright", "Glaring"), "m")
    assert (names, told.of) == (("Night", "Day"), (("Dark",), ("Bright", "Glaring")))
    assert told.colors == ((0x11, 0x22, 0x33), (0xFF, 0xEE, 0))
    assert [e.color for e in legend(names, told.colors)] == list(told.colors)
    tag = json.dumps([hexadecimal(color) for color in told.colors])
    assert colors_of(tag, 2) == told.colors
    for spoilt in (None, "[", '["#112233"]', '["#112233", 5]', '["#112233", "red"]', "{}"):
        assert colors_of(spoilt, 2) == ()


def test_classes_without_a_colour_get_different_ones(tmp_path):
    rows = "".join(f"c{i},New {i}\n" for i in range(12))
    (tmp_path / "plain.csv").write_text("class,new\n" + rows, "utf-8")
    assert len({entry.color for entry in load_legend(str(tmp_path / "plain.csv")).classes}) == 12


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "begins with ''"),
        ("name,colour\n", "must be class,new,colour"),
        ("class,new,class\n", "must be class,new,colour"),
        ("class,new\nDark\n", "line 2 has 1 cells"),
        ("class,new\nDark,\n", "gives class 'Dark' no new name"),
        ("class,new\n,Night\n", "names neither a class nor a code"),
        ("class,new\n", "has 0 classes"),
        ("class,new\nDark,Night\nDark,Day\n", "names class 'Dark' twice"),
        ("code,new\n10,Night\n10,Day\n", "names code '10' twice"),
        ("class,new,colour\nDark,Night,red\n", "'red' is no colour"),
        ("class,new,colour\nDark,Night,#112233\nBright,Night,#000000\n", "A class has one colour"),
        ("class,new\nDark,../night\n", "is no name"),
        ("class,new\nDark,../night\nBright,<day>\n", "csv: '../night', '<day>' are no names"),
        ("class,new\n" + "".join(f"{i},<{i}\n" for i in range(7)), "'<4' and 2 more are no names"),
        ("class,new\nDark,\x1b[31mNight\n", "is no name"),
        ("class,new\nDark,Night\nBright,NIGHT\n", "in two ways"),
        ('class,new\n"Dark,Night\n', "is no CSV"),
        ("{", "is no JSON"),
        ("[1]", 'no list "classes"'),
        ('{"classes": []}', 'no list "classes"'),
        ('{"classes": [5]}', "must be an object"),
        ('{"classes": [{"name": "A", "of": "Dark"}]}', '"of" must be a list'),
        ('{"classes": [{"name": "A", "codes": [true]}]}', '"codes" must be a list'),
        ('{"classes": [{"name": 5}]}', "must be texts"),
        ('{"classes": [{"name": "A", "parts": []}]}', "must be an object"),
        ('{"classes": ' + "[" * 100_000, "is no JSON"),
        ("class,new\n" + "".join(f"c{i},n{i}\n" for i in range(300)), "has 300 classes"),
        ("class,new\n" + "x" * 1_000_001, "more than 1000000 bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_once(tmp_path, content, says):
    path = tmp_path / "hostile.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(UsageError) as refused:
        load_legend(str(path))
    assert says in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["nowhere", "", ".", "a\0b", "corine-2", "https://example.com/l.csv"])
def test_what_is_no_legend_is_refused(name):
    with pytest.raises(UsageError, match="--legend"):
        load_legend(name)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="cannot be read as text"):
        load_legend(str(tmp_path / "l.csv"))


def test_a_class_that_is_missing_unknown_or_alone_is_told(tmp_path):
    (tmp_path / "own.csv").write_text(CSV, "utf-8")
    own = load_legend(str(tmp_path / "own.csv"))
    with pytest.raises(UsageError, match=r"does not say what becomes of Dusk of model m"):
        merged_classes(own, ("Dark", "Bright", "Glaring", "Dusk"), "m")
    with pytest.raises(UsageError, match=r"names Glaring, which model m does not have"):
        check_known(own, ("Dark", "Bright"), "m")
    check_known(load_legend("ipcc"), ("Forest",), "m")
    with pytest.raises(UsageError, match="makes one class, Day"):
        merged_classes(own, ("Bright", "Glaring"), "m")


@pytest.mark.parametrize("letter", [chr(code) for code in range(32, 127)])
def test_a_legend_s_names_are_those_that_a_model_s_classes_may_have(tmp_path, letter):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"classes": [{"name": f"A{letter}b", "of": ["Dark"]}]}), "utf-8")

    def refused(check, *arguments):
        try:
            check(*arguments)
        except (ValueError, UsageError):
            return True
        return False

    assert refused(load_legend, str(path)) == refused(check_class_names, [f"A{letter}b"])
