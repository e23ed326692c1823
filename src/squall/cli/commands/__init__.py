"""One module for each command of `squall`."""
