"""Diffusion models for image classification: four papers, one small library."""

__version__ = "0.1.0"
