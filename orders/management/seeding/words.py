"""Who people are in the made-up past, and what they, banks and servers say."""

FIRST_NAMES = (
    "ada amir ana ben carl chloe david elena emil fatima grace hugo ida ivan jana kai lina marco nadia omar "
    "paula rosa samir theo vera"
)
LAST_NAMES = (
    "abbott ahmed baker becker brown castro clark costa dubois evans fischer garcia haas hansen ito jones "
    "keller khan kovac larsen lee lopez martin moreau novak okafor petit ricci rossi santos schmidt silva "
    "smith tanaka thomas vogel walker weber young zhou"
)

CANCEL_REASONS = [
    "Customer changed their mind.",
    "Customer ordered twice by mistake.",
    "Wrong size ordered; a new order follows.",
    "Customer found it cheaper elsewhere.",
    "Delivery would be too late for a birthday.",
    "Wrong address; customer will order again.",
    "Customer asked for another colour.",
    "Damaged in the warehouse, no replacement left.",
    "Suspicious order: address and card do not match.",
    "Customer called: no longer needed.",
]

DECLINES = [
    ("card_declined", "The card was declined."),
    ("card_declined", "The card was declined."),
    ("insufficient_funds", "The card has insufficient funds."),
    ("expired_card", "The card has expired."),
]

OUTAGES = [
    ("GatewayUnavailable", "The gateway answered 503 without a verdict."),
    ("GatewayUnavailable", "The gateway did not answer within 10 s."),
    ("GatewayUnavailable", "The gateway could not be asked: All connection attempts failed"),
]

MAIL_OUTAGES = [
    ("ConnectionRefusedError", "[Errno 111] Connection refused"),
    ("SMTPServerDisconnected", "Connection unexpectedly closed"),
    ("SMTPConnectError", "(421, b'Too many connections, try again later')"),
]

REFUSED_MAIL = "the mail server refuses the recipient for good"

REFUSED_REFUNDS = [
    "The charge is too old to be refunded. (refund_window_closed)",
    "The card's account is closed. (account_closed)",
    "The charge is disputed. (charge_disputed)",
]

SETTLED_BECAUSE = [
    "The card's account is closed; sent back by bank transfer.",
    "The gateway refuses the refund; sent back by bank transfer.",
]

WORKERS = [f"worker-{index}@desk-{host}:{4100 + 7 * index}" for host in "ab" for index in range(1, 5)]
