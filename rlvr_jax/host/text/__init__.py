"""Text: from records and conversations to token ids, and from token ids to final answers.

    record -> template (prompts around questions and answers) -> chat (the model's chat template)
           -> tokenizer (ids) -> token columns of a step

On the way back, `tokenizer` decodes a response and `answers` extracts its final answer.
"""
