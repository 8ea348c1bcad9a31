"""Offline data sources that gin can name."""
