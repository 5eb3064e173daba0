"""The chat template of a checkpoint may copy texts, and nothing that fills memory."""

import time
from pathlib import Path

import pytest

from metaembed_lite import backbones, checkpoints
from metaembed_lite.chat_templates import check_template


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'A' * 10**9 }}", "{{ 2 ** 10**9 }}", "{% for i in range(99999999) %}a{% endfor %}",
        "{{ '%999999999s' % 'a' }}", "{{ '%999999999s'|format('a') }}", "{{ 'a'.ljust(10000000) }}",
        "{{ 'a'|center(999999999) }}", "{{ '{:999999999}'.format('a') }}", "{% if %}",
        "a" * 200_000, "{{ 'a'" + ".replace('a', 'aaaaaaaaaa')" * 12 + " }}",
        "{% for a in 'xxxxxxxxxx' %}a{% endfor %}", "{% for a in m %}" * 4 + "{% endfor %}" * 4,
        "{% macro a(n) %}{{ a(n) }}{{ a(n) }}{% endmacro %}{{ a(1) }}",
        "{{ 'a'['ljust'](50000000) }}", "{{ ('a'|attr('ljust'))(50000000) }}",
        "{% set r = range %}{{ r(99999) }}", "{% set f='%50000000s' %}{{ f % 'a' }}",
        "{{ lipsum(n=1000000) }}", "{{ ['a']|batch(500000000, 'x')|list }}",
        "{{ ['a']|map('center', 50000000)|list }}", "{{ 'a'|tojson(indent=50000000) }}",
        "{{ 'a'|slice(500000000)|list }}", "{% set f = '%*d' %}{{ f % (999999999, 1) }}",
        "{% set a = 'aa' %}" + "{% set a = a ~ a %}" * 30, "{{ '\"\"'" + "|tojson" * 30 + " }}",
        "{% set n = namespace(s='A') %}{% for c in m %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "d(" * 30 + "'a'" + ")" * 30 + " }}",
        "{% set a = 'aaaa' %}" + "{% set a = a|join(a) %}" * 5,
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_template_that_could_fill_memory_is_refused_at_once(template):
    started = time.process_time()
    with pytest.raises(ValueError, match=r"^chat\.jinja.*chat template"):
        check_template(template, Path("chat.jinja"))
    assert time.process_time() - started < 5


def test_templates_in_use_are_not_refused():
    used = [
        (checkpoints.HERE / "tiny-vlm" / "chat_template.jinja").read_text(),
        *backbones.CHAT_TEMPLATES.values(),
        "{%- for m in messages %}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% generation %}{{ m['content'] | "
        "trim }}{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
        "{%- set n = namespace(i=0, text='') %}{%- for m in messages %}{%- for p in m['content'] %}"
        "{%- set n.text = n.text ~ p['text'] ~ '\\n' %}{%- set n.i = n.i + 1 %}{%- endfor %}"
        "{%- set t = n.text.split('</think>')[-1].lstrip('\\n') %}"
        "{{ t if n.i % 2 else t|tojson }}{%- endfor %}",
    ]
    for template in used:
        check_template(template, Path("chat_template.jinja"))
