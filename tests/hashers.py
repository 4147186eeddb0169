"""Passwords for tests: nobody wants these, and a real hash takes longer than all the rest of most tests."""

from django.contrib.auth.hashers import PBKDF2PasswordHasher


class QuickHasher(PBKDF2PasswordHasher):
    """The shop's own algorithm, so that a web process checks these hashes too, with fewer rounds."""

    iterations = 100
