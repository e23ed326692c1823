"""`modal.object`: the class that programs ask of a value whether it is a handle of something on the server."""

from abc import ABC

from squall.sdk.function.call import FunctionCall
from squall.sdk.function.cls import Cls, DeployedCls
from squall.sdk.function.function import Function
from squall.sdk.image.image import Image
from squall.sdk.storage.environment import Environment
from squall.sdk.storage.named_objects import StoredObject
from squall.sdk.storage.secret import Secret


class Object(ABC):  # noqa: B024  # nothing is to be written by those that count as one
    """Functions, classes, images, volumes, dicts, queues, secrets and the like; for `isinstance` and annotations."""


for _kind in (Cls, DeployedCls, Environment, Function, FunctionCall, Image, Secret, StoredObject):
    Object.register(_kind)
