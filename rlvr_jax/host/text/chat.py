"""Chat templates, which turn a conversation into the text that a model was trained on.

A template is a program from an untrusted source, so it runs in jinja2's sandbox: it cannot use
attributes that begin with an underscore, cannot change its arguments, and has a limit of work
(`template_work`).  It sees what transformers gives to templates: messages, tokens by name,
`raise_exception`, `strftime_now` and `tojson`.
"""

import datetime
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from jinja2 import ext, nodes

from rlvr_jax.host.text import template_work

Message = dict[str, Any]
# What the chat templates of common families write around a message.  A server or a tokenizer may
# encode it as control tokens, so a text that holds it could open another role.
ROLE_MARKER = re.compile(
    r"<\|[^|\s]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|<<SYS>>", re.I
)


class TokenizerError(ValueError):
    """A tokenizer or chat template cannot be trained, read, or used with the config."""


class _Generation(ext.Extension):
    """The tag `{% generation %}`, which marks the text of the assistant and changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def compile_template(
    source: str, where: str, now: datetime.datetime | None = None
) -> Callable[..., str]:
    """Compile a chat template to a function `render(messages, **variables)`.

    `where` is the file of the template, for error messages; `now` is the time that the template
    sees, by default that of the clock.

    Raises:
      TokenizerError: the template is not valid.  The function raises it if the template refuses the
        messages.
    """
    try:
        template = _environment(now).from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(_refusal("is not valid", where, error.lineno, error)) from None
    except Exception as error:  # too deep, too large, or no text
        raise TokenizerError(_refusal("is not valid", where, None, error)) from None

    def render(messages: Sequence[Message], **variables: Any) -> str:
        try:
            with template_work.limited():
                return template.render(messages=messages, **variables)
        except Exception as error:  # a template can raise anything that Python can
            text = _refusal("cannot write these messages", where, _line(error), error)
            raise TokenizerError(text) from None

    return render


def _environment(now: datetime.datetime | None) -> jinja2.Environment:
    env = template_work.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, _Generation]
    )
    env.add_filter("tojson", _to_json)
    env.globals["raise_exception"] = _raise
    env.globals["strftime_now"] = lambda form: (now or datetime.datetime.now()).strftime(form)
    return env


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Write JSON for a model: jinja2's own filter escapes characters for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _line(error: BaseException) -> int | None:
    """Return the line of the template that raised, from its last frame in the traceback."""
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
