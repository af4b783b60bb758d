"""Measurements, one script a bar; each prints both sides of a ratio. See README.md."""
