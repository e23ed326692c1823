"""The life of a call as a pure machine: events in, commands out.

An event is a function of `dispatch`, `outcomes` or `endings`: it takes a pool's `Calls` and the time, changes that state, and leaves commands (`commands`)
in `Calls.commands`, which whoever feeds the events carries out in their order. Nothing here does I/O, waits, or reads a clock.
"""
