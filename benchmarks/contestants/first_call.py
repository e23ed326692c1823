"""A user's whole program: import, run, one call, its value on stdout. Timed from outside, interpreter and all."""

from benchmarks.contestants import program

with program.app.run():
    print(program.square.remote(12), flush=True)
    facts = program.square.remote(-1)
print(facts["container"], facts["pid_namespace"], flush=True)
