"""Apps as programs declare, run and deploy them."""
