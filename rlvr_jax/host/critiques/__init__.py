"""Generative reward models on the host: their prompts, and what their judgements say.

A judgement is what a generative reward model writes about the responses to a query: criteria with
weights, an analysis of each response, and scores in a box ("Inference-Time Scaling for Generalist
Reward Modeling", arXiv 2504.02495).

    template   the texts around query and responses, read from a file
    prompt     a preference item as the token ids of a prompt
    reader     scores in the text of a judgement
    benchmarks published test sets, read from local files as preference items
    benchmark_reports  the number of each benchmark, by its own rules
"""
