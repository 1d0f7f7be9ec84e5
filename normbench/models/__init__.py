"""Network architectures, which build their layers through the hooks of a method. One file per architecture."""
