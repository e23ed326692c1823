"""The user's program as the command line loads it: files, modules, entrypoints, their flags."""
