"""Which real services can the tests start? Each module here starts and stops one of them."""
