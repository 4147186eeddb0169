"""Sessions in the database, as Django's, with keys that can only be ours and a save that is under a lock."""

import re

from django.contrib.sessions.backends import db

# What Django makes. The database refuses some other texts, such as one with a NUL.
OUR_KEY = re.compile(r"[a-z0-9]{32}")


class SessionStore(db.SessionStore):
    """A session with a key that cannot be ours is a new one."""

    _kept: tuple[str | None, bytes] | None = None

    def _validate_session_key(self, key: str | None) -> bool:
        return key is not None and OUR_KEY.fullmatch(key) is not None

    def keep(self) -> None:
        """Save now, while the caller has the session's row locked. The session stays `modified`: so the
        middleware sends its cookie, which renews it, and saves no more unless something changes again."""
        self.save()
        self._kept = self._read_state()

    def save(self, must_create: bool = False) -> None:
        """As Django's; nothing is done for what was kept as it is."""
        if must_create or self._kept is None or self._kept != self._read_state():
            super().save(must_create)

    def _read_state(self) -> tuple[str | None, bytes]:
        return self.session_key, self.serializer().dumps(dict(self.items()))
