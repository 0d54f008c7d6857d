"""Images and scenes: how their pixels are read and written, and where on the ground they lie."""
