"""Turn a run folder into one offline page: `python -m rlvr_jax.report RUN_FOLDER`."""

from rlvr_jax.host.runs.report import main

if __name__ == "__main__":
    raise SystemExit(main())
