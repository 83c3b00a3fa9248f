"""Small tools that know nothing of pymicro's own things."""
