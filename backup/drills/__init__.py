"""Attack the product with what an attacker would hold. No backup uses it."""
