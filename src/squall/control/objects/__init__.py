"""What programs keep between calls: volumes, buckets, secrets, dicts, queues, environments."""
