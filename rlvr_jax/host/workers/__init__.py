"""Run work that could hang, crash or do harm in processes that may be killed.

    pool       worker processes that call functions of this package, within a time limit
    worker     the process of one worker
    processor_time   the limit of a job: what it uses, whatever else the machine does
    sandbox    one program that a model wrote, run with limits and without access to anything
    scratch    temporary folders, and the removal of those that killed processes left
    jail       the process of one such program, before it becomes the program

A completion is graded in three steps: a rule makes a `pool.Job`, which names a function and its
arguments; a free worker calls the function; the result is a score in [0, 1] with a status (ok,
none, timeout, crash, error).  Whatever goes wrong scores 0.0 and is counted.  Nothing in this
folder knows a rule: jobs name their functions by dotted name.
"""
