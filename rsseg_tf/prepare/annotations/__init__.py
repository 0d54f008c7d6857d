"""Outlines drawn on single images, in COCO's and labelme's files: read, drawn as labels, and cut into tiles."""
