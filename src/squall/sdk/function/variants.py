"""`with_options` and its kin, of functions and classes."""

from typing import TYPE_CHECKING, Self, Unpack

from squall.sdk.app.function_parameters import OptionParameters, Takes, described

if TYPE_CHECKING:
    from squall.sdk.function.options import Asked


class WithOptions:
    """The same function or class, in containers of its own that are made otherwise."""

    def _variant(self, asked: "Asked") -> Self:
        raise NotImplementedError

    @described(Takes.OPTIONS)
    def with_options(self, **parameters: Unpack[OptionParameters]) -> Self:
        """With other resources. The parameters are those of `@app.function`; what is not given stays as it is declared.

        Raises:
            InvalidError: naming the parameter.
        """
        from squall.sdk.function.options import parse_options

        return self._variant(parse_options("with_options", parameters))

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Self:
        """Its containers run several inputs at once."""
        from squall.sdk.function.options import concurrency_options

        return self._variant(concurrency_options(max_inputs, target_inputs))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Self:
        """Its inputs are collected into batches."""
        from squall.sdk.function.options import batching_options

        return self._variant(batching_options(max_batch_size, wait_ms))
