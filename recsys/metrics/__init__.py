"""Metrics of probabilities: ranking quality, likelihood, calibration."""
