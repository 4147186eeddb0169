"""Wrong passwords lock a log-in: in every process, by name and address, and for the time it says."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest
from axes.models import AccessAttempt, AccessLog
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Sum
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.e2e.doors import LIST, PASSWORD, log_in, make_user
from tests.web import serving

LOG_IN = "/admin/login/"
LIMIT = 5
THREADS = 4  # of each web process
UNLOCK = reverse("admin:axes_accessattempt_changelist")


def count_checked() -> int:
    """The wrong passwords that were looked at: what is refused before that is not counted."""
    return AccessAttempt.objects.aggregate(sum=Sum("failures_since_start"))["sum"] or 0


def let_time_pass() -> None:
    """As if the cool-off were over."""
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(seconds=901))


# --- real processes ---------------------------------------------------------------------------------------


def try_log_in(address: str, password: str, name: str = "ada") -> httpx.Response:
    """A log-in as a browser does it: the form first, for its token."""
    with httpx.Client(base_url=address, timeout=60) as browser:
        browser.get(LOG_IN)
        form = {"username": name, "password": password}
        return browser.post(LOG_IN, data={**form, "csrfmiddlewaretoken": browser.cookies["csrftoken"]})


@pytest.mark.parametrize("limit", [LIMIT, 1000])
def test_parallel_guesses_are_refused_in_every_process(transactional_db: None, limit: int) -> None:
    """With a limit that is out of reach as the control: then all are looked at, and the password works."""
    make_user("ada", staff=True)
    guesses = 32
    with ExitStack() as stack, ThreadPoolExecutor(guesses) as guessers:
        addresses = [
            stack.enter_context(serving(workers=1, threads=THREADS, LOGIN_FAILURE_LIMIT=str(limit)))
            for _ in range(2)
        ]
        answers = list(
            guessers.map(lambda n: try_log_in(addresses[n % 2], f"guess-{n}").status_code, range(guesses))
        )
        checked = count_checked()
        if limit > guesses:
            assert (answers, checked) == ([200] * guesses, guesses)
            assert try_log_in(addresses[0], PASSWORD).status_code == 302
            return
        # The limit is looked up before a password is checked and counted after it. What is on its way at
        # the same moment can get past it: one request for each thread, less the one that reaches the limit.
        assert limit <= checked <= limit - 1 + len(addresses) * THREADS
        assert set(answers) <= {200, 429}
        assert answers.count(200) < limit
        for address in addresses:
            refused = try_log_in(address, PASSWORD)
            assert refused.status_code == 429
            assert 0 < int(refused.headers["Retry-After"]) <= 900
            assert try_log_in(address, "one more guess").status_code == 429
        assert count_checked() == checked
        let_time_pass()
        for address in addresses:
            assert try_log_in(address, PASSWORD).status_code == 302


# --- what is counted, and for whom -------------------------------------------------------------------------


def guess(name: str = "ada", password: str = "wrong", **headers: str) -> Any:
    return Browser().post(LOG_IN, {"username": name, "password": password}, **headers)  # type: ignore[arg-type]


def lock(name: str = "ada", **headers: str) -> Any:
    """Guess until the log-in is locked; gives the last answer."""
    answers = [guess(name, **headers) for _ in range(LIMIT)]
    assert [answer.status_code for answer in answers] == [200] * (LIMIT - 1) + [429]
    return answers[-1]


def test_a_locked_log_in_says_so_and_for_how_long(db: None) -> None:
    make_user("ada", staff=True)
    lock()
    refused = guess(password=PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 900
    page = refused.content.decode()
    assert "This log-in is locked: too many wrong passwords." in page
    assert "Traceback" not in page
    assert "_auth_user_id" not in refused.wsgi_request.session
    assert Browser().get(LOG_IN).status_code == 200  # for somebody else at the same desk
    let_time_pass()
    assert guess(password=PASSWORD).status_code == 302


def test_only_this_name_from_this_address_is_locked(db: None) -> None:
    make_user("ada", staff=True)
    make_user("grace", staff=True)
    lock()
    assert guess("grace", PASSWORD).status_code == 302
    assert guess("ada", PASSWORD, REMOTE_ADDR="192.0.2.7").status_code == 302
    assert guess("ada", PASSWORD).status_code == 429
    assert guess("ada", PASSWORD, HTTP_USER_AGENT="another browser").status_code == 429


def test_guesses_from_changing_browsers_are_counted_together(db: None) -> None:
    make_user("ada", staff=True)
    answers = [guess(HTTP_USER_AGENT=f"browser {n}").status_code for n in range(LIMIT)]
    assert answers == [200] * (LIMIT - 1) + [429]


def test_the_right_password_forgets_the_wrong_ones(db: None) -> None:
    make_user("ada", staff=True)
    for _ in range(3):
        for _ in range(LIMIT - 1):
            assert guess().status_code == 200
        assert guess(password=PASSWORD).status_code == 302
    assert count_checked() == 0


def test_trying_while_locked_does_not_make_it_longer(db: None) -> None:
    lock()
    began = timezone.now() - timedelta(seconds=600)
    AccessAttempt.objects.update(attempt_time=began)
    assert guess().status_code == 429
    attempt = AccessAttempt.objects.get()
    assert (attempt.attempt_time, attempt.failures_since_start) == (began, LIMIT)


def test_names_that_do_not_exist_get_the_same_answers(db: None) -> None:
    make_user("ada", staff=True)
    make_user("grace", staff=True).user_permissions.clear()
    User.objects.filter(username="grace").update(is_active=False)
    names = ("ada", "grace", "nobody")
    told = [re.findall(r'errornote">(.*?)</p>', guess(name).content.decode(), re.S) for name in names]
    assert told[0]
    assert told[0] == told[1] == told[2]
    AccessAttempt.objects.all().delete()
    for name in names:
        lock(name)
    AccessAttempt.objects.update(attempt_time=timezone.now())
    pages = [guess(name, PASSWORD) for name in names]
    assert {page.status_code for page in pages} == {429}
    assert pages[0].content == pages[1].content == pages[2].content


def test_no_password_is_kept(db: None) -> None:
    make_user("ada", staff=True)
    guess(password="secret-guess")
    guess(password="secret-guess", HTTP_USER_AGENT="x")
    guess(password=PASSWORD)
    guess("nobody", "secret-guess")
    kept = str(list(AccessAttempt.objects.values()))
    assert "nobody" in kept
    assert "secret" not in kept
    assert PASSWORD not in kept
    assert not AccessLog.objects.exists()


@pytest.mark.parametrize(
    ("name", "status"),
    [("\0", 200), ("a\nb", 200), ("x" * 5000, 200), ("", 200), ("İ" * 150, 200), ("'; --", 200)],
)
def test_odd_names_are_refused_like_any_other(db: None, name: str, status: int) -> None:
    assert guess(name).status_code == status


# --- whose address -----------------------------------------------------------------------------------------


def test_without_a_proxy_nobody_chooses_his_address(db: None) -> None:
    make_user("ada", staff=True)
    answers = [guess(HTTP_X_FORWARDED_FOR=f"192.0.2.{n}").status_code for n in range(LIMIT)]
    assert answers == [200] * (LIMIT - 1) + [429]


def test_behind_a_proxy_the_last_hop_counts(db: None, settings: Any) -> None:
    settings.BEHIND_PROXY = True
    make_user("ada", staff=True)
    answers = [
        guess(HTTP_X_FORWARDED_FOR=f"10.0.0.{n}, 192.0.2.1", REMOTE_ADDR=f"172.16.0.{n}").status_code
        for n in range(LIMIT)
    ]
    assert answers == [200] * (LIMIT - 1) + [429]
    assert set(AccessAttempt.objects.values_list("ip_address", flat=True)) == {"192.0.2.1"}
    assert guess(password=PASSWORD, HTTP_X_FORWARDED_FOR="192.0.2.1, 192.0.2.2").status_code == 302


@pytest.mark.parametrize(
    ("forwarded", "peer", "counted"),
    [
        ("garbage", "127.0.0.1", "127.0.0.1"),
        ("192.0.2.1,", "127.0.0.1", "127.0.0.1"),
        ("", "127.0.0.1", "127.0.0.1"),
        ("fe80::1%eth0", "127.0.0.1", "fe80::1"),
        ("2001:db8::7", "", "2001:db8::7"),
        ("", "", "0.0.0.0"),  # noqa: S104
    ],
)
def test_odd_addresses_are_counted_all_the_same(
    db: None, settings: Any, forwarded: str, peer: str, counted: str
) -> None:
    settings.BEHIND_PROXY = True
    headers = {"REMOTE_ADDR": peer, **({"HTTP_X_FORWARDED_FOR": forwarded} if forwarded else {})}
    lock(**headers)
    assert set(AccessAttempt.objects.values_list("ip_address", flat=True)) == {counted}


# --- what it leaves alone, and unlocking -----------------------------------------------------------------


def test_pages_and_the_api_pay_nothing_for_it(counter: None) -> None:
    boss = log_in("boss", superuser=True)
    with CaptureQueriesContext(connection) as queries:
        assert boss.get(LIST).status_code == 200
        for _ in range(LIMIT + 1):
            answer = Browser().get("/api/v1/orders/", headers={"authorization": "Token wrong"})
            assert answer.status_code == 401
    assert queries.captured_queries
    assert [query["sql"] for query in queries if "axes_" in query["sql"]] == []
    assert count_checked() == 0


def test_a_superuser_unlocks_a_log_in(db: None) -> None:
    make_user("ada", staff=True)
    lock()
    guess(HTTP_USER_AGENT="another browser")
    guess("grace")
    boss = log_in("boss", superuser=True)
    locked = boss.get(UNLOCK, {"locked": "1"}).context["cl"].result_list
    assert [attempt.username for attempt in locked] == ["ada"]
    assert [row.username for row in boss.get(UNLOCK, {"locked": "0"}).context["cl"].result_list] == ["grace"]
    chosen = {"action": "unlock", "_selected_action": [locked[0].pk], "index": "0"}
    answer = boss.post(f"{UNLOCK}?locked=1", chosen, follow=True)
    assert "Unlocked: ada from 127.0.0.1." in answer.content.decode()
    assert list(AccessAttempt.objects.values_list("username", flat=True)) == ["grace"]
    assert guess(password=PASSWORD).status_code == 302


def test_only_superusers_unlock(db: None) -> None:
    lock()
    clerk = log_in("clerk", "view_accessattempt", "change_accessattempt", "delete_accessattempt")
    chosen = {"action": "unlock", "_selected_action": [AccessAttempt.objects.get().pk], "index": "0"}
    assert clerk.post(UNLOCK, chosen).status_code == 403
    assert guess(password=PASSWORD).status_code == 429


def test_every_answer_carries_the_policy(db: None) -> None:
    lock()
    for answer in (guess(), Browser().get("/"), Browser().get("/nowhere"), Browser().get("/healthz")):
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "geolocation=()" in answer.headers["Permissions-Policy"]
