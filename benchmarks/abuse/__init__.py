"""A benchmark of abuse: what happens to hostile, damaged and odd input, and to interrupted work.

One file per chapter of abuse. Each has a function ``abuse(effort, folder)``, which returns a
``Row`` per kind of abuse. ``python -m abuse`` runs them all. ``tests/test_abuse.py`` runs a short
form.
"""
