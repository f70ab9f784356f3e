"""A chat template ends soon, whatever it says, and what real templates do works as in jinja2."""

import sys
import time

import jinja2
import pytest

from rlvr_jax.host.text.chat import TokenizerError, compile_template

HUGE = "10000000000"
ENDLESS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a filter of ranges": "{% for a in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "a macro of itself": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(40) }}",
    "a doubling text": "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a doubling sum": "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "a doubling block": "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "a doubling number": "{% set n = namespace(x=99) %}{% for i in range(60) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}",
    "a doubling list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "a product": f"{{{{ 'x' * {HUGE} }}}}",
    "a list": f"{{{{ ['x'] * {HUGE} }}}}",
    "a power": "{{ 10 ** 100000000 }}",
    "a wide field": f"{{{{ '%{HUGE}d' % 3 }}}}",
    "a wide format": f"{{{{ '{{:{HUGE}}}'.format(3) }}}}",
    "a wide filter": f"{{{{ '%{HUGE}d' | format(3) }}}}",
    "a method": f"{{{{ 'x'.center({HUGE}) }}}}",
    "a filter": f"{{{{ 'x' | center({HUGE}) }}}}",
    "an indent": f"{{{{ [1] | tojson(indent={HUGE}) }}}}",
    "replaced": "{{ ('x' * 9000000) | replace('x', 'y' * 9000000) }}",
    "a replacing method": "{{ ('x' * 9000000).replace('x', 'y' * 9000000) }}",
    "joined": "{{ ('x' * 9000000) | join('y' * 9000000) }}",
    "a long output": "{% for a in range(99999) %}{{ 'x' * 9000000 }}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_refused(name):
    began = time.process_time()
    with pytest.raises(TokenizerError, match="the chat template of here"):
        compile_template(ENDLESS[name], "here")([])
    assert time.process_time() - began < 8
    assert sys.gettrace() is None or "limited" not in str(sys.gettrace())


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ loop.index ~ m.role ~ ': ' + m.content | trim }}{% endfor %}",
        "{% for m in messages %}{{ loop.last }}{{ loop.length }}{% endfor %}",
        "{{ '**%s**-%03d 12345678' % ('a', 7) }}{{ '{:>5}'.format(3) }}{{ 7 * 6 + 2 ** 5 % 7 }}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ 'a' * 3 }}{{ [1] * 2 + [3] }}",
        "{% set x %}a{{ 1 }}{% endset %}{{ x }}{{ missing ~ '' }}{{ none ~ true ~ 1.5 }}",
        "{{ messages[-1].content.split('x')[0].strip() | replace('h', 'j') | upper }}",
        "{% macro m(a, b=2) %}{{ a }}/{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=3) }}",
        "{{ 'abc' | indent(2) }}{{ 'x' | center(7) }}{{ range(3) | list }}{{ 3.5 * 2 }}",
    ],
)
def test_what_ends_is_written_as_jinja2_writes_it(text):
    messages = [{"role": "user", "content": " hix "}, {"role": "assistant", "content": "ho"}]
    assert compile_template(text, "x")(messages) == jinja2.Template(text).render(messages=messages)


def test_a_long_conversation_is_within_the_limits():
    text = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n{% endfor %}"
    messages = [{"role": "user", "content": "x" * 1000}] * 2000
    assert len(compile_template(text, "x")(messages)) > 2_000_000
