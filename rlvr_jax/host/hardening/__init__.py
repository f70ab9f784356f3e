"""This package tries to fool a reward before a run, and watches for reward hacking during it.

`attacks` makes completions of which it is known whether a reward has to accept them. An audit
scores them with the reward, and `trials` summarises the results and compares them with the limits
of the config.  `persuasion` and `preferences` do the same for generative reward models, which
prefer one response to another.  `alarms` looks in the metrics of a running rl stage for signs of
reward hacking.
"""
