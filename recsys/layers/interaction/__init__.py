"""How fields interact: factorization machine, dot products, cross networks."""
