"""Preparation: from a dataset's archives to tiles and lists."""
