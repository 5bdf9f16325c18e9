"""Trained models in production: artefact, predictor, export."""
