"""This package handles the run folder and everything that a run writes there.

`settings` turns a YAML file and the command line into a `Config`. `folder` opens the run folder for
that config and says where each file is. During a stage, `stream` supplies the records of its
batches, `log` writes metrics and prints progress, `compiles` counts compilations, and `checkpoint`
saves and restores the state. `report` turns a finished or running folder into one HTML page.
"""
