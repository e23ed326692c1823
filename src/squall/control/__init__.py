"""The router (the hot path) and the reconcilers. Applies what `core` decides to agents and the store."""
