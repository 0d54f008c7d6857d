"""A user's own scenes and labels: polygons or rasters of classes become tiles with a split on the ground."""
