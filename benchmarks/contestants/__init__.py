"""Programs that all do the same work and are told by lines of JSON how much of it. Each runs as a process of its own."""
