"""A map whose folder is a bucket. The service is moto's S3 on loopback; oracle: the same map in a folder."""

import json
from dataclasses import replace

import boto3
import fsspec
import numpy as np
import pytest
import rasterio
from moto.server import ThreadedMotoServer

from landuse.errors import BusyError, OutputError, UsageError
from landuse.pipeline.write.folder import Store
from landuse.workflows.mapping.map_area import map_area
from tests.workflows.small_maps import BrightnessClassifier, catalog_of, read, red_raster, request

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAUSERSOWN00000000", "AWS_SECRET_ACCESS_KEY": "users+s3cret/key"}


@pytest.fixture
def bucket(monkeypatch):
    """A client of a service with the bucket ``maps``; s3fs is told of it by the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="maps")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # of the service that another test had
    yield client
    client.close()
    server.stop()


def test_a_map_in_a_bucket_is_the_map_in_a_folder(bucket, tmp_path):
    values = np.random.default_rng(0).integers(1, 9000, (300, 400)).astype(np.uint16)
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    here = map_area(request(tmp_path, source, block_px=128), BrightnessClassifier(64))
    there = map_area(request(tmp_path, source, block_px=128, out="s3://maps/one"), BrightnessClassifier(64))
    listed = bucket.list_objects_v2(Bucket="maps")["Contents"]
    assert {entry["Key"] for entry in listed} == {f"one/{name}" for name in here.files}
    assert there.out == "s3://maps/one"
    for name in ("landuse.tif", "confidence.tif", "image.tif"):
        bucket.download_file("maps", f"one/{name}", str(tmp_path / name))
        np.testing.assert_array_equal(read(tmp_path / name), read(tmp_path / "map" / name))
    with rasterio.open(tmp_path / "landuse.tif") as file:
        assert file.tags()["plan_sha256"] == here.plan.digest
    with pytest.raises(UsageError, match=r"s3://maps/one already holds landuse\.tif"):
        map_area(request(tmp_path, source, out="s3://maps/one"), BrightnessClassifier(64))
    Store.at("s3://maps/one").remove()


def test_a_bucket_that_is_not_there_is_not_made(bucket, tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((100, 100), 900, np.uint16)))
    with pytest.raises(OutputError, match=r"s3://slip-of-the-pen/map cannot be .*Check the address") as told:
        map_area(request(tmp_path, source, out="s3://slip-of-the-pen/map"), BrightnessClassifier(64))
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(told.value)
    assert "slip-of-the-pen" not in [entry["Name"] for entry in bucket.list_buckets()["Buckets"]]


class Disturbed(BrightnessClassifier):
    """While it classifies, something happens."""

    def __init__(self, patch_size_px, happens):
        super().__init__(patch_size_px)
        self.happens = happens

    def cell_probabilities(self, dn, level, cells):
        self.happens()
        return super().cell_probabilities(dn, level, cells)


def test_two_runs_into_one_bucket_keep_apart(bucket, tmp_path):
    values = np.random.default_rng(0).integers(1, 9000, (300, 400)).astype(np.uint16)
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    asked = request(tmp_path, source, block_px=128, out="s3://maps/two")
    map_area(asked, BrightnessClassifier(64))
    again = replace(asked, overwrite=True)
    store = Store.at("s3://maps/two")
    before = {name: store.sha256(name) for name in store.names()}

    def second():
        with pytest.raises(BusyError, match=r"Another run is at work in s3://maps/two: process \d+ of"):
            map_area(again, BrightnessClassifier(64))

    map_area(replace(again, title="first"), Disturbed(64, second))
    assert store.sha256("landuse.tif") == before["landuse.tif"]
    assert store.sha256("run.json") != before["run.json"]
    before = {name: store.sha256(name) for name in store.names()}
    taken = json.dumps({"since_utc": "2024-06-01T10:00:00+00:00", "until_utc": "2999-01-01T00:00:00+00:00"})
    # This one is held up for so long that another has taken over: it replaces nothing.
    with pytest.raises(BusyError, match="no longer this run's"):
        map_area(
            replace(again, title="late"),
            Disturbed(64, lambda: store.write(".lock-000099", taken.encode())),
        )
    assert {name: store.sha256(name) for name in before} == before
