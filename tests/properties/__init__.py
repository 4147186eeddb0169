import pytest

# A violation is found in these, and must say what it is.
pytest.register_assert_rewrite("tests.properties.day", "tests.properties.machine")
