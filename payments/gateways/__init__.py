"""Payment gateways: the protocol every gateway keeps, and the sandbox that implements it."""
