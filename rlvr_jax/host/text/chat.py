"""Chat templates: a conversation as the text that a model was trained to read.

Templates are programs from strangers, and run in jinja2's sandbox: no attribute that begins with an
underscore, no change to what they are given, no range longer than 100,000.  What they can see is
what transformers shows them: messages, tokens by name, `raise_exception`, `strftime_now`, `tojson`.
"""

import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox

Message = dict[str, Any]


class TokenizerError(ValueError):
    """A tokenizer, or its chat template, that cannot be trained, read, or used with this config."""


class _Generation(ext.Extension):
    """`{% generation %}`, which marks what the assistant says, changes no text."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def compiled(source: str, where: str) -> Callable[..., str]:
    """A template -> `render(messages, **variables)`.  `where` is its file, for messages.

    Raises TokenizerError if the template is not valid, and on rendering whatever it refuses.
    """
    try:
        template = _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(_refusal("is not valid", where, error.lineno, error)) from None
    except Exception as error:  # too deep, too large, or no text
        raise TokenizerError(_refusal("is not valid", where, None, error)) from None

    def render(messages: Sequence[Message], **variables: Any) -> str:
        try:
            return template.render(messages=messages, **variables)
        except Exception as error:  # a template can raise anything that Python can
            text = _refusal("cannot write these messages", where, _line(error), error)
            raise TokenizerError(text) from None

    return render


def _environment() -> jinja2.Environment:
    env = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, _Generation]
    )
    env.filters["tojson"] = _to_json
    env.globals["raise_exception"] = _raise
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Unlike jinja2's own, this one is for models and escapes nothing for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _line(error: BaseException) -> int | None:
    """The line of the template that raised: the last of its frames in the traceback."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _refusal(what: str, where: str, line: int | None, error: BaseException) -> str:
    at = "" if line is None else f", line {line}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the chat template of {where}{at}, {what}; change it or the messages: {reason}"
