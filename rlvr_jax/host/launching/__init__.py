"""This package writes the files that start a run on a cluster, and the commands that use them.

`slices` knows how many hosts a topology has, `job` checks what the user asked for, `files` fills
the templates of the folder `jobs/`, and `commands` lists what is to be typed.  Nothing here calls a
cloud: the user runs the commands.
"""
