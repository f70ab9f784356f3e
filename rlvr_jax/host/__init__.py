"""Everything that runs on the host: files, text, tokenizers, clocks, loggers, process pools."""
