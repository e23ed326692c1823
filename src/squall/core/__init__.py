"""The pure decisions: functions of (state, now) -> plan, without I/O, clock or randomness. Imports only `model`."""
