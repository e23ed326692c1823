"""Squall's benchmarks: suites measure Squall, the floor of what is possible, and peers, in turns and in one run. `docs/contributing/benchmarks.md` says more.

Not part of the product: nothing in `squall` imports this. Modules in `contestants` also run in a peer's environment, with nothing else installed.
"""
