"""Oracles: the given network's own answers on the bands it knows, and torch's tensors bit by bit."""

import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from landuse.contract import ModelContract
from landuse.errors import ModelError
from landuse.model.bands import INPUT_MAX_DN
from landuse.model.checkpoint import save_checkpoint
from landuse.model.networks import NETWORKS, build_network
from landuse.model.normalize import bring_to_input, level_inputs, standardize
from landuse.model.training.transfer import start_from

from ..conftest import Trap

RGB = ("B04", "B03", "B02")
ALL = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
NO_B10 = tuple(band for band in ALL if band != "B10")
CLASSES = ("Brick", "Grass", "Water")


def contract_of(bands, classes=CLASSES, *, seed=0):
    """Every band scaled by numbers of its own, so that none can stand for another."""
    rng = torch.Generator().manual_seed(seed)
    mean = (0.2 + 0.5 * torch.rand(len(bands), generator=rng)).tolist()
    std = (0.1 + 0.2 * torch.rand(len(bands), generator=rng)).tolist()
    return ModelContract(
        name="run",
        bands=bands,
        levels=level_inputs(bands),
        saturation_dn=tuple(INPUT_MAX_DN[band] + 100 * seed for band in bands),
        mean=tuple(mean),
        std=tuple(std),
        classes=classes,
        patch_size_px=16,
        resolution_m=10.0,
    )


def network_of(name, bands=3, classes=3, *, seed=0):
    torch.manual_seed(seed)
    return build_network(NETWORKS[name](bands, classes)).eval()


GIVEN = contract_of(RGB, seed=7)


@pytest.fixture(scope="module")
def given():
    """A balanced-fast RGB network whose norms do something."""
    network = network_of("balanced-fast", seed=1).train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(8, 3, 16, 16))
    return network.eval()


@pytest.fixture(scope="module")
def weights(given, tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "rgb.safetensors"
    save_checkpoint(path, given, GIVEN)
    return path


def logits(network, contract, dn, level="L1C"):
    with torch.inference_mode():
        return network(standardize(bring_to_input(dn, contract, level), contract))


@pytest.mark.parametrize(
    "bands", [ALL, NO_B10, ("B02", "B04", "B08", "B03")], ids=["all", "no-b10", "own order"]
)
def test_more_bands_begin_with_the_answers_of_the_given_network(given, weights, bands):
    network = network_of("balanced-fast", len(bands))
    contract = start_from(weights, network, contract_of(bands))
    dn = torch.rand(6, len(bands), 16, 16) * 3000
    rgb = dn[:, [bands.index(band) for band in RGB]]
    for level in {entry.level for entry in contract.levels}:
        expected = logits(given, GIVEN, rgb, level)
        assert float(expected.std(0).min()) > 1e-3  # the patches do differ
        torch.testing.assert_close(logits(network, contract, dn, level), expected, rtol=1e-4, atol=1e-5)


def test_scaling_is_kept_for_the_known_bands_and_measured_for_the_new(weights):
    own = contract_of(ALL)
    merged = start_from(weights, network_of("balanced-fast", 13), own)
    for field in ("mean", "std", "saturation_dn"):
        for row, band in enumerate(ALL):
            source = GIVEN if band in RGB else own
            position = source.bands.index(band)
            assert getattr(merged, field)[row] == getattr(source, field)[position], (field, band)
    assert replace(merged, mean=own.mean, std=own.std, saturation_dn=own.saturation_dn) == own


def test_a_new_band_weighs_nothing_and_can_learn(weights):
    network = network_of("balanced-fast", 13)
    start_from(weights, network, contract_of(ALL))
    stem = network.input_layer.weight  # (64, 13 * 4, 3, 3): four planes a band after the unshuffle
    planes = {band: stem[:, 4 * row : 4 * row + 4] for row, band in enumerate(ALL)}
    assert {band for band, weight in planes.items() if bool(weight.detach().any())} == set(RGB)
    network.train()(torch.randn(4, 13, 16, 16)).square().sum().backward()
    assert all(bool(stem.grad[:, 4 * row : 4 * row + 4].any()) for row in range(13))


def test_the_same_bands_and_classes_are_the_same_network(given, weights):
    network = network_of("balanced-fast", seed=5)
    contract = start_from(weights, network, contract_of(RGB))
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in network.state_dict().items())
    assert (contract.mean, contract.std, contract.saturation_dn) == (
        GIVEN.mean,
        GIVEN.std,
        GIVEN.saturation_dn,
    )


@pytest.mark.parametrize(
    "classes", [("Brick", "Grass", "Water", "Sand"), ("Grass", "Brick", "Water"), ("A", "B")]
)
def test_other_classes_get_a_fresh_head_on_the_given_features(given, weights, classes):
    network = network_of("balanced-fast", 3, len(classes))
    head = {key: value.clone() for key, value in network.head.state_dict().items()}
    contract = start_from(weights, network, contract_of(RGB, classes))
    assert contract.classes == classes
    for key, value in network.state_dict().items():
        expected = head[key.removeprefix("head.")] if key.startswith("head.") else given.state_dict()[key]
        assert torch.equal(value, expected), key


def test_weights_of_another_network_are_refused(weights):
    for name in ("balanced", "baseline", "cbam", "resnet50"):
        with pytest.raises(
            ModelError, match=rf"is balanced-fast; the run trains {name}\. Start from weights"
        ):
            start_from(weights, network_of(name), contract_of(RGB))


# ImageNet weights as torchvision names them.


