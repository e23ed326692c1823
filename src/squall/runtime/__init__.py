"""Container drivers behind one contract (`contract.py`): `oci` with runc or crun, `process` where there is no privilege.

May import `model` and `wire` only. `host.py` says what this machine can do and chooses the driver; `bundle.py` is what a container is made of; what one
leaves on the machine and how it goes away again is in `oci.py`.
"""
