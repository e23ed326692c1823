"""`modal.functions`: names of it that lie elsewhere today."""

import warnings
from typing import Any

from squall.model.errors import DeprecationError
from squall.sdk.function.call import FunctionCall


def gather(*function_calls: Any) -> Any:
    """Old spelling of `FunctionCall.gather`."""
    warnings.warn("modal.functions.gather is the old spelling of FunctionCall.gather", DeprecationError, stacklevel=2)
    return FunctionCall.gather(*function_calls)
