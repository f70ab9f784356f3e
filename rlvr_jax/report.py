"""Turn a run folder into one offline page: `python -m rlvr_jax.report RUN_FOLDER`."""

import signal

if __name__ == "__main__":  # the imports take seconds: Ctrl-C ends them without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)


from rlvr_jax.host.report.command import main

if __name__ == "__main__":
    raise SystemExit(main())
