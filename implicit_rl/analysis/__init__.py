"""Logs to statistics to figures; reads files only."""
