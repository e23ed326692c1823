"""What the command line shows: progress, listings, errors."""
