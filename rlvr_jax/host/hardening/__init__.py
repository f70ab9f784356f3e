"""What attacks a reward, how attacks are tried, and the alarms of a run."""
