"""Switches of the tests inside real processes: points where an attempt is held, and guards taken away.

A Django app that only `tests.switches.settings` installs. The application knows nothing of it, the image does
not contain it, and it refuses to load beside any database but a test's.
"""
