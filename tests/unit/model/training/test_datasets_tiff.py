"""TIFF patches of any bands. Oracles: the arrays that were written, EuroSAT's published means, its JPEGs."""

import numpy as np
import pytest
import torch
from PIL import Image

from landuse.errors import UsageError
from landuse.model.training.datasets import (
    PatchSource,
    list_patches,
    load_patches,
    read_split,
    stated_bands,
)
from tests.patches import EUROSAT, NATURAL, make_jpegs, make_tiffs, spectral_patches, write_tiff

RGB = ("B04", "B03", "B02")
NO_B10 = tuple(band for band in NATURAL if band != "B10")


def load(root, bands=NATURAL, **facts):
    return load_patches(PatchSource(root=root, **facts), list_patches(root), bands)


def assert_holds(patches, written, bands):
    """Every pixel of every band of every patch is the one written under that name."""
    assert patches.bands == tuple(bands)
    assert sorted(patches.names) == sorted(f"{name}.tif" for name in written)
    for name, label, image in zip(patches.names, patches.labels.tolist(), patches.images, strict=True):
        assert patches.classes[label] == name.split("/")[0]
        dn = written[name.removesuffix(".tif")]
        for row, band in enumerate(bands):
            assert np.array_equal(image[row].numpy(), dn[NATURAL.index(band)]), (name, band)


def test_nameless_bands_of_thirteen_are_in_eurosat_s_order(tmp_path):
    written = make_tiffs(tmp_path, EUROSAT)
    patches = load(tmp_path)
    assert_holds(patches, written, NATURAL)
    assert patches.images.dtype == torch.int16
    assert (patches.level, patches.dn_per_count) == ("L1C", 1.0)
    dn = patches.dn(slice(0, 2))
    assert dn.dtype == torch.float32
    assert torch.equal(dn, patches.images[:2].float())


def test_named_bands_are_read_by_name_in_any_order(tmp_path):
    written = make_tiffs(tmp_path / "eurosat", EUROSAT)
    make_tiffs(tmp_path / "natural", NATURAL, named=True)
    shuffled = np.random.default_rng(3).permutation(NATURAL).tolist()
    make_tiffs(tmp_path / "shuffled", shuffled, named=True)
    first = load(tmp_path / "eurosat")
    for folder in ("natural", "shuffled"):
        patches = load(tmp_path / folder)
        assert_holds(patches, written, NATURAL)
        assert torch.equal(patches.images, first.images)


@pytest.mark.parametrize("bands", [RGB, NO_B10, ("B8A",), ("B12", "B01")])
def test_some_of_the_bands_in_the_order_wanted(tmp_path, bands):
    written = make_tiffs(tmp_path, EUROSAT)
    assert_holds(load(tmp_path, bands), written, bands)


def test_the_bands_of_a_patch_are_told_without_reading_it(tmp_path):
    make_tiffs(tmp_path / "eurosat", EUROSAT)
    make_tiffs(tmp_path / "named", ("B08", "B04"), named=True)
    make_jpegs(tmp_path / "jpeg", each=1)
    for folder, name, bands in (
        ("eurosat", "Brick/Brick_0.tif", EUROSAT),
        ("eurosat", "Brick/Brick_0.jpg", EUROSAT),  # a split names JPEGs
        ("named", "Brick/Brick_0.tif", ("B08", "B04")),
        ("jpeg", "Brick/Brick_0.jpg", RGB),
    ):
        assert stated_bands(PatchSource(root=tmp_path / folder), name) == bands
    with pytest.raises(UsageError, match="no such file"):
        stated_bands(PatchSource(root=tmp_path / "jpeg"), "Brick/missing.jpg")


def test_another_order_without_names_is_found_out_by_its_cirrus(tmp_path):
    make_tiffs(tmp_path, NATURAL)
    with pytest.raises(UsageError) as refused:
        load(tmp_path)
    message = str(refused.value)
    # The tenth band of the natural order is B09: 732 DN on average here, between 150 and 1100.
    means = np.mean([dn.mean((1, 2)) for dn in spectral_patches(2).values()], 0)
    assert f"mean of {means[NATURAL.index('B09')]:.0f} DN" in message
    assert f"darkest is B11 with {means[NATURAL.index('B10')]:.0f}" in message  # where B10 really is
    assert "--band-order" in message


