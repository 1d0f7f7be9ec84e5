"""The base that every other folder imports: files, errors, progress, processes, the device and the digests of code."""
