"""A data set on an S3 server: written by workers in other processes, and read again."""

import os

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from exiflang.data.shards import DataError
from exiflang.utils.storage import Store
from tests.preparation.flat import prepare
from tests.preparation.test_dataset import SMALL, album, photos_of
from tests.preparation.test_prepare_safety import contents


@pytest.fixture(scope="module")
def bucket():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": address,
    }.items():
        patch.setenv(name, value)
    boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="photos")
    yield "s3://photos"
    patch.undo()
    server.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_set_on_s3(tmp_path, bucket, workers):
    source, arguments = str(album(tmp_path / "album", 7)), SMALL | {"photos_per_shard": 2, "heldout_share": 0.4}
    near = prepare(source, tmp_path / "near", workers=1, **arguments)
    far = f"{bucket}/{os.getpid()}/set{workers}"
    assert prepare(source, far, workers=workers, **arguments) == near
    store = Store(far)
    for name, data in contents(tmp_path / "near").items():
        assert store.read(name) == data
    assert prepare(source, far, workers=workers, **arguments) == near  # reused

    shards = prepare(f"{far}/train", tmp_path / "again", workers=1, **SMALL)
    assert shards["photos"]["train"] + shards["photos"]["heldout"] == near["photos"]["train"]
    assert photos_of(tmp_path / "again" / "train")[0].id == "00000000"


def test_a_missing_bucket_is_reported(tmp_path, bucket):
    with pytest.raises(DataError, match="s3://no-such-bucket/set: no .tar shard there"):
        prepare("s3://no-such-bucket/set", tmp_path / "set", workers=1, **SMALL)


def test_an_unreachable_server_is_reported(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OSError, match="s3://photos/set: cannot be reached .*: check the address and your access"):
        prepare(str(album(tmp_path / "album", 1)), f"{bucket}/set", workers=1, **SMALL)
