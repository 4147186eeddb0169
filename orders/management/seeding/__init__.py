"""A made-up past for a developer's database: what happened, as rows, copied in chunks."""
