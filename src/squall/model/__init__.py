"""The words everyone shares: ids, resources, specs, states, limits and errors. Frozen values, no I/O; imports no other room."""
