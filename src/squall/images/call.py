"""Calls one function while an image is built: the program of a `run_function` step, given to the image's Python as text.

Arguments: the directory with the step's files, the module, the function's qualified name, and what tells this version of it from others.
"""

import asyncio
import importlib
import inspect
import os
import pickle
import sys
from base64 import b64decode


def main() -> None:
    files, module, qualname, _ = sys.argv[1:5]
    sys.path.insert(0, f"{files}/root")
    sys.path.append("/.squall/lib")
    os.environ.setdefault("SQUALL_IS_REMOTE", "1")
    os.environ.setdefault("MODAL_IS_REMOTE", "1")
    # User code asks whether it is in a container; and imports of packages that this image does not have yet are no error.
    os.environ.setdefault("SQUALL_CONTAINER_SOCKET", "/.squall/build/none")
    os.environ.setdefault("SQUALL_IMAGE_RECIPE", "being built")
    if os.environ.get("SQUALL_MODAL_ALIAS") != "0":
        from squall.runner import alias

        alias.install()  # the module of the function may begin with `import modal`
    with open(f"{files}/call") as file:
        args, kwargs = pickle.loads(b64decode(file.read()))
    with open(f"{files}/function") as file:
        pickled = file.read()
    if pickled:
        target = pickle.loads(b64decode(pickled))
    else:
        target = importlib.import_module(module)
        for name in qualname.split("."):
            target = getattr(target, name)
    target = getattr(target, "_squall_raw", target)
    found = target(*args, **kwargs)
    if inspect.iscoroutine(found):
        asyncio.run(found)


if __name__ == "__main__":
    main()
