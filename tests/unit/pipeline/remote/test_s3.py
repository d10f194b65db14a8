"""S3: the service is moto's on loopback, the oracle of pixels is rasterio on the same files on disk."""

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.errors import AssetError
from landuse.pipeline.providers import CDSE, EARTH_SEARCH_L1C, Provider, S3Access
from landuse.pipeline.read.read_scene import read_scene
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.scene import L1C_CLOUD_BANDS, BandAsset, Scene, mask_bands
from landuse.sentinel2 import RESOLUTION_M

BUCKET = "sentinel-s2-l1c"
KEY_ID, SECRET = "AKIAUSERSOWN00000000", "users+s3cret/key"
CDSE_KEY_ID, CDSE_SECRET = "CDSEKEY0000000000000", "cdse+s3cret/key"
CRS = "EPSG:32633"
LEFT, TOP = 600_000, 5_300_040
SIDE_M = 3600
HASTY = RetryPolicy(attempts=6, first_pause_s=0.01, deadline_s=30, connect_timeout_s=5, read_timeout_s=10)

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Bucket:
    """moto's S3 behind a WSGI layer that notes what it is asked, and fails at times."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    """The WSGI environment's text of each GET, and what was sent of the body as ``sent``."""
    busy_every: int = 0
    truncate_every: int = 0

    def gets(self, name=""):
        return [one for one in self.asked if one["PATH_INFO"].endswith(name)]

    def fetched_twice(self):
        """Bytes that were sent more than once, by path."""
        twice, seen = {}, {}
        for one in self.asked:
            if one["status"].startswith("206"):
                start = int(re.fullmatch(r"bytes=(\d+)-\d+", one["HTTP_RANGE"])[1])
                span = set(range(start, start + int(one["sent"])))
                there = seen.setdefault(one["PATH_INFO"], set())
                if there & span:
                    twice[one["PATH_INFO"]] = len(there & span)
                there |= span
        return twice

    def layer(self, app):
        lock = threading.Lock()

        def serve(environ, start_response):
            if environ["REQUEST_METHOD"] != "GET":
                return app(environ, start_response)
            entry = {name: value for name, value in environ.items() if isinstance(value, str)}
            with lock:
                self.asked.append(entry)
                number = len(self.asked)
            if self.busy_every and number % self.busy_every == 0:
                entry.update(status="503 Slow Down", sent="0")
                start_response(
                    entry["status"],
                    [("Content-Length", str(len(SLOW_DOWN))), ("Content-Type", "application/xml")],
                )
                return [SLOW_DOWN]
            status = []

            def begin(line, headers, exc_info=None):
                status.append(line)
                return start_response(line, headers, exc_info)

            body = b"".join(app(environ, begin))
            if self.truncate_every and number % self.truncate_every == 0:
                body = body[: len(body) // 2]
            entry.update(status=status[0], sent=str(len(body)))
            return [body]

        return serve


@contextmanager
def s3_service() -> Iterator[Bucket]:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log_request(self, *args):
            pass

    bucket = Bucket()
    app = bucket.layer(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_jp2(path, values, pixel_m):
    rows, cols = values.shape
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", dtype="uint16", count=1, height=rows, width=cols, crs=CRS,
        transform=Affine(pixel_m, 0, LEFT, 0, -pixel_m, TOP), REVERSIBLE="YES", QUALITY="100",
        BLOCKXSIZE=256, BLOCKYSIZE=256,
    ) as target:  # fmt: skip
        target.write(values, 1)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """An L1C scene of all bands in a bucket, half of it white as a cloud, and the same on disk."""
    import boto3

    folder = tmp_path_factory.mktemp("l1c")
    rng = np.random.default_rng(11)
    for band, pixel_m in RESOLUTION_M.items():
        rows, cols = SIDE_M // pixel_m, SIDE_M // pixel_m
        values = rng.integers(1000, 2000, (rows, cols)) + np.arange(cols) * 10
        values[:, cols // 2 :] = 9000 + rng.integers(0, 100, (rows, cols - cols // 2))
        if band == "B10":
            values[:, : cols // 2] = 1010
        values[: rows // 12, : cols // 12] = 0
        write_jp2(folder / f"{band}.jp2", values.astype(np.uint16), pixel_m)
        with rasterio.open(folder / f"{band}.jp2") as file:
            np.testing.assert_array_equal(file.read(1), values)
    with s3_service() as bucket:
        client = boto3.client(
            "s3", endpoint_url=bucket.url, region_name="us-east-1",
            aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        for path in folder.iterdir():
            client.put_object(Bucket=BUCKET, Key=f"tiles/33/U/WP/{path.name}", Body=path.read_bytes())
        client.close()
        yield bucket, folder


@pytest.fixture
def bucket(service, monkeypatch, tmp_path):
    """The service without faults, and an environment in which only what a test sets is known of AWS."""
    bucket, _ = service
    bucket.asked.clear()
    bucket.busy_every = bucket.truncate_every = 0
    for name in [name for name in os.environ if name.startswith(("AWS_", "CDSE_", "BOTO"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    return bucket


@pytest.fixture
def aws_keys(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture
def folder(service):
    return service[1]


def l1c_at(bucket, **changes) -> Provider:
    """Earth Search's L1C, but at the bucket's address."""
    access = replace(EARTH_SEARCH_L1C.s3, endpoint_url=bucket.url, region="us-east-1", **changes)
    return replace(EARTH_SEARCH_L1C, s3=access)


def scene_of(provider, bands, where="s3://sentinel-s2-l1c/tiles/33/U/WP"):
    return Scene(
        id="S2A_33UWP_L1C",
        provider=provider.name,
        acquired_utc=datetime(2024, 6, 1, 10, tzinfo=UTC),
        level="L1C",
        baseline="05.10",
        cloud_percent=None,
        footprint=(((15, 47), (16, 47), (16, 48), (15, 47)),),
        crs=CRS,
        bounds_m=None,
        assets=tuple(BandAsset(band=band, href=f"{where}/{band}.jp2", offset=-0.1) for band in bands),
    )


def grid_at(row, col, rows, cols):
    """Pixels of 10 m, counted from the scene's corner."""
    return GeoBox((rows, cols), Affine(10, 0, LEFT + col * 10, 0, -10, TOP - row * 10), CRS)


def assert_same_pixels(found, expected):
    np.testing.assert_array_equal(found.dn.values, expected.dn.values)
    np.testing.assert_array_equal(found.observed.values, expected.observed.values)
    np.testing.assert_array_equal(found.usable.values, expected.usable.values)


BANDS_10_20_60_M = ("B04", "B11", "B09")


def read_over_s3(bucket, bands, grid, provider=None):
    provider = provider or l1c_at(bucket)
    with Remote(HASTY, providers=[provider]) as remote:
        return read_scene(scene_of(provider, bands), bands, grid, remote), remote.traffic


@pytest.mark.usefixtures("aws_keys")
def test_jpeg_2000_is_read_pixel_for_pixel_over_requester_pays(bucket, folder):
    # Over four tiles of 256 pixels, and beyond the scene's corner.
    grid = grid_at(-20, -30, 300, 320)
    block, traffic = read_over_s3(bucket, ("B04",), grid)
    with rasterio.open(folder / "B04.jp2") as file:
        whole = file.read(1)
    stored = np.zeros((300, 320), np.uint16)
    stored[20:, 30:] = whole[:280, :290]
    np.testing.assert_array_equal(block.observed.values, stored > 0)
    np.testing.assert_array_equal(
        block.dn.values[0], np.where(stored > 0, np.clip(stored.astype(int) - 1000, 1, None), 0)
    )
    assert block.dn.values[0, 299, 319] == stored[299, 319] - 1000 > 0
    assert traffic.requests == len(bucket.asked) > 0
    assert traffic.fetched_bytes <= (folder / "B04.jp2").stat().st_size
    assert {one.get("HTTP_X_AMZ_REQUEST_PAYER") for one in bucket.asked} == {"requester"}
    assert all(f"Credential={KEY_ID}/" in one["HTTP_AUTHORIZATION"] for one in bucket.asked)


@pytest.mark.usefixtures("aws_keys")
@pytest.mark.parametrize("faults", [{}, {"busy_every": 4}, {"truncate_every": 3}])
def test_bands_of_10_20_and_60_m_come_as_from_disk_and_every_byte_once(bucket, folder, faults):
    for name, value in faults.items():
        setattr(bucket, name, value)
    grid = grid_at(37, 11, 200, 310)
    provider = l1c_at(bucket)
    local = scene_of(provider, BANDS_10_20_60_M, folder)
    with Remote(HASTY, providers=[provider]) as remote:
        expected = read_scene(local, BANDS_10_20_60_M, grid, remote)
        assert bucket.asked == []
        for _ in range(2):
            assert_same_pixels(
                read_scene(scene_of(provider, BANDS_10_20_60_M), BANDS_10_20_60_M, grid, remote), expected
            )
        sizes = sum((folder / f"{band}.jp2").stat().st_size for band in BANDS_10_20_60_M)
        assert remote.traffic.fetched_bytes <= sizes
    assert expected.observed.values.any()
    assert bucket.fetched_twice() == {}
    assert any(one["status"].startswith("503") for one in bucket.asked) == ("busy_every" in faults)


@pytest.mark.usefixtures("aws_keys")
def test_a_scene_without_classification_is_masked_by_its_spectrum(bucket, folder):
    bands = tuple(dict.fromkeys((*L1C_CLOUD_BANDS, "B03")))
    assert mask_bands("L1C", bands) == L1C_CLOUD_BANDS
    grid = grid_at(60, 40, 240, 250)
    provider = l1c_at(bucket)
    with Remote(HASTY, providers=[provider]) as remote:
        expected = read_scene(scene_of(provider, bands, folder), ("B04", "B03"), grid, remote)
        found = read_scene(scene_of(provider, bands), ("B04", "B03"), grid, remote)
    assert_same_pixels(found, expected)
    # The white half lies from column 180 of the scene on; the mask grows by 120 m around it.
    assert not found.usable.values[:, 145:].any()
    assert found.usable.values[:, :100].mean() > 0.9
    assert found.observed.values.all()
    assert {one["PATH_INFO"][-7:-4] for one in bucket.asked} == {*L1C_CLOUD_BANDS, "B03"}


@pytest.mark.usefixtures("aws_keys")
@pytest.mark.parametrize(("stated", "paid"), [(None, None), ("requester", "requester"), ("owner", None)])
def test_nobody_pays_for_a_stranger_unless_he_says_so(bucket, folder, monkeypatch, stated, paid):
    """A catalogue of somebody's own: its objects are in AWS, or where AWS is said to be."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    if stated is not None:
        monkeypatch.setenv("AWS_REQUEST_PAYER", stated)
    stranger = Provider(name="https://stac.example.org", endpoint="https://stac.example.org")
    block, _ = read_over_s3(bucket, ("B04",), grid_at(40, 40, 20, 20), stranger)
    with rasterio.open(folder / "B04.jp2") as file:
        np.testing.assert_array_equal(block.dn.values[0], file.read(1)[40:60, 40:60] - 1000)
    assert {one.get("HTTP_X_AMZ_REQUEST_PAYER") for one in bucket.asked} == {paid}


def test_the_owner_pays_where_the_provider_does_not_say_otherwise(bucket, monkeypatch):
    """CDSE's keys are its own, and AWS's are not shown to it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "users+session")
    monkeypatch.setenv("CDSE_S3_ACCESS_KEY", CDSE_KEY_ID)
    monkeypatch.setenv("CDSE_S3_SECRET_KEY", CDSE_SECRET)
    cdse = replace(CDSE, s3=replace(CDSE.s3, endpoint_url=bucket.url))
    block, _ = read_over_s3(bucket, ("B04",), grid_at(40, 40, 20, 20), cdse)
    assert block.observed.values.all()
    assert bucket.asked
    for one in bucket.asked:
        assert f"Credential={CDSE_KEY_ID}/" in one["HTTP_AUTHORIZATION"]
        assert "HTTP_X_AMZ_REQUEST_PAYER" not in one
        assert not any(
            shown in value for shown in (KEY_ID, SECRET, "users+session") for value in one.values()
        )


def failure(bucket, provider, band="B04"):
    with pytest.raises(AssetError) as caught:
        read_over_s3(bucket, (band,), grid_at(40, 40, 20, 20), provider)
    return caught.value


def test_missing_credentials_of_aws_are_said_once_with_their_names(bucket):
    error = failure(bucket, l1c_at(bucket))
    assert re.search(
        "no S3 credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "of an account that pays for the transfer",
        str(error),
    )
    assert (error.band, error.href) == ("B04", f"s3://{BUCKET}/tiles/33/U/WP/B04.jp2")
    assert bucket.asked == []


@pytest.mark.usefixtures("aws_keys")
@pytest.mark.parametrize("half", [None, "CDSE_S3_ACCESS_KEY", "CDSE_S3_SECRET_KEY"])
def test_missing_credentials_of_another_service_are_its_own(bucket, monkeypatch, half):
    if half is not None:
        monkeypatch.setenv(half, CDSE_SECRET)
    error = failure(bucket, replace(CDSE, s3=replace(CDSE.s3, endpoint_url=bucket.url)))
    assert "no S3 credentials were found: set CDSE_S3_ACCESS_KEY and CDSE_S3_SECRET_KEY" in str(error)
    assert CDSE_SECRET not in str(error)
    assert bucket.asked == []


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_ACCESS_KEY_ID": KEY_ID},  # and no secret
        {"AWS_PROFILE": "nobody"},
    ],
)
def test_credentials_that_are_no_credentials_are_an_error_of_ours(bucket, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    error = failure(bucket, l1c_at(bucket))
    assert re.search("S3 cannot be asked|no S3 credentials", str(error))
    assert bucket.asked == []


@pytest.mark.usefixtures("aws_keys")
def test_an_object_that_is_not_there_is_said_to_be_and_asked_for_once(bucket):
    provider = l1c_at(bucket)
    gone = scene_of(provider, ("B04",), f"s3://{BUCKET}/nowhere")
    with Remote(HASTY, providers=[provider]) as remote:
        for _ in range(2):
            with pytest.raises(AssetError, match=r"Asset B04 of scene .*S3 answered 404 NoSuchKey") as caught:
                read_scene(gone, ("B04",), grid_at(40, 40, 20, 20), remote)
    assert caught.value.href == f"s3://{BUCKET}/nowhere/B04.jp2"
    assert len(bucket.asked) == 1


@pytest.mark.usefixtures("aws_keys")
def test_a_bucket_that_is_always_busy_is_given_up_with_its_answer(bucket):
    bucket.busy_every = 1
    error = failure(bucket, l1c_at(bucket))
    assert re.search(r"S3 answered 503 SlowDown \(6 attempts", str(error))
    assert len(bucket.asked) == HASTY.attempts


@pytest.mark.usefixtures("aws_keys")
def test_a_service_that_is_not_there_is_an_error_of_ours(bucket):
    provider = l1c_at(bucket)
    away = replace(provider, s3=replace(provider.s3, endpoint_url="http://127.0.0.1:9"))
    assert "S3 was not reached (EndpointConnectionError)" in str(failure(bucket, away))


@pytest.mark.usefixtures("aws_keys")
@pytest.mark.parametrize(
    ("headers", "sent", "said"),
    [
        ("Content-Range: bytes 0-9/100000\r\nContent-Length: 10", "trickle", "only \\d+ bytes came in time"),
        ("Content-Range: bytes 0-9/10\r\nContent-Length: \u00b2", "", r"cannot be asked \(ValueError\)"),
        ("Content-Range: bytes 0-9/10\r\nContent-Length: 10", "01234", "broke off after 5 of 10"),
        ("Content-Range: bytes 0-9/\u00b2\r\nContent-Length: 10", "0123456789", "does not say which range"),
    ],
)
def test_an_odd_service_is_an_error_in_time(bucket, headers, sent, said):
    def serve(connection):
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(65_536)
            connection.sendall(f"HTTP/1.1 206 P\r\n{headers}\r\nConnection: close\r\n\r\n".encode())
            if sent != "trickle":
                connection.sendall(sent.encode())
                return
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.3)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    # Long enough for a busy machine, and far from the minute that all of the bytes would take.
    policy = RetryPolicy(attempts=2, first_pause_s=0.01, deadline_s=3, connect_timeout_s=3, read_timeout_s=3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        provider = replace(l1c_at(bucket), s3=replace(l1c_at(bucket).s3, endpoint_url=url))
        began = time.monotonic()
        with Remote(policy, providers=[provider]) as remote, pytest.raises(AssetError, match=said):
            read_scene(scene_of(provider, ("B04",)), ("B04",), grid_at(40, 40, 20, 20), remote)
        assert time.monotonic() - began < 15
        listening.shutdown(socket.SHUT_RDWR)


def test_no_key_is_shown_by_errors_logs_or_records(bucket, monkeypatch, caplog):
    for name, value in (
        ("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", "s3ssion"),
        ("CDSE_S3_ACCESS_KEY", CDSE_KEY_ID), ("CDSE_S3_SECRET_KEY", CDSE_SECRET),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    bucket.busy_every = 3
    cdse = replace(CDSE, s3=replace(CDSE.s3, endpoint_url=bucket.url))
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "landuse")
    said = []
    for provider in (l1c_at(bucket), cdse):
        with Remote(HASTY, providers=[provider]) as remote:
            read_scene(scene_of(provider, ("B04",)), ("B04",), grid_at(40, 40, 20, 20), remote)
            with pytest.raises(AssetError) as caught:
                read_scene(scene_of(provider, ("B99",)), ("B99",), grid_at(40, 40, 20, 20), remote)
            said += [repr(caught.value), repr(provider), repr(vars(remote)), repr(remote)]
    assert "attempt 1 failed" in caplog.text
    for text in (*said, caplog.text):
        for secret in (SECRET, CDSE_SECRET, "s3ssion"):
            assert secret not in text


def test_access_is_a_value_that_names_its_variables():
    assert S3Access(credentials="CDSE_S3").variables == ("CDSE_S3_ACCESS_KEY", "CDSE_S3_SECRET_KEY")
    assert hash(EARTH_SEARCH_L1C.s3) == hash(replace(EARTH_SEARCH_L1C.s3))
