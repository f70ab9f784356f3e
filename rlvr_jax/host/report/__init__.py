"""The report of runs: records of a run folder -> the data of a page -> files without a network."""
