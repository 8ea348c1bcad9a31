"""Replay memories that grow while an agent acts, on the host and on the device."""
