"""Recipe -> layers. A layer is a directory, named by the hash of its parent and its step; an image is a chain of them, mounted with overlayfs.

May import `runtime` and the rooms below it. Start reading at `builder.py`; `recipe.py` says how keys are made, `steps.py` what each step means, `layers.py` how
a layer comes into being and what a killed build leaves behind. To add a step: one function in `steps.py`.
"""
