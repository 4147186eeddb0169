"""The shop's pages: catalogue, cart, checkout, and the page of one's own order. No account is needed."""
