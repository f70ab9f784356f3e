"""Text and token ids: tokenizers, chat templates, prompts and final answers."""
