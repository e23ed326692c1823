"""`with_options` and its kin, of functions and classes."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from squall.sdk.function.options import Asked
    from squall.sdk.function.retries import Retries
    from squall.sdk.storage.secret import Secret


class WithOptions:
    """The same function or class, in containers of its own that are made otherwise."""

    def _variant(self, asked: "Asked") -> Self:
        raise NotImplementedError

    def with_options(
        self,
        *,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        gpu: str | Sequence[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: "Collection[Secret] | None" = None,
        volumes: Mapping[str | PurePosixPath, object] = {},
        retries: "int | Retries | None" = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        timeout: float | None = None,
        region: str | Sequence[str] | None = None,
        cloud: str | None = None,
        routing_region: str | None = None,
        **older: Any,
    ) -> Self:
        """With other resources. The parameters are those of `@app.function`; what is not given stays as it is declared.

        Raises:
            InvalidError: naming the parameter.
        """
        from squall.sdk.function.options import parse_options

        given = {
            "cpu": cpu, "memory": memory, "gpu": gpu, "env": env, "secrets": secrets, "volumes": volumes or None, "retries": retries,
            "max_containers": max_containers, "buffer_containers": buffer_containers, "scaledown_window": scaledown_window, "timeout": timeout,
            "region": region, "cloud": cloud, "routing_region": routing_region,
        }  # fmt: skip
        return self._variant(parse_options("with_options", given, older))

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Self:
        """Its containers run several inputs at once."""
        from squall.sdk.function.options import concurrency_options

        return self._variant(concurrency_options(max_inputs, target_inputs))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Self:
        """Its inputs are collected into batches."""
        from squall.sdk.function.options import batching_options

        return self._variant(batching_options(max_batch_size, wait_ms))
