"""The dashboard: a client of the RPCs, nothing of its own."""
