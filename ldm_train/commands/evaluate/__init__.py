"""Measure a trained run, a folder of pictures, or a published pipeline."""
