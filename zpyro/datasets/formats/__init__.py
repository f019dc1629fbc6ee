"""Readers of foreign file formats: audio, idx and MATLAB images, text, archives."""