@pytest.fixture(scope="module")
def imagenet():
    """What ``torchvision.models.resnet50().state_dict()`` holds: 3 bands, 1000 classes."""
    state = network_of("resnet50", 3, 3, seed=3).state_dict()
    return state | {"fc.weight": torch.randn(1000, 2048), "fc.bias": torch.randn(1000)}


@pytest.fixture(scope="module")
def imagenet_file(imagenet, tmp_path_factory):
    path = tmp_path_factory.mktemp("imagenet") / "resnet50.safetensors"
    save_file(imagenet, path)
    return path


def test_imagenet_weights_start_a_resnet50_of_any_bands(imagenet, imagenet_file):
    network = network_of("resnet50", 13)
    fresh = {key: value.clone() for key, value in network.fc.state_dict().items()}
    own = contract_of(ALL)
    assert start_from(imagenet_file, network, own) == own  # scaled as measured: ImageNet's is not ours
    for key, value in network.state_dict().items():
        if key == "conv1.weight":
            for row, band in enumerate(ALL):
                expected = imagenet[key][:, RGB.index(band)] if band in RGB else torch.zeros(64, 7, 7)
                assert torch.equal(value[:, row], expected), band
        elif key.startswith("fc."):
            assert torch.equal(value, fresh[key.removeprefix("fc.")])
        else:
            assert torch.equal(value, imagenet[key]), key


def test_imagenet_s_order_is_red_green_blue(imagenet, imagenet_file):
    turned = network_of("resnet50")
    start_from(imagenet_file, turned, contract_of(RGB[::-1]))
    assert torch.equal(turned.conv1.weight, imagenet["conv1.weight"].flip(1))


def test_our_own_resnet50_is_known_by_its_contract(imagenet, tmp_path):
    path = tmp_path / "ours.safetensors"
    network = network_of("resnet50", seed=3)
    save_checkpoint(path, network, GIVEN)
    second = network_of("resnet50", seed=4)
    contract = start_from(path, second, contract_of(RGB))
    assert contract.mean == GIVEN.mean
    assert torch.equal(second.fc.weight, network.fc.weight)  # the classes are the same


@pytest.fixture(scope="module")
def resnet():
    """One network for what is refused before a weight of it is touched."""
    return network_of("resnet50")


def test_old_files_without_counters_are_taken(imagenet, tmp_path):
    path = tmp_path / "old.safetensors"
    save_file({k: v for k, v in imagenet.items() if not k.endswith("num_batches_tracked")}, path)
    network = network_of("resnet50")
    start_from(path, network, contract_of(RGB))
    assert torch.equal(network.layer4[2].conv3.weight, imagenet["layer4.2.conv3.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer1.0.conv1.weight": None},
            r"layer1\.0\.conv1\.weight is missing, unknown or of another shape",
        ),
        ({"layer1.0.conv1.weight": torch.zeros(32, 64, 1, 1)}, r"layer1\.0\.conv1\.weight is missing"),
        ({"layer1.9.conv1.weight": torch.zeros(1)}, r"layer1\.9\.conv1\.weight is missing, unknown"),
        ({"conv1.weight": None}, r"conv1\.weight is missing"),
        ({"conv1.weight": torch.zeros(64, 6, 7, 7)}, r"first layer is \(64, 6, 7, 7\); \(64, 3, 7, 7\) was"),
        ({"conv1.weight": torch.zeros(64)}, r"first layer is \(64,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(imagenet, resnet, tmp_path, change, message):
    path = tmp_path / "odd.safetensors"
    state = {key: change.get(key, value) for key, value in (imagenet | change).items()}
    save_file({key: value for key, value in state.items() if value is not None}, path)
    before = resnet.fc.weight.clone(), resnet.conv1.weight.clone()
    with pytest.raises(ModelError, match=message):
        start_from(path, resnet, contract_of(RGB))
    assert torch.equal(resnet.fc.weight, before[0])
    assert torch.equal(resnet.conv1.weight, before[1])


@pytest.mark.parametrize("name", ["baseline", "cbam", "balanced", "balanced-fast"])
def test_foreign_weights_are_for_resnet50_alone(imagenet_file, name):
    with pytest.raises(ModelError, match=r"carries no landuse-checkpoint-2 contract .*landuse train"):
        start_from(imagenet_file, network_of(name), contract_of(RGB))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_foreign_weights_are_refused(imagenet_file, resnet, tmp_path, share):
    whole = imagenet_file.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"--init .* is not a readable safetensors file .* torchvision's"):
        start_from(path, resnet, contract_of(RGB))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.999])
def test_a_truncated_checkpoint_is_refused(weights, tmp_path, share):
    whole = weights.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match="safetensors"):
        start_from(path, network_of("balanced-fast"), contract_of(RGB))


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("name", ["resnet50.pth", "resnet50.safetensors"])
def test_pickled_weights_are_refused_and_nothing_in_them_runs(resnet, tmp_path, write, name):
    sprung, path = tmp_path / "sprung", tmp_path / name
    write({"conv1.weight": Trap(sprung)}, path)
    with pytest.raises(ModelError, match="Pickled weights are never loaded"):
        start_from(path, resnet, contract_of(RGB))
    with pytest.raises(ModelError, match="not a readable safetensors"):
        start_from(path, network_of("balanced-fast"), contract_of(RGB))
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap works
    assert sprung.exists()


def test_a_missing_file_is_one_clear_error(resnet, tmp_path):
    with pytest.raises(ModelError, match=r"--init .*gone\.safetensors is not a readable"):
        start_from(tmp_path / "gone.safetensors", resnet, contract_of(RGB))
