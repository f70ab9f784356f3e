"""Several processes, one for each host, work on one run.

    place       where this process runs: how many processes there are, and which one this is
    team        the connection between them: small values, and the end of one that all must know
    agreement   refuses processes whose config, code or packages differ
    start       does all of it at the start of a command, and starts `jax.distributed`
    gathering   rows of arrays: those of this process, and all of them in order

Every process runs the same program on one mesh.  Each reads all records, which are small, but
encodes, decodes and scores the rows of its own devices only; what is small is gathered, in the
order of the rows.  The first process writes the files of the run folder, which all of them see.
One process alone is a team of one, which never waits and sends nothing.
"""