@pytest.mark.parametrize("swapped", [("B10", "B09"), ("B10", "B11"), ("B10", "B01")])
def test_cirrus_in_the_wrong_place_is_refused_even_if_it_is_not_wanted(tmp_path, swapped):
    order = list(EUROSAT)
    first, second = (order.index(band) for band in swapped)
    order[first], order[second] = order[second], order[first]
    make_tiffs(tmp_path, order)
    with pytest.raises(UsageError, match="are not in the order"):
        load(tmp_path, RGB)
    load(tmp_path, band_order=tuple(order))


def test_over_water_cirrus_is_told_from_bands_nearly_as_dark(tmp_path):
    order = ["B12" if band == "B10" else "B10" if band == "B12" else band for band in EUROSAT]
    names = sorted(f"{name}.tif" for name in make_tiffs(tmp_path, order) if name.startswith("Water/"))
    with pytest.raises(UsageError, match=r"B10 .* has a mean of 60 DN, and the darkest is B12 with 10"):
        load_patches(PatchSource(root=tmp_path), names, NATURAL)
    load_patches(PatchSource(root=tmp_path, band_order=tuple(order)), names, NATURAL)


def test_bright_cirrus_is_refused(tmp_path):
    for name, dn in spectral_patches(2).items():
        write_tiff(tmp_path / f"{name}.tif", dn + 1000, NATURAL)  # an offset of 1000 still in the DN
    with pytest.raises(UsageError, match=r"B10 .* has a mean of 10\d\d DN"):
        load(tmp_path)


def test_the_order_can_be_stated(tmp_path):
    written = make_tiffs(tmp_path, NATURAL)
    assert_holds(load(tmp_path, band_order=NATURAL), written, NATURAL)


def test_a_stated_order_must_be_the_files_own(tmp_path):
    written = make_tiffs(tmp_path, NATURAL, named=True)
    assert_holds(load(tmp_path, band_order=NATURAL), written, NATURAL)
    with pytest.raises(
        UsageError, match=r"says its bands are B01,.*B12; --band-order says B01,.*B8A\. Leave"
    ):
        load(tmp_path, band_order=EUROSAT)


def test_twelve_bands_need_a_name_each(tmp_path):
    written = make_tiffs(tmp_path, NO_B10)
    with pytest.raises(UsageError, match=r"has 12 bands without names; EuroSAT's order has 13.*--band-order"):
        load(tmp_path, NO_B10)
    assert_holds(load(tmp_path, NO_B10, band_order=NO_B10), written, NO_B10)
    with pytest.raises(UsageError, match=r"hold B01, .*; B10 is wanted too\. Choose other --bands"):
        load(tmp_path, band_order=NO_B10)
    with pytest.raises(UsageError, match=r"has 12 bands; --band-order names 13"):
        load(tmp_path, band_order=EUROSAT)


def test_twelve_named_bands_of_l2a_are_read(tmp_path):
    written = make_tiffs(tmp_path, NO_B10, named=True)
    patches = load(tmp_path, NO_B10, level="L2A")
    assert_holds(patches, written, NO_B10)
    assert patches.level == "L2A"


