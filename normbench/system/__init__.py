"""What everything stands on: files, errors, progress, processes and the device."""
