"""Episodes on disk, windows on the device, importers and a look inside. Only `windows` needs torch."""
