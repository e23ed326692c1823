"""What programs keep between calls: volumes, dicts, queues, secrets, environments."""
