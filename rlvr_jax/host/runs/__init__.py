"""What a run leaves on disk: its folder, settings, checkpoints, logs and report."""
