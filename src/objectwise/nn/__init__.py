"""Layers and densities that at least two papers share."""
