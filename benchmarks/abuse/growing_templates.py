"""Chat templates that give a text of gigabytes, or run for minutes."""

GROWING = (
    "{{ 'A' * 10**9 }}", "{{ 2 ** 10**9 }}", "{% for i in range(99999999) %}a{% endfor %}",
    "{{ 'a'.ljust(10**9) }}", "{{ 'a'|center(999999999) }}", "{{ '%999999999s' % 'a' }}",
    "{% macro a(n) %}{{ a(n) }}{{ a(n) }}{% endmacro %}{{ a(1) }}", "{% if %}", "a" * 200_000,
    "{% for a in m %}" * 4 + "{% endfor %}" * 4, "{{ ('a'|attr('ljust'))(50000000) }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a ~ a %}" * 30 + "{{ a }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set b = a + a %}{% set a = b + b %}" * 15 + "{{ a }}",
    "{% set x = '" + "a" * 40 + "' %}{% set n = namespace(s='A') %}"
    "{% for c in x %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "{% set a = ['a'] %}" + "{% set a = a + a %}" * 30 + "{{ a|join }}",
    "{% set a = 'aaaaaaaaaaaaaaaa' %}" + "{% set a = a|join(a) %}" * 5 + "{{ a }}",
    "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "d(" * 30 + "'aaaa'" + ")" * 30 + " }}",
    "{% set a %}aaaa{% endset %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 30 + "{{ a }}",
    "{{ '\"\"\"\"'" + "|tojson" * 30 + " }}", "{{ '<<<<'" + "|escape|string" * 20 + " }}",
    "{% set f = '%*d' %}{{ f % (999999999, 1) }}", "{% set f = '%.999999999f' %}{{ f % 1 }}",
    "{% set f = '%' ~ '999999999s' %}{{ f % 'a' }}",
    "{% set a = 'aaaa' %}" + "{% set a = '%s%s'|string % (a, a) %}" * 28 + "{{ a }}",
    "{% set a = 'aaaa' %}" + "{% set a = [a, a]|join %}" * 28 + "{{ a }}",
    "{% set a = 'aaaa' %}" + "{% set a = a ~ (a if a else a) %}" * 28 + "{{ a }}",
)  # fmt: skip
