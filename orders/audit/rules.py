"""All rules of the auditor, in the order in which they are asked."""

from orders.audit.ledger import LEDGER_RULES
from orders.audit.mail_rules import MAIL_RULES
from orders.audit.money_rules import MONEY_RULES
from orders.audit.orphan_rules import ORPHAN_RULES
from orders.audit.rule import Rule
from orders.audit.saga_rules import SAGA_RULES
from orders.audit.stock_rules import STOCK_RULES
from orders.audit.temporal import SAGA_MISSING

# Asked of one snapshot of the database.
BOOK_RULES: tuple[Rule, ...] = (*STOCK_RULES, *MONEY_RULES, *MAIL_RULES, *SAGA_RULES, *ORPHAN_RULES)
RULES: dict[str, Rule] = {rule.name: rule for rule in (*BOOK_RULES, SAGA_MISSING, *LEDGER_RULES)}
