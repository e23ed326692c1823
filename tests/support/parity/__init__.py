"""Compares the names, members, parameters and defaults of Modal's client with what Squall gives in their place: `docs/modal-parity.md`."""