def test_l2a_has_no_cirrus(tmp_path):
    with pytest.raises(UsageError, match=r"--level L2A with B10 in --band-order: .*Name the level"):
        PatchSource(root=tmp_path, level="L2A", band_order=EUROSAT)
    make_tiffs(tmp_path / "nameless", EUROSAT)
    make_tiffs(tmp_path / "named", NATURAL, named=True)
    for folder in ("nameless", "named"):
        for bands in (RGB, NO_B10, NATURAL):
            with pytest.raises(UsageError, match=r"B10.*L2A has no B10"):
                load(tmp_path / folder, bands, level="L2A")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("B02", "B03", "B02"), "each band once"),
        (("B02", "B03", "blue"), "unknown: blue"),
        (("B2",), "unknown: B2"),
        ((), "each band once"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(tmp_path, order, message):
    make_tiffs(tmp_path, EUROSAT)
    with pytest.raises(UsageError, match=message):
        load(tmp_path, band_order=order)


@pytest.mark.parametrize("level", ["L1B", "l1c", ""])
def test_an_unknown_level_is_refused(tmp_path, level):
    with pytest.raises(UsageError, match=r"--level .* is unknown\. Use L1C or L2A"):
        PatchSource(root=tmp_path, level=level)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32"])
@pytest.mark.parametrize("which", [0, -1])
def test_other_numbers_than_uint16_are_refused(tmp_path, dtype, which):
    patches = make_tiffs(tmp_path, EUROSAT)
    name = sorted(patches)[which]
    write_tiff(tmp_path / f"{name}.tif", patches[name].clip(0, 255).astype(dtype), NATURAL)
    with pytest.raises(UsageError, match=rf"{name}\.tif is {dtype}; TIFF patches are uint16 DN"):
        load(tmp_path, RGB)


def test_a_patch_of_other_bands_is_refused_by_name(tmp_path):
    patches = make_tiffs(tmp_path, NATURAL, named=True)
    odd = sorted(patches)[-1]
    dn = patches[odd]
    for values, names, message in (
        (dn[:12], NATURAL[:12], r"has 12 bands; the first has 13"),
        (dn, EUROSAT, r"says its bands are .*B8A; the others are .*B12\. Bring the files to one order"),
    ):
        write_tiff(tmp_path / f"{odd}.tif", values, names)
        with pytest.raises(UsageError, match=rf"{odd}\.tif {message}"):
            load(tmp_path)


def test_patches_of_unequal_sides_are_refused(tmp_path):
    patches = make_tiffs(tmp_path, EUROSAT)
    for name, dn in patches.items():
        write_tiff(tmp_path / f"{name}.tif", dn[:, :12], NATURAL)
    with pytest.raises(UsageError, match=r"is 12 x 16 px; patches are square"):
        load(tmp_path)


def test_dn_beyond_any_reflectance_are_kept_at_the_largest(tmp_path):
    patches = make_tiffs(tmp_path, EUROSAT)
    name = sorted(patches)[0]
    dn = patches[name].copy()
    dn[0, 0, :3] = 32_767, 32_768, 65_535
    write_tiff(tmp_path / f"{name}.tif", dn[[NATURAL.index(band) for band in EUROSAT]])
    assert load(tmp_path).images[0, 0, 0, :4].tolist() == [32_767, 32_767, 32_767, dn[0, 0, 3]]


def test_broken_tiffs_are_refused(tmp_path):
    patches = make_tiffs(tmp_path, EUROSAT)
    for name, content in (
        (sorted(patches)[-1], b"II*\0" + bytes(60)),
        (sorted(patches)[0], b"no image"),
    ):
        path = tmp_path / f"{name}.tif"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name}\.tif cannot be read"):
            load(tmp_path)
    whole = write_tiff(path, patches[sorted(patches)[0]], NATURAL).read_bytes()
    undecodable = whole.replace(b"B04", b"B\xfe4")  # descriptions are UTF-8
    assert undecodable != whole
    for content in (whole[: len(whole) // 2], undecodable):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read"):
            load(tmp_path)


def test_images_and_tiffs_do_not_mix(tmp_path):
    make_tiffs(tmp_path, EUROSAT)
    Image.new("RGB", (16, 16)).save(tmp_path / "Grass" / "Grass_7.jpg")
    with pytest.raises(UsageError, match=r"holds both images and TIFFs\. Give a folder of"):
        list_patches(tmp_path)
    source = PatchSource(root=tmp_path)
    for names in (["Grass/Grass_0.tif", "Grass/Grass_7.jpg"], ["Grass/Grass_7.jpg", "Grass/Grass_0.tif"]):
        with pytest.raises(UsageError, match=names[1]):
            load_patches(source, names, RGB)


def test_a_split_of_jpegs_serves_for_the_tiffs(tmp_path):
    written = make_tiffs(tmp_path / "ms", EUROSAT)
    split = tmp_path / "split.txt"
    split.write_text("Water/Water_1.jpg\nBrick/Brick_0.jpg\n")
    patches = load_patches(PatchSource(root=tmp_path / "ms"), read_split(split), NATURAL)
    assert patches.names == ("Water/Water_1.tif", "Brick/Brick_0.tif")
    assert patches.labels.tolist() == [2, 0]
    assert_holds(patches, {name: written[name] for name in ("Water/Water_1", "Brick/Brick_0")}, NATURAL)
    with pytest.raises(UsageError, match=r"Grass_99\.jpg cannot be read: there is no such file, nor a TIFF"):
        load_patches(PatchSource(root=tmp_path / "ms"), ["Grass/Grass_99.jpg"], NATURAL)


def test_jpegs_hold_red_green_and_blue_only(tmp_path):
    root = make_jpegs(tmp_path, each=1)
    for bands in (NATURAL, NO_B10, ("B08",), ("B04", "B03")):
        with pytest.raises(UsageError, match=r"is an RGB image\. Give --data a folder of multi-band TIFFs"):
            load(root, bands)
    with pytest.raises(UsageError, match=r"--band-order B02,B03,B04 is for TIFFs.*Leave it out"):
        load(root, RGB, band_order=("B02", "B03", "B04"))
    straight, turned = load(root, RGB), load(root, RGB[::-1])
    assert torch.equal(turned.images, straight.images.flip(1))
    assert load(root, RGB, band_order=RGB).bands == RGB


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_images_of_other_kinds_are_refused(tmp_path, mode):
    root = make_jpegs(tmp_path, each=1)
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (16, 16)).save(root / "Grass" / f"odd.{suffix}")
    with pytest.raises(UsageError, match=rf"odd\.{suffix} is an image of mode {mode}, not 8-bit RGB"):
        load(root, RGB)


# The real data: 314 of EuroSAT's 13-band patches.


@pytest.fixture(scope="module")
def multispectral(data_dir):
    return load(data_dir / "eurosat" / "EuroSAT_MS")


def test_eurosat_s_bands_have_the_published_means(multispectral):
    # Helber et al. 2019, all 27,000 patches; 314 of them, stratified otherwise, are a sample.
    published = {
        "B01": 1354.4, "B02": 1118.2, "B03": 1042.9, "B04": 947.6, "B05": 1199.5, "B06": 1999.8,
        "B07": 2369.2, "B08": 2296.8, "B09": 732.1, "B10": 12.1, "B11": 1819.0, "B12": 1118.9,
        "B8A": 2594.1,
    }  # fmt: skip
    assert len(multispectral) == 314
    assert multispectral.images.shape[1:] == (13, 64, 64)
    means = multispectral.images.double().mean((0, 2, 3)).tolist()
    for band, mean in zip(NATURAL, means, strict=True):
        assert mean == pytest.approx(published[band], rel=0.15), band


def test_eurosat_s_jpegs_and_tiffs_are_one_data_set(data_dir, multispectral):
    """Oracle: a JPEG is clip(B04, B03, B02, 0, 2750) / 2750 x 255, within its loss."""
    root = data_dir / "eurosat" / "EuroSAT_RGB"
    names = [name.replace(".tif", ".jpg") for name in multispectral.names]
    chosen = [i for i, name in enumerate(names) if (root / name).is_file()][::5]
    assert len(chosen) >= 40
    jpegs = load_patches(PatchSource(root=root), [names[i] for i in chosen])
    assert torch.equal(jpegs.labels, multispectral.labels[chosen])
    rows = [NATURAL.index(band) for band in RGB]
    clipped = multispectral.dn(chosen)[:, rows].clamp(0, 2750)
    grey_levels = (jpegs.dn(slice(None)) - clipped).abs() / 2750 * 255
    medians = grey_levels.flatten(1).median(1).values
    assert float(medians.median()) < 2
    assert float(medians.max()) < 5
    assert float(grey_levels.median()) < 3
