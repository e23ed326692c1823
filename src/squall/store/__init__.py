"""What must outlive a process: apps, functions, inputs with their outcomes, containers, events; and blobs.

`contract` says what the store promises, `sql` keeps the promise on SQLite, `rows` is what goes in and out. Imports `model`, `wire` and `core`; nothing
outside this room sees SQL.
"""
