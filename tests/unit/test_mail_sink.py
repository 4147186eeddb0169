"""The mail sink's index: catching a mail costs the same however many were caught before."""

import sys
from pathlib import Path
from typing import Any

from config.embedded.mail_sink import CaughtMail

MAIL = (
    b"From: desk@example.org\r\nTo: =?utf-8?q?Gr=C3=A4ce?= <grace@example.org>\r\n"
    b"Message-ID: <%d@example.org>\r\nSubject: =?utf-8?q?Order_=E2=84=96?= %d\r\n"
    b"X-Folded: one\r\n two\r\n\r\nSubject: not a header\r\n\r\nbody\r\n"
)


def catch(mail: CaughtMail, number: int) -> str:
    return mail.keep(MAIL % (number, number), sender="desk@example.org", recipients=["grace@example.org"])


def test_catching_a_mail_never_lists_the_directory(tmp_path: Path) -> None:
    mail = CaughtMail(tmp_path / "mail")
    listed: list[str] = []
    watched = str(tmp_path)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:  # an audit hook stays for good: it is cheap
        if event in ("os.listdir", "os.scandir") and str(arguments[0]).startswith(watched):
            listed.append(event)

    sys.addaudithook(watch)
    keys = [catch(mail, number) for number in range(3)]
    assert listed == []
    assert mail.read(keys[0]) is not None
    assert listed, "control: the hook sees it when a directory is listed"


def test_what_is_listed_comes_from_the_headers_and_survives_a_restart(tmp_path: Path) -> None:
    mail = CaughtMail(tmp_path / "mail")
    for number in range(3):
        catch(mail, number)
    caught = mail.list_newest_first(to="GRACE@example.org")
    assert {one.subject for one in caught} == {"Order № 0", "Order № 1", "Order № 2"}
    assert {one.message_id for one in caught} == {"<0@example.org>", "<1@example.org>", "<2@example.org>"}
    assert caught[0].headers["X-Folded"] == "one two"
    assert caught[0].headers["To"] == "Gräce <grace@example.org>"
    assert mail.list_newest_first(to="ada@example.org") == []
    catch(mail, 3)  # beside some that were listed already
    again = CaughtMail(tmp_path / "mail")
    assert [one.describe() for one in again.list_newest_first()] == [
        one.describe() for one in mail.list_newest_first()
    ]
    assert len(again.list_newest_first()) == 4
