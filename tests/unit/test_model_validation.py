"""Buckets, mounts and options that the server refuses, whoever sends them."""

import math

import pytest

from squall.control.objects.buckets import _arguments
from squall.model.errors import InvalidError
from squall.model.options import FunctionOptions
from squall.model.specs import AppSpec, BucketMount, FunctionSpec, Scaling, VolumeMount
from squall.model.validation import check_app, check_bucket, check_options, check_region, lies_within


@pytest.mark.parametrize(
    "mount",
    [
        BucketMount("/b", "cron.d", "http://evil/x,use_cache=/etc"),
        BucketMount("/b", "cron.d", "http://evil/x\\,use_cache=/etc"),
        BucketMount("/b", "cron.d", "http://evil/?a=b"),
        BucketMount("/b", "cron.d", "http://evil\n/"),
        BucketMount("/b", "cron.d", "http://user:pass@evil/"),
        BucketMount("/b", "cron.d", "file:///etc"),
        BucketMount("/b", "-ouse_cache=/etc"),
        BucketMount("/b", "a,b"),
        BucketMount("/b", "../a"),
        BucketMount("/b", "a", None, "x,y/"),
        BucketMount("/b", "a", None, "../"),
        BucketMount("b", "a"),
    ],
)
def test_a_bucket_that_could_break_out_of_its_arguments_is_refused(mount: BucketMount) -> None:
    with pytest.raises(InvalidError):
        check_bucket(mount)
    with pytest.raises(InvalidError):
        check_options(FunctionOptions(buckets=(mount,)))
    with pytest.raises(InvalidError):
        check_app(AppSpec("a", "a", (), (FunctionSpec("f", "m", "f", 0, buckets=(mount,)),)))


def test_buckets_as_people_have_them_are_taken() -> None:
    for endpoint in (None, "https://account.r2.cloudflarestorage.com", "http://127.0.0.1:9000", "https://[::1]:9000/"):
        check_bucket(BucketMount("/b", "my-bucket.data_1", endpoint, "data/2024 a=b/"))


def test_an_option_with_a_comma_never_reaches_s3fs() -> None:
    assert _arguments(["a=b", "ro"]) == ["-o", "a=b", "-o", "ro"]
    with pytest.raises(InvalidError):
        _arguments(["url=http://x,use_cache=/etc"])
    with pytest.raises(InvalidError):
        check_region("eu,use_cache=/etc")


@pytest.mark.parametrize(
    "options",
    [
        FunctionOptions(cpu_request=0.0),
        FunctionOptions(cpu_request=math.nan),
        FunctionOptions(cpu_request=math.inf),
        FunctionOptions(cpu_request=1e300),
        FunctionOptions(cpu_request=1.0, cpu_limit=math.nan),
        FunctionOptions(memory_request_mib=0),
        FunctionOptions(memory_request_mib=-5),
        FunctionOptions(buffer_containers=1_000_000),
        FunctionOptions(max_containers=0),
        FunctionOptions(timeout_s=math.nan),
        FunctionOptions(scaledown_window_s=math.inf),
        FunctionOptions(env={"A=B": "x"}),
        FunctionOptions(volumes=(VolumeMount("/d", "vo-1", sub_path="../x"),)),
    ],
)
def test_options_that_no_container_could_have_are_refused(options: FunctionOptions) -> None:
    with pytest.raises(InvalidError):
        check_options(options)


def test_a_function_whose_scaling_contradicts_itself_is_named() -> None:
    with pytest.raises(InvalidError, match="^f: min_containers"):
        check_app(AppSpec("a", "a", (), (FunctionSpec("f", "m", "f", 0, scaling=Scaling(min_containers=3, max_containers=2)),)))


def test_a_mount_lies_within_another_where_it_shows_and_allows_no_more() -> None:
    tenant = VolumeMount("/data", "vo-1", sub_path="tenant-a")
    assert lies_within(VolumeMount("/x", "vo-1", sub_path="tenant-a/deeper"), tenant)
    assert lies_within(VolumeMount("/x", "vo-1", read_only=True, sub_path="/tenant-a/"), tenant)
    for other in (
        VolumeMount("/x", "vo-1"),
        VolumeMount("/x", "vo-1", sub_path="tenant-b"),
        VolumeMount("/x", "vo-1", sub_path="tenant-ab"),
        VolumeMount("/x", "vo-2", sub_path="tenant-a"),
    ):
        assert not lies_within(other, tenant)
    assert not lies_within(VolumeMount("/x", "vo-1"), VolumeMount("/data", "vo-1", read_only=True))
