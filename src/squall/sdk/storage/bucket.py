"""CloudBucketMount: a bucket of an object store, seen as a directory."""

from typing import TYPE_CHECKING

from squall.model.errors import InvalidError, UnsupportedError
from squall.model.specs import BucketMount
from squall.model.validation import check_bucket
from squall.sdk.storage.secret import Secret, references

if TYPE_CHECKING:
    from squall.sdk.client.client import Client


class CloudBucketMount:
    """For ``volumes=``: a bucket that speaks S3 (AWS, Cloudflare R2, Google Cloud Storage, MinIO ...) at a path of the containers.

    A file is in the bucket when it was closed without an error. What others change there is seen when the file is opened again, within seconds.
    """

    def __init__(
        self,
        bucket_name: str,
        bucket_endpoint_url: str | None = None,
        key_prefix: str | None = None,
        secret: Secret | None = None,
        oidc_auth_role_arn: str | None = None,
        read_only: bool = False,
        requester_pays: bool = False,
        force_path_style: bool = False,
    ) -> None:
        """Nothing is asked of anybody before a container starts.

        Args:
            bucket_endpoint_url: of the store, for example ``https://ACCOUNT.r2.cloudflarestorage.com``; None: AWS.
            key_prefix: only keys that begin so; it ends with a slash.
            secret: with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and as needed AWS_SESSION_TOKEN and AWS_REGION. None: a public bucket, read-only.
            requester_pays: the caller pays for the traffic; needs a secret.
            force_path_style: the bucket's name stands in the path of its addresses, not in their host.

        Raises:
            InvalidError: naming the parameter.
            UnsupportedError: `oidc_auth_role_arn`.
        """
        if not isinstance(bucket_name, str):
            raise InvalidError(f"bucket_name={bucket_name!r} is not the name of a bucket; an address goes into bucket_endpoint_url=")
        if oidc_auth_role_arn is not None:
            raise UnsupportedError("oidc_auth_role_arn of CloudBucketMount is not supported: there is no identity token here; use secret=")
        if bucket_endpoint_url is not None and not isinstance(bucket_endpoint_url, str):
            raise InvalidError(f"bucket_endpoint_url={bucket_endpoint_url!r} is not an address that begins with https:// or http://")
        if key_prefix is not None and not isinstance(key_prefix, str):
            raise InvalidError(f"key_prefix={key_prefix!r} has to end with a slash and not begin with one, for example 'data/'")
        if secret is not None and not isinstance(secret, Secret):
            raise InvalidError(f"secret= of CloudBucketMount is no squall.Secret but {type(secret).__name__}")
        check_bucket(BucketMount("", bucket_name, bucket_endpoint_url, key_prefix or "", None if secret is None else "", read_only, requester_pays))
        self.bucket_name, self.bucket_endpoint_url, self.key_prefix, self.secret = bucket_name, bucket_endpoint_url, key_prefix, secret
        self.oidc_auth_role_arn = oidc_auth_role_arn
        self.read_only, self.requester_pays, self.force_path_style = read_only, requester_pays, force_path_style

    def _spec(self, path: str, environment: str, client: "Client | None") -> BucketMount:
        secret = references(client, (self.secret,), environment) if self.secret is not None else ()
        return BucketMount(
            path, self.bucket_name, self.bucket_endpoint_url, self.key_prefix or "", secret[0] if secret else None,
            self.read_only, self.requester_pays, self.force_path_style,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<CloudBucketMount {self.bucket_name}/{self.key_prefix or ''}>"
