"""Evaluation: how predictions are counted, how tiles become scenes again, and what frozen features are worth."""
